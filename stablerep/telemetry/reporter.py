"""How a stage reports: values to sinks, a progress bar in a terminal, one log line a minute elsewhere.

A sink takes `(metric, value, labels)`. `JsonlSink` keeps `metrics.jsonl` in the store (rewritten whole at most every few seconds, so
it works on object stores); Prometheus lives in `stablerep.integrations.prometheus_sink`. Reporting never fails a stage: a sink that
cannot write is logged once.
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Protocol

from tqdm import tqdm

from stablerep.errors import ConfigError, StoreError
from stablerep.store import Store
from stablerep.telemetry.catalogue import METRICS, Metric

log = logging.getLogger("stablerep")

LOG_EVERY_SECONDS = 60.0


class Sink(Protocol):
    """Where reported values go."""

    def report(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        """Take one value: gauges are set, counters are increased by it, histograms observe it."""
        ...

    def close(self) -> None:
        """Flush what is buffered."""
        ...


class MemorySink:
    """Keeps every report in a list; for tests and summaries."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, float, dict[str, str]]] = []

    def report(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        """Append the value."""
        self.reports.append((metric.name, value, labels))

    def close(self) -> None:
        """Nothing is buffered."""


class JsonlSink:
    """`metrics.jsonl` under a store key: one line a report, appended to what an earlier attempt left."""

    def __init__(self, store: Store, key: str, flush_seconds: float = 5.0, clock: Callable[[], float] = time.time) -> None:
        self._store, self._key, self._flush_seconds, self._clock = store, key, flush_seconds, clock
        self._lines = store.read_text(key).splitlines() if store.exists(key) else []
        self._flushed_at = float("-inf")  # the first report is there at once
        self._is_broken = False

    def report(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        """Append one line; flush when the last flush is old enough."""
        entry = {"time": round(self._clock(), 3), "metric": metric.name, "value": value, **({"labels": labels} if labels else {})}
        self._lines.append(json.dumps(entry, sort_keys=True))
        if self._clock() - self._flushed_at >= self._flush_seconds:
            self.close()

    def close(self) -> None:
        """Write all lines."""
        self._flushed_at = self._clock()
        try:
            self._store.write(self._key, "\n".join(self._lines) + "\n" if self._lines else "")
        except StoreError as error:
            if not self._is_broken:
                log.warning("metrics are not kept: %s", error)
            self._is_broken = True


class Reporter:
    """Reports of one stage.

    Args:
        stage: the verb, also the label value.
        sinks: where values go; none is fine.
        log_every_seconds: how often a progress line is logged where there is no terminal.
    """

    def __init__(self, stage: str, sinks: tuple[Sink, ...] = (), log_every_seconds: float = LOG_EVERY_SECONDS) -> None:
        self.stage = stage
        self.log_every_seconds = log_every_seconds
        self._sinks = sinks
        self._started_at = time.monotonic()

    def report(self, name: str, value: float, **labels: str) -> None:
        """Report one value of a metric of the catalogue; a label's value that it does not know is reported as `other`.

        Raises:
            ConfigError: the catalogue has no such metric, or the labels are not the metric's.
        """
        metric = METRICS.get(name)
        if metric is None or set(metric.labels) != set(labels):
            raise ConfigError(f"metric {name!r} with labels {sorted(labels)} is not in stablerep/telemetry/catalogue.py")
        known = metric.enumerated(labels)
        for sink in self._sinks:
            sink.report(metric, float(value), known)

    @contextmanager
    def progress(self, total: int, unit: str, done: int = 0) -> Generator["Progress"]:
        """A bar over `total` units (images, steps...); `done` were finished by an earlier attempt."""
        progress = Progress(self, total, unit, done)
        try:
            yield progress
        finally:
            progress.close()

    def close(self) -> None:
        """Report the duration and flush every sink."""
        self.report("stablerep_stage_seconds", time.monotonic() - self._started_at, stage=self.stage)
        for sink in self._sinks:
            sink.close()


class Progress:
    """A tqdm bar when standard error is a terminal, else one log line a minute with rate and remaining time."""

    def __init__(self, reporter: Reporter, total: int, unit: str, done: int) -> None:
        self._reporter, self._total, self._unit, self._done, self._before = reporter, total, unit, done, done
        self._started_at = self._logged_at = time.monotonic()
        is_terminal = sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=done, unit=f" {unit}", desc=reporter.stage, disable=not is_terminal, leave=True)

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Say that `amount` more units are done; `note` is shown behind the bar or in the log line."""
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._count(amount)
        now = time.monotonic()
        if self._bar.disable and (now - self._logged_at >= self._reporter.log_every_seconds):
            self._logged_at = now
            log.info("%s", self.line(note))

    def find(self, amount: int) -> None:
        """Say that `amount` units more are done, by somebody else: they do not count for the rate."""
        if amount:
            self._before += amount
            self._count(amount)

    @property
    def num_left(self) -> int:
        """Units to go."""
        return self._total - self._done

    def line(self, note: str = "") -> str:
        """`generate 1200/5000 images (24.0 %), 81.3 images/s, 47 s left`."""
        seconds = max(time.monotonic() - self._started_at, 1e-9)
        rate = (self._done - self._before) / seconds
        left = f", {_duration((self._total - self._done) / rate)} left" if rate > 0 else ""
        share = 100 * self._done / max(self._total, 1)
        head = f"{self._reporter.stage} {self._done}/{self._total} {self._unit} ({share:.1f} %), {rate:.1f} {self._unit}/s{left}"
        return f"{head}, {note}" if note else head

    def _count(self, amount: int) -> None:
        self._done += amount
        self._bar.update(amount)
        self._reporter.report("stablerep_stage_progress_ratio", self._done / max(self._total, 1), stage=self._reporter.stage)

    def close(self) -> None:
        """Close the bar, or log the last line."""
        self._bar.close()
        if self._bar.disable:
            log.info("%s", self.line())


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} m" if hours else f"{minutes} m {rest} s" if minutes else f"{rest} s"
