"""What rank 0 writes down while it trains: history, progress, one log line a minute.

A run of many steps is written down at about a thousand of them, always the same ones, so that a continued run has the points of an
undisturbed one. Losses and gradient norms are those of the step; throughput and data waits are over the interval since the last point.
Files are written in a thread, except before a checkpoint, which waits for them.
"""

import logging
import time
from collections.abc import Callable

from stablerep.errors import StoreError
from stablerep.store import Store
from stablerep.telemetry import Reporter, Sink
from stablerep.training.aside import WritesAside
from stablerep.training.history import History
from stablerep.training.state import METRICS_KEY, PROGRESS_KEY, RunProgress

log = logging.getLogger("stablerep")

_MOST_POINTS = 1000
_LOSS = "stablerep_training_loss"
_SAVED_AT = "checkpoint_timestamp_seconds"


class Journal:
    """The journal of one process; on other ranks than 0 it does nothing.

    Args:
        runs: the prefix of the run.
        is_first: whether this is rank 0.
        attempt: name of the attempt.
        after_step: where this attempt continues.
        num_steps: of the whole run.
        sinks: further sinks of the telemetry, for example Prometheus.
        log_every_seconds: time between progress lines; 0 for none.
        progress_seconds: time between writes of `progress.json`.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        runs: Store,
        *,
        is_first: bool,
        attempt: str,
        after_step: int,
        num_steps: int,
        sinks: tuple[Sink, ...] = (),
        log_every_seconds: float = 60.0,
        progress_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writes, self._attempt, self._num_steps, self._clock = WritesAside(runs), attempt, num_steps, clock
        self._every_steps = max(1, num_steps // _MOST_POINTS)
        self._history = History(runs, METRICS_KEY, after_step=after_step) if is_first else None
        self._reporter = Reporter("pretrain", (self._history, *sinks)) if self._history else None
        self._log_every_seconds, self._progress_seconds = log_every_seconds, progress_seconds
        self._started_at = self._point_at = self._logged_at = clock()
        self._progress_at = clock() - progress_seconds
        self._start_step, self._point_images, self._point_wait = after_step, 0, 0.0
        self._last: dict[str, float] = {}
        self._saved_at = time.time()  # of the last checkpoint; until there is one, when the attempt started
        if is_first:  # no point of the history: only those of an undisturbed run are
            Reporter("pretrain", sinks).report(f"stablerep_training_{_SAVED_AT}", self._saved_at)

    def step(self, step: int, losses: dict[str, float], lr: float, gradient_norm: float, num_images: int, wait_seconds: float) -> None:
        """Take what is known after an update.

        Args:
            step: number of finished updates.
            losses: by term, of the whole batch.
            lr: the rate that was used.
            gradient_norm: before clipping.
            num_images: images of all ranks since this attempt started.
            wait_seconds: time this rank has waited for data since this attempt started.
        """
        if self._reporter is None or self._history is None or (step % self._every_steps and step != self._num_steps):
            return
        now = self._clock()
        seconds = max(now - self._point_at, 1e-9)
        self._history.step = step
        for term, value in losses.items():
            self._reporter.report(_LOSS, value, term=term)
        values = {
            "step": float(step),
            "learning_rate": lr,
            "gradient_norm": gradient_norm,
            "images_per_second": (num_images - self._point_images) / seconds,
            "data_wait_ratio": min((wait_seconds - self._point_wait) / seconds, 1.0),
        }
        for name, value in values.items():
            self._reporter.report(f"stablerep_training_{name}", value)
        self._last = {**values, **{f"loss_{term}": value for term, value in losses.items()}, _SAVED_AT: self._saved_at}
        self._point_at, self._point_images, self._point_wait = now, num_images, wait_seconds
        self._tell(step, now)

    def summary(self) -> dict[str, float]:
        """Mean losses of the last tenth of the points; the same for a continued and an undisturbed run."""
        if self._history is None:
            return {}
        means = {term: self._history.mean_of_last(_LOSS, term=term) for term in ("total", "image", "text")}
        return {("loss" if term == "total" else f"{term}_loss"): value for term, value in means.items() if value is not None}

    def flush(self) -> None:
        """Write history and progress now, and wait for that.

        Raises:
            StoreError: the history cannot be written.
        """
        if self._history is not None:
            self._history.close()
            self._write_progress()
            self._keep_progress(self._writes.finish)

    def leave(self) -> None:
        """Wait for what is being written, before an error ends the process."""
        self._writes.wait()
        if self._history is not None:
            self._history.wait()

    def checkpoint(self, step: int, seconds: float) -> None:
        """Note that the checkpoint of a step is committed."""
        if self._reporter is not None:
            self._saved_at = time.time()
            self._last[_SAVED_AT] = self._saved_at
            self._reporter.report(f"stablerep_training_{_SAVED_AT}", self._saved_at)
            self.flush()
            log.info("checkpoint of step %d committed in %.1f s", step, seconds)

    def line(self, step: int, now: float) -> str:
        """`step 1200/50000 (2.4 %), loss 5.1, 812 images/s, 3 h 12 m left`."""
        rate = (step - self._start_step) / max(now - self._started_at, 1e-9)
        minutes = round((self._num_steps - step) / rate / 60) if rate else 0
        share = 100 * step / self._num_steps
        return (
            f"step {step}/{self._num_steps} ({share:.1f} %), loss {self._last.get('loss_total', 0):.3f}, "
            f"{self._last.get('images_per_second', 0):.0f} images/s, {minutes // 60} h {minutes % 60} m left"
        )

    def _tell(self, step: int, now: float) -> None:
        if now - self._progress_at >= self._progress_seconds:
            self._progress_at = now
            self._write_progress()
        if self._log_every_seconds and now - self._logged_at >= self._log_every_seconds:
            self._logged_at = now
            log.info("%s", self.line(step, now))

    def _write_progress(self) -> None:
        step = int(self._last.get("step", self._start_step))
        progress = RunProgress(self._attempt, step, self._num_steps, round(time.time(), 3), self._last)
        self._keep_progress(lambda: self._writes.write(PROGRESS_KEY, progress.to_json().encode()))

    def _keep_progress(self, write: Callable[[], None]) -> None:
        try:
            write()
        except StoreError as error:
            log.warning("progress is not kept: %s", error)
