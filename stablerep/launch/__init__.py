"""A training job as plain data, what runs it, and the wait for its end.

A `TrainingJob` says what to run; a `Backend` (TorchX on this machine today, a cluster's scheduler tomorrow) says where; `run_job` submits,
streams the log, keeps the deadline and stops the job when its launcher is asked to stop. No launcher leaves processes behind: on this
machine they are on a `leash`.
"""

from stablerep.launch.job import Backend, JobState, TrainingJob, dry_run
from stablerep.launch.leash import Leash, follow, hold, leash_folder
from stablerep.launch.signals import stop_signals
from stablerep.launch.watch import JobEnd, last_lines, run_job

__all__ = [
    "Backend",
    "JobEnd",
    "JobState",
    "Leash",
    "TrainingJob",
    "dry_run",
    "follow",
    "hold",
    "last_lines",
    "leash_folder",
    "run_job",
    "stop_signals",
]
