"""pretrain: start the training job, follow it, and say how it ended (paper, section 4).

Runs again, it returns a finished run at once, else continues from the newest committed checkpoint. Whatever ends the job ends this stage
with the same error and exit code. SIGTERM lets the job save first (exit 75); SIGKILL leaves nothing running.
"""

import signal
import sys
import uuid
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from stablerep.errors import DivergenceError, LaunchError, Preempted
from stablerep.identity import canonical_json
from stablerep.launch import JobEnd, JobState, dry_run, hold, last_lines, leash_folder, run_job, stop_signals
from stablerep.records import CheckpointRef, DatasetRef
from stablerep.stages.context import Stage, open_stage
from stablerep.stages.pretrain_follow import Follower, log_folder, write_curves
from stablerep.stages.pretrain_run import (
    ATTEMPT_VARIABLE,
    COMPLETE_KEY,
    CONFIG_KEY,
    CURVES_KEY,
    LEASH_VARIABLE,
    RunConfig,
    checkpoint_ref,
    find_complete,
    find_final,
    plan_run,
    training_job,
)
from stablerep.store import Store
from stablerep.training.checkpoint import Checkpoints
from stablerep.training.state import read_failure


def run(recipe: str, overrides: str, store: str, *, dataset: str, curves_path: str = "") -> CheckpointRef:
    """Train on a data set.

    Args:
        recipe: name of a recipe.
        overrides: `section.key=value` words.
        store: URI of the store.
        dataset: record of `commit`.
        curves_path: where to copy the page of curves to, or empty.

    Raises:
        StablerepError: of the class that ended the training processes; LaunchError with the tail of their log where they left none.
    """
    with open_stage("pretrain", recipe, overrides, store) as stage:
        plan = plan_run(recipe, stage.recipe.pretrain, DatasetRef.from_json(dataset))
        stage.reporter.report("stablerep_run_info", 1, stage="pretrain", id=plan.run_key)
        runs = stage.store.at(plan.prefix)
        done = find_complete(plan, runs)
        if done is None:
            runs.write(CONFIG_KEY, plan.to_json())
            try:
                if find_final(plan, runs) is None:
                    _train(stage, plan, runs)
            finally:
                write_curves(plan, runs)
            final = find_final(plan, runs)
            if final is None:
                raise LaunchError(f"run {plan.run_key}: the job ended well but left no final checkpoint in {runs.uri}; run again")
            done = checkpoint_ref(final, runs)
            runs.write(COMPLETE_KEY, done.to_json())
        if curves_path:
            Path(curves_path).write_bytes(runs.read(CURVES_KEY))
        return done


def _train(stage: Stage, plan: RunConfig, runs: Store) -> None:
    from stablerep.integrations.torchx_app import TorchxLocal

    attempt = uuid.uuid4().hex[:12]
    job = training_job(plan, stage.store.uri)
    with TorchxLocal() as backend, stop_signals(signal.SIGTERM, signal.SIGINT) as is_stop_asked:
        runs.write("job.json", canonical_json(dry_run(job, backend)))
        with hold(leash_folder(runs.uri), attempt) as leash, log_folder(runs, attempt) as logs:
            if is_stop_asked():
                raise Preempted(f"run {runs.uri}: stopped as asked before it started; run again to continue")
            start = max(Checkpoints(runs, plan.run_key, plan.fingerprint).committed_steps(), default=0)
            with Follower(stage.reporter, runs, attempt, plan.pretrain.num_steps, start) as follower:
                end = run_job(
                    replace(job, environment={**job.environment, ATTEMPT_VARIABLE: attempt, LEASH_VARIABLE: str(leash.folder)}),
                    backend,
                    logs,
                    on_line=lambda line: tqdm.write(line, file=sys.stderr),
                    on_tick=follower.look,
                    is_stop_asked=is_stop_asked,
                    ask_to_stop=leash.ask_to_stop,
                )
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
    if failure.error == DivergenceError.__name__:
        stage.reporter.report("stablerep_training_nonfinite_total", 1)
    is_known = failure.error != LaunchError.__name__
    (failure if is_known else replace(failure, message=f"{failure.message}{hint}{tail}")).raise_again()
