"""What the launching stage sees of a running job: its progress, its logs, its curves.

The training processes write `progress.json` and `metrics.jsonl` in the run's prefix; this side reads them, reports to the stage's sinks and
draws. It works through the store only, so it follows a job on another machine as well.
"""

import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from stablerep.errors import DivergenceError, StoreError
from stablerep.launch import JobState
from stablerep.stages.pretrain_run import CURVES_KEY, RunConfig
from stablerep.store import Store
from stablerep.telemetry import Reporter
from stablerep.training.checkpoint import Checkpoints
from stablerep.training.curves import curves_html
from stablerep.training.history import Point, read_history, series
from stablerep.training.state import METRICS_KEY, RunFailure, read_progress

JOB_KEY = "job.json"
LOG_NAME = "combined.log"
_LOOK_SECONDS = 2.0
_QUEUE_SECONDS = 15.0  # how often the time in the queue is told
_GAUGES = ("step", "learning_rate", "gradient_norm", "images_per_second", "data_wait_ratio", "checkpoint_timestamp_seconds")


class Follower:
    """Carries the progress of an attempt to the stage's reporter and its bar or log lines."""

    def __init__(self, reporter: Reporter, runs: Store, attempt: str, num_steps: int, start_step: int) -> None:
        self._reporter, self._runs, self._attempt = reporter, runs, attempt
        self._bar = reporter.progress(num_steps, "steps", done=start_step)
        self._step, self._looked_at = start_step, 0.0
        self._state: JobState | None = None
        self._since = self._told_at = 0.0

    def __enter__(self) -> Self:
        self._progress = self._bar.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._looked_at = 0.0
        self.look()
        self._bar.__exit__(kind, error, trace)

    @property
    def step(self) -> int:
        """The last step that was seen: a sign of life."""
        return self._step

    def state(self, state: JobState) -> None:
        """Report where the job is, and how long it has waited for a place; what did not change is not said again."""
        now = time.monotonic()
        if state is not self._state:
            self._state, self._since, self._told_at = state, now, float("-inf")
            for each in JobState:
                self._reporter.report("stablerep_launch_job_state", float(each is state), state=each.value)
        if now - self._told_at >= (_QUEUE_SECONDS if state is JobState.QUEUED else float("inf")):
            self._told_at = now
            self._reporter.report("stablerep_launch_queue_seconds", now - self._since)  # 0 when the state has just changed

    def look(self) -> None:
        """Report what is new; looks at the store every two seconds at most."""
        now = time.monotonic()
        if now - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = now
        try:
            progress = read_progress(self._runs, self._attempt)
        except StoreError:  # out of reach for a moment: the next look will tell
            return
        if progress is None or progress.step <= self._step:
            return
        metrics = progress.metrics
        for name in _GAUGES:
            if name in metrics:  # a training image of an earlier release does not tell all of them
                self._reporter.report(f"stablerep_training_{name}", metrics[name])
        for term in ("total", "image", "text"):
            self._reporter.report("stablerep_training_loss", metrics[f"loss_{term}"], term=term)
        self._progress.advance(progress.step - self._step, f"loss {metrics['loss_total']:.3f}, {metrics['images_per_second']:.0f} images/s")
        self._step = progress.step


@contextmanager
def log_folder(runs: Store, attempt: str) -> Generator[Path]:
    """A folder for the log files of an attempt: in the store where it is local, else temporary and uploaded at the end."""
    local = runs.local_path(f"logs/{attempt}")
    if local is not None:
        local.mkdir(parents=True, exist_ok=True)
        yield local
        return
    with tempfile.TemporaryDirectory(prefix="stablerep-logs-") as name:
        try:
            yield Path(name)
        finally:
            for path in Path(name).rglob(LOG_NAME):
                runs.put(path, f"logs/{attempt}.log")


def last_step(plan: RunConfig, runs: Store) -> int:
    """The step that an attempt starts from."""
    return max(Checkpoints(runs, plan.run_key, plan.fingerprint).committed_steps(), default=0)


def count_divergence(reporter: Reporter, failure: RunFailure) -> None:
    """A run that diverged is a metric of its own: there is an alert on it."""
    if failure.error == DivergenceError.__name__:
        reporter.report("stablerep_training_nonfinite_total", 1)


def write_curves(plan: RunConfig, runs: Store) -> None:
    """Draw what the history holds."""
    points = read_history(runs, METRICS_KEY)
    runs.write(CURVES_KEY, curves_html(points, title=f"Training curves of {plan.run_key}", facts=_facts(plan, points)))


def _facts(plan: RunConfig, points: list[Point]) -> dict[str, str]:
    losses = series(points, "stablerep_training_loss", term="total")
    rates = sorted(value for _, value in series(points, "stablerep_training_images_per_second"))
    facts = {"recipe": plan.recipe, "steps": f"{losses[-1][0] if losses else 0} of {plan.pretrain.num_steps}"}
    if losses and rates:
        facts |= {"last loss": f"{losses[-1][1]:.3f}", "images a second (median)": f"{rates[len(rates) // 2]:,.0f}"}
    return facts | {
        "processes, ZeRO stage": f"{plan.pretrain.num_processes}, {plan.pretrain.zero_stage}",
        "captions x images a batch": f"{plan.pretrain.captions_per_batch} x {plan.pretrain.images_per_caption}",
    }
