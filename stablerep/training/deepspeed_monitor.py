"""What DeepSpeed measures, as metrics of the catalogue: DeepSpeed's own writers know TensorBoard, W&B, Comet and CSV, not Prometheus.

DeepSpeed's engine hands events `(name, value, captions so far)` to its monitor on rank 0. Put in the monitor's place, this takes the
durations of the phases of a step, which nobody but DeepSpeed can measure; losses and learning rate come from the journal.
https://www.deepspeed.ai/tutorials/monitor/
"""

from collections.abc import Sequence
from typing import Any, Protocol

_PREFIX = "Train/Samples/elapsed_time_ms_"


class Report(Protocol):
    """`stablerep.telemetry.Reporter.report`."""

    def __call__(self, name: str, value: float, /, **labels: str) -> None:
        """Report one value."""
        ...


class DeepspeedMonitor:
    """Stands where DeepSpeed has its MonitorMaster; the writers that were configured there go on writing.

    Args:
        report: takes a metric of the catalogue.
        others: the monitor that was there.
    """

    enabled = True

    def __init__(self, report: Report, others: Any) -> None:
        self._report, self._others = report, others

    def write_events(self, event_list: Sequence[tuple[str, float, int]]) -> None:
        """Take DeepSpeed's events; milliseconds become seconds."""
        for name, value, _ in event_list:
            if name.startswith(_PREFIX):
                self._report("stablerep_training_phase_seconds", value / 1000, phase=name.removeprefix(_PREFIX))
        if self._others.enabled:
            self._others.write_events(event_list)
