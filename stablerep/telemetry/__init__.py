"""What a run says about itself: one catalogue of metrics, a reporter, sinks."""

from stablerep.telemetry.catalogue import METRICS, Metric
from stablerep.telemetry.reporter import MemorySink, Reporter, Sink

__all__ = ["METRICS", "MemorySink", "Metric", "Reporter", "Sink"]
