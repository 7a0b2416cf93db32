"""pretrain on a cluster: the job is submitted or adopted, followed through API server and store, and repeated after a preemption.

Imports no torch: it runs in the small `launch` image. STABLEREP_TRAIN_IMAGE names the image of the training processes where launch.image
does not. What the processes left in the store decides the error; where they left none, what the pods left does.
"""

import logging
import os
import signal
import sys
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace

import yaml
from tqdm import tqdm

from stablerep.cluster import ClusterApi
from stablerep.config.schema import LaunchConfig
from stablerep.errors import ConfigError, LaunchError, Preempted, StablerepError
from stablerep.identity import canonical_json
from stablerep.launch import JobEnd, JobState, TrainingJob, Watcher, dry_run, run_job, stop_signals
from stablerep.launch.cluster import ClusterBackend
from stablerep.launch.followed import Patience
from stablerep.launch.kinds import TrainJobKind, VolcanoKind
from stablerep.launch.prompt import PromptDeletion
from stablerep.launch.runtime import check_runtime
from stablerep.stages.context import Stage
from stablerep.stages.pretrain_follow import JOB_KEY, LOG_NAME, Follower, count_divergence, last_step, log_folder
from stablerep.stages.pretrain_run import RunConfig, budgets, training_job
from stablerep.store import Store
from stablerep.training.state import RunFailure, read_failure

log = logging.getLogger("stablerep")

DOCUMENT_KEY = "job.yaml"
IMAGE_VARIABLE = "STABLEREP_TRAIN_IMAGE"


@dataclass(frozen=True)
class Pace:
    """How often and how long to look; tests look more often."""

    poll_seconds: float = 2.0
    patience: Patience = field(default_factory=Patience)


def train(stage: Stage, plan: RunConfig, runs: Store, pace: Pace | None = None) -> None:
    """Run the job on the cluster; returns when it ended well.

    Args:
        stage: open.
        plan: the run.
        runs: its prefix.
        pace: how often to look.

    Raises:
        ConfigError: no image, a store that pods cannot reach, a job of other settings is alive, or the memory did not suffice.
        Preempted: stopped as asked, or taken from its nodes more often than launch.max_preemptions.
        StablerepError: of the class that ended the training processes, else LaunchError with what the pods left.
    """
    from stablerep.integrations.kubernetes_api import connect
    from stablerep.integrations.torchx_app import describe

    launch, pace = stage.recipe.launch, pace or Pace()
    _check_store(stage.store, launch)
    job = training_job(plan, stage.store.uri, launch, _image(launch))
    kind, document = _kind(launch)
    with connect(launch.namespace) as api, connect(launch.namespace, budget_seconds=2.0, read_seconds=1.0) as prompt_api:
        deletion = PromptDeletion(prompt_api, kind, launch.namespace)
        with (
            stop_signals(signal.SIGTERM, signal.SIGINT, at_once=deletion) as is_stop_asked,
            closing(deletion),
            ClusterBackend(api, kind, document, launch.namespace, pace.patience) as backend,
        ):
            runs.write(JOB_KEY, canonical_json(describe(job)))
            attempts = Attempts(stage, plan, runs, api, backend, deletion, is_stop_asked, pace.poll_seconds)
            for left in range(launch.max_preemptions, -1, -1):
                error = attempts.run_one(job)
                if error is None:
                    return
                if not isinstance(error, Preempted) or not left or is_stop_asked():
                    raise error
                stage.reporter.report("stablerep_launch_preemptions_total", 1)
                log.warning("%s\nanother attempt follows, launch.max_preemptions allows %d more", error, left - 1)


@dataclass(frozen=True)
class Attempts:
    """What every attempt of a run needs."""

    stage: Stage
    plan: RunConfig
    runs: Store
    api: ClusterApi
    backend: ClusterBackend
    deletion: PromptDeletion
    is_stop_asked: Callable[[], bool]
    poll_seconds: float

    def run_one(self, job: TrainingJob) -> StablerepError | None:
        """Start an attempt, or follow the one that runs; returns why it did not end well."""
        plan, runs, launch = self.plan, self.runs, self.stage.recipe.launch
        running = self.backend.running_attempt(job)
        if launch.backend == "trainjob" and not running:
            check_runtime(self.api, job, launch.namespace)
        job = replace(job, attempt=running or uuid.uuid4().hex[:12])
        self.deletion.expect(job)
        if self.is_stop_asked() and not running:  # one that runs is asked to save first
            return Preempted(f"run {runs.uri}: stopped as asked before it started; run again to continue")
        runs.write(DOCUMENT_KEY, yaml.safe_dump(dry_run(job, self.backend), sort_keys=False))
        start = last_step(plan, runs)
        with log_folder(runs, job.attempt) as folder, (folder / LOG_NAME).open("w", encoding="utf-8") as file:

            def show(line: str) -> None:
                file.write(f"{line}\n")
                tqdm.write(line, file=sys.stderr)

            with Follower(self.stage.reporter, runs, job.attempt, plan.pretrain.num_steps, start) as follower:
                watcher = Watcher(
                    on_line=show,
                    on_tick=follower.look,
                    on_state=follower.state,
                    sign_of_life=lambda: follower.step,
                    is_stop_asked=self.is_stop_asked,
                    ask_to_stop=self.backend.cancel,
                    grace_seconds=launch.grace_seconds,
                    poll_seconds=self.poll_seconds,
                )
                end = run_job(job, self.backend, folder, watcher, budgets(plan, launch))
        return None if end.state is JobState.SUCCEEDED else self._error(job, end)

    def _error(self, job: TrainingJob, end: JobEnd) -> StablerepError:
        where = f"run {self.runs.uri}"
        if end.is_stopped:
            step = last_step(self.plan, self.runs)
            return Preempted(f"{where}: stopped as asked, its last checkpoint is that of step {step}; run again to continue")
        if end.state is JobState.CANCELLED:
            return LaunchError(f"{where}: job {job.name} was deleted by somebody else; run again to continue from its last checkpoint")
        failure = read_failure(self.runs, job.attempt)
        if failure and failure.error != LaunchError.__name__:
            log.error("job %s failed%s", job.name, end.failure.details if end.failure else "")
            count_divergence(self.stage.reporter, failure)
            return _raised(failure)
        if end.failure is None:
            return LaunchError(f"{where}: job {job.name} ended as {end.state.value}; run again to continue from its last checkpoint")
        error = end.failure.error(where)
        return LaunchError(f"{failure.message}; {error}") if failure and type(error) is LaunchError else error


def _raised(failure: RunFailure) -> StablerepError:
    try:
        failure.raise_again()
    except StablerepError as error:
        return error
    raise AssertionError("a failure raises")


def _kind(launch: LaunchConfig) -> "tuple[TrainJobKind | VolcanoKind, Callable[[TrainingJob], dict[str, object]]]":
    if launch.backend == "trainjob":
        from stablerep.integrations.torchx_trainjob import train_job

        return TrainJobKind(), train_job
    from stablerep.integrations.torchx_volcano import volcano_job

    return VolcanoKind(), volcano_job


def _image(launch: LaunchConfig) -> str:
    if image := launch.image or os.environ.get(IMAGE_VARIABLE, ""):
        return image
    raise ConfigError(
        f"launch.backend={launch.backend}: expected the image of the training processes, found neither launch.image nor {IMAGE_VARIABLE}; "
        "set launch.image=<registry>/stablerep/train@sha256:<digest>, as images/images.lock has it"
    )


def _check_store(store: Store, launch: LaunchConfig) -> None:
    if store.local_path("runs") is not None:
        raise ConfigError(
            f"launch.backend={launch.backend}: expected a store that pods on other machines reach (s3://, gs://), found {store.uri}; "
            "use an object store, or launch.backend=local"
        )
