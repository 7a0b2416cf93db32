"""pretrain on this machine: one attempt under TorchX, on a leash, followed through the store.

What the job leaves in the store (`failure.json`) decides the error that is raised; its log is the rest of the message.
"""

import signal
import sys
import uuid
from dataclasses import replace

from tqdm import tqdm

from stablerep.errors import LaunchError, Preempted
from stablerep.identity import canonical_json
from stablerep.launch import ATTEMPT_VARIABLE, JobEnd, JobState, Watcher, dry_run, hold, last_lines, leash_folder, run_job, stop_signals
from stablerep.stages.context import Stage
from stablerep.stages.pretrain_follow import JOB_KEY, Follower, count_divergence, last_step, log_folder
from stablerep.stages.pretrain_run import LEASH_VARIABLE, RunConfig, training_job
from stablerep.store import Store
from stablerep.training.state import read_failure


def train(stage: Stage, plan: RunConfig, runs: Store) -> None:
    """Run the job here; returns when it ended well.

    Raises:
        StablerepError: of the class that ended the training processes; LaunchError with the tail of their log where they left none.
    """
    from stablerep.integrations.torchx_app import TorchxLocal

    attempt = uuid.uuid4().hex[:12]
    job = training_job(plan, stage.store.uri)
    with TorchxLocal() as backend, stop_signals(signal.SIGTERM, signal.SIGINT) as is_stop_asked:
        runs.write(JOB_KEY, canonical_json(dry_run(job, backend)))
        with hold(leash_folder(runs.uri), attempt) as leash, log_folder(runs, attempt) as logs:
            if is_stop_asked():
                raise Preempted(f"run {runs.uri}: stopped as asked before it started; run again to continue")
            with Follower(stage.reporter, runs, attempt, plan.pretrain.num_steps, last_step(plan, runs)) as follower:
                watcher = Watcher(
                    on_line=lambda line: tqdm.write(line, file=sys.stderr),
                    on_tick=follower.look,
                    on_state=follower.state,
                    is_stop_asked=is_stop_asked,
                    ask_to_stop=lambda handle: leash.ask_to_stop(),
                )
                here = {ATTEMPT_VARIABLE: attempt, LEASH_VARIABLE: str(leash.folder)}
                end = run_job(replace(job, environment={**job.environment, **here}), backend, logs, watcher)
    if end.state is not JobState.SUCCEEDED:
        _raise_failure(stage, runs, attempt, end)


def _raise_failure(stage: Stage, runs: Store, attempt: str, end: JobEnd) -> None:
    failure = read_failure(runs, attempt)
    if failure is None and end.is_stopped:
        raise Preempted(f"run {runs.uri}: stopped as asked before it could save; run again to continue from its last checkpoint")
    tail = last_lines(end.tail)
    killed = any("SIGKILL" in line for line in end.tail)
    hint = "; a process was killed from outside, most often for want of memory: lower pretrain.captions_per_batch" if killed else ""
    if failure is None:
        raise LaunchError(f"run {runs.uri}: the training job ended as {end.state.value} after {end.seconds:.0f} s{hint}{tail}")
    count_divergence(stage.reporter, failure)
    is_known = failure.error != LaunchError.__name__
    (failure if is_known else replace(failure, message=f"{failure.message}{hint}{tail}")).raise_again()
