"""Training turns losses into a checkpoint: schedule, engine, step, loop, checkpoints that are committed or not there, history, curves.

`train` (in `loop`) runs in each process of the job. Everything is keyed by the step (data, random numbers, learning rate, history),
so that a run that was killed and continued is the run that was never stopped. Importing this package imports nothing heavy: torch is
imported by `engine`, `objective`, `processes` and `loop`, DeepSpeed by `deepspeed_engine` alone. Paper, section 4 and appendix.
"""
