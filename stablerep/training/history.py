"""The history of a run: `metrics.jsonl` in its prefix, one line a value, keyed by the step.

    {"metric": "stablerep_training_loss", "labels": {"term": "total"}, "step": 120, "time": 1763.2, "value": 4.1}

A run that continues drops the lines after its checkpoint and writes them again, so no point is lost or doubled. It must be flushed
before a checkpoint is committed. A sink of the reporter, so the names are those of the telemetry catalogue.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from stablerep.errors import DataError
from stablerep.store import Store
from stablerep.telemetry import Metric
from stablerep.training.aside import WritesAside
from stablerep.typed import decode

log = logging.getLogger("stablerep")

_PREFIX = "stablerep_training_"


@dataclass(frozen=True)
class Point:
    """One value of one metric at one step (number of finished updates)."""

    metric: str
    step: int
    time: float
    value: float | None  # None: not finite
    labels: dict[str, str] = field(default_factory=dict[str, str])


class History:
    """Writes the history.

    Args:
        store: the prefix of the run.
        key: of the file.
        after_step: later points of an earlier attempt are dropped.
        flush_seconds: the most that a kill can lose before the next checkpoint; the file is rewritten whole, in a thread.
        clock: Unix time.

    Attributes:
        step: what the next reports belong to.
    """

    def __init__(
        self, store: Store, key: str, *, after_step: int, flush_seconds: float = 15.0, clock: Callable[[], float] = time.time
    ) -> None:
        self._key, self._flush_seconds, self._clock, self._writes = key, flush_seconds, clock, WritesAside(store)
        self.step = after_step
        self._points = [point for point in read_history(store, key) if point.step <= after_step]
        self._content = bytearray(b"".join(_line(point) for point in self._points))
        self._flushed_at = clock()

    def report(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        """Append one point; metrics of other subsystems are left to other sinks.

        Raises:
            StoreError: what was reported earlier cannot be written.
        """
        if not metric.name.startswith(_PREFIX):
            return
        now = self._clock()
        finite = value if abs(value) < float("inf") else None
        point = Point(metric.name, self.step, round(now, 3), finite, labels)
        self._points.append(point)
        self._content += _line(point)
        if now - self._flushed_at >= self._flush_seconds:
            self._begin_write(now)

    def close(self) -> None:
        """Write all points, and wait for that.

        Raises:
            StoreError: the store cannot be written.
        """
        self._begin_write(self._clock())
        self._writes.finish()

    def wait(self) -> None:
        """Wait until nothing is being written."""
        self._writes.wait()

    def _begin_write(self, now: float) -> None:
        self._flushed_at = now
        self._writes.write(self._key, bytes(self._content))

    def mean_of_last(self, metric: str, share: float = 0.1, **labels: str) -> float | None:
        """Mean over the last `share` of the points of a metric; None when it has none."""
        values = [value for _, value in series(self._points, metric, **labels)]
        last = values[-max(1, round(len(values) * share)) :]
        return sum(last) / len(last) if last else None


def read_history(store: Store, key: str) -> list[Point]:
    """All points in the order in which they were written; none when there is no file or it cannot be read."""
    if not store.exists(key):
        return []
    try:
        return [decode(Point, json.loads(line), where=f"{key} line {i}") for i, line in enumerate(store.read_text(key).splitlines(), 1)]
    except (ValueError, TypeError, DataError) as error:
        log.warning("the history of the run begins anew: %s", error)
        return []


def series(points: Iterable[Point], metric: str, **labels: str) -> list[tuple[int, float]]:
    """(step, value) of one metric with these labels, finite values only."""
    return [(point.step, point.value) for point in points if point.metric == metric and point.labels == labels and point.value is not None]


def _line(point: Point) -> bytes:
    return json.dumps(vars(point), sort_keys=True).encode() + b"\n"
