"""Every metric the product reports: name, kind, labels, help. Code that reports anything else fails.

Prometheus conventions: prefix `stablerep_`, base units in the name, `_total` on counters, labels only from small enumerations
(ids live in the one `_info` gauge). https://prometheus.io/docs/practices/naming/
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """One metric: `labels` are in the order in which sinks declare them."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_ALL = (
    Metric("stablerep_stage_progress_ratio", "gauge", "Share of the stage's work that is done, 0 to 1.", ("stage",)),
    Metric("stablerep_stage_seconds", "gauge", "Seconds since the stage started.", ("stage",)),
    Metric("stablerep_stage_failures_total", "counter", "Stages that ended in an error.", ("stage", "error")),
    Metric("stablerep_run_info", "gauge", "Always 1; says which run, data set or model this process works on.", ("stage", "id")),
    Metric("stablerep_captions_total", "counter", "Captions by what became of them.", ("outcome",)),
    Metric("stablerep_generate_images_total", "counter", "Images by quality verdict.", ("verdict",)),
    Metric("stablerep_generate_images_per_second", "gauge", "Images made a second, over the stage so far."),
    Metric("stablerep_generate_groups_total", "counter", "Image groups committed."),
    Metric("stablerep_generate_shards_total", "counter", "Shards by outcome (made or found).", ("outcome",)),
    Metric("stablerep_training_step", "gauge", "Last finished optimiser step."),
    Metric("stablerep_training_loss", "gauge", "Loss of the last logged step.", ("term",)),
    Metric("stablerep_training_learning_rate", "gauge", "Learning rate of the last logged step."),
    Metric("stablerep_training_gradient_norm", "gauge", "Gradient norm of the last logged step."),
    Metric("stablerep_training_images_per_second", "gauge", "Images a second over all processes, last logged interval."),
    Metric("stablerep_training_data_wait_ratio", "gauge", "Share of a step spent waiting for data, last logged interval."),
    Metric("stablerep_training_checkpoint_timestamp_seconds", "gauge", "Unix time of the last committed checkpoint."),
    Metric("stablerep_training_nonfinite_total", "counter", "Steps with a non-finite loss or gradient."),
    Metric("stablerep_probe_accuracy_ratio", "gauge", "Probe accuracy on held-out real images, 0 to 1.", ("source", "probe", "labels")),
    Metric("stablerep_gate_promoted", "gauge", "1 when the gate promoted the model, else 0."),
    Metric("stablerep_endpoint_requests_total", "counter", "Requests by protocol and code.", ("protocol", "code")),
    Metric("stablerep_endpoint_request_seconds", "histogram", "Time to answer a request.", ("protocol",), _LATENCY_BUCKETS),
    Metric("stablerep_endpoint_in_flight", "gauge", "Requests being answered."),
    Metric("stablerep_endpoint_batch_images", "histogram", "Images in a model batch.", (), (1, 2, 4, 8, 16, 32, 64)),
    Metric("stablerep_endpoint_decode_errors_total", "counter", "Images refused, by reason.", ("reason",)),
    Metric("stablerep_endpoint_info", "gauge", "Always 1; which model is served.", ("model_id",)),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
