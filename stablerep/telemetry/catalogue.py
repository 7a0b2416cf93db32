"""Every metric the product reports: name, kind, help, labels with their values. Code that reports anything else fails.

Prometheus conventions: prefix `stablerep_`, base units in the name, `_total` on counters, labels only from the enumerations below (ids
live in the `_info` gauges). https://prometheus.io/docs/practices/naming/

**To add a metric**: one line here, and one line that shows it, a panel in `manifests/monitoring/dashboards.py` (or a rule); then
`python -m manifests.monitoring.dashboards`. A test fails while a metric has neither. A label that is new gets its values in LABELS.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from stablerep.errors import StablerepError

OTHER = "other"  # what a value that is not among a label's values is reported as: no error, and no new series either
UNITS = ("timestamp_seconds", "images_per_second", "seconds", "bytes", "ratio", "images")


@dataclass(frozen=True)
class Metric:
    """One metric: `labels` are in the order in which sinks declare them."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def unit(self) -> str:
        """The base unit, which the name ends with; empty for plain numbers and counts."""
        stem = self.name.removesuffix("_total")
        return next((unit for unit in UNITS if stem.endswith(f"_{unit}")), "")

    def enumerated(self, labels: dict[str, str]) -> dict[str, str]:
        """The labels, a value that the catalogue does not know replaced by `other`; ids stay as they are."""
        return {name: value if not LABELS[name] or value in LABELS[name] else OTHER for name, value in labels.items()}


def _classes(base: type[Exception]) -> Iterator[str]:
    for each in base.__subclasses__():
        yield each.__name__
        yield from _classes(each)


_STAGES = "preflight prepare generator generate commit pretrain export probe gate deploy verify hold finish"
_HTTP = ("200", "400", "401", "404", "405", "408", "411", "413", "415", "422", "429", "499", "500", "501", "503", "504")
_GRPC = (
    "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED RESOURCE_EXHAUSTED "
    "FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS UNAUTHENTICATED"
)

# A label means the same in every metric. No values: an id, for `_info` metrics only.
LABELS: dict[str, tuple[str, ...]] = {
    "stage": (*_STAGES.split(), "serve"),
    "error": (*dict.fromkeys(_classes(StablerepError)), "StablerepError", "OSError", "ValueError", "RuntimeError", "KeyError"),
    "id": (),
    "model_id": (),
    "outcome": ("read", "kept", "empty", "duplicate", "truncated", "left_out", "blocked", "short", "found", "made"),
    "verdict": (
        *("good", "nonfinite", "black", "constant", "duplicate", "disagreeing", "outlying"),
        *("kept_disagreeing", "kept_outlying", "weighted_disagreeing", "weighted_outlying"),
    ),
    "term": ("total", "image", "text"),
    "phase": ("forward", "backward", "backward_inner", "backward_allreduce", "step"),
    "state": ("queued", "pending", "running", "succeeded", "failed", "cancelled"),
    "source": ("encoder", "random_init", "raw_pixels"),
    "probe": ("linear", "linear_bn", "knn"),
    "labels": ("1", "2", "5", "10", "20", "50", "100", "all"),
    "protocol": ("v1", "v2", "openai", "grpc"),
    "code": (*_HTTP, *_GRPC.split()),
    "reason": ("BadImageError", "TooLargeError", "UnsupportedFormatError", "NotReadyError", "RequestError"),
}

_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_QUEUE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_ALL = (
    Metric("stablerep_stage_progress_ratio", "gauge", "Share of the stage's work that is done, 0 to 1.", ("stage",)),
    Metric("stablerep_stage_seconds", "gauge", "Seconds since the stage started.", ("stage",)),
    Metric("stablerep_stage_failures_total", "counter", "Stages that ended in an error.", ("stage", "error")),
    Metric("stablerep_run_info", "gauge", "Always 1; says which run, data set or model this process works on.", ("stage", "id")),
    Metric("stablerep_captions_total", "counter", "Captions by what became of them.", ("outcome",)),
    Metric("stablerep_generate_images_total", "counter", "Images by quality verdict.", ("verdict",)),
    Metric(
        "stablerep_generate_flagged_images_total", "counter", "Images stored although they failed a threshold, by reason.", ("verdict",)
    ),
    Metric("stablerep_generate_images_per_second", "gauge", "Images made a second, over the stage so far."),
    Metric("stablerep_generate_tflop_per_second", "gauge", "TFLOP/s of the sampler over the stage so far, from images made."),
    Metric("stablerep_generate_utilisation_ratio", "gauge", "Share of what matrix products reach on this GPU, 0 to 1; known GPUs only."),
    Metric("stablerep_generate_out_of_memory_total", "counter", "Batches that did not fit in memory and were halved."),
    Metric("stablerep_generate_groups_total", "counter", "Image groups committed."),
    Metric("stablerep_generate_shards_total", "counter", "Shards by outcome (made or found).", ("outcome",)),
    Metric("stablerep_launch_queue_seconds", "gauge", "Seconds that the training job has waited for a place; 0 once it has one."),
    Metric("stablerep_launch_job_state", "gauge", "1 for the state that the training job is in, else 0.", ("state",)),
    Metric("stablerep_launch_preemptions_total", "counter", "Attempts of the training job that ended by preemption."),
    Metric("stablerep_dataset_purity_ratio", "gauge", "Mean purity of the groups by the judge, 0 to 1."),
    Metric("stablerep_dataset_diversity_ratio", "gauge", "Distance of images inside groups over that between groups."),
    Metric("stablerep_dataset_agreement_ratio", "gauge", "Mean cosine of images and their captions."),
    Metric("stablerep_training_step", "gauge", "Last finished optimiser step."),
    Metric("stablerep_training_loss", "gauge", "Loss of the last logged step.", ("term",)),
    Metric("stablerep_training_learning_rate", "gauge", "Learning rate of the last logged step."),
    Metric("stablerep_training_gradient_norm", "gauge", "Gradient norm of the last logged step."),
    Metric("stablerep_training_images_per_second", "gauge", "Images a second over all processes, last logged interval."),
    Metric("stablerep_training_data_wait_ratio", "gauge", "Share of a step spent waiting for data, last logged interval."),
    Metric(
        "stablerep_training_checkpoint_timestamp_seconds",
        "gauge",
        "Unix time of the last committed checkpoint; before the first, of the start of the attempt.",
    ),
    Metric("stablerep_training_nonfinite_total", "counter", "Steps with a non-finite loss or gradient."),
    Metric("stablerep_training_phase_seconds", "gauge", "Time of a part of the last step, measured by DeepSpeed.", ("phase",)),
    Metric("stablerep_probe_accuracy_ratio", "gauge", "Probe accuracy on held-out real images, 0 to 1.", ("source", "probe", "labels")),
    Metric("stablerep_gate_promoted", "gauge", "1 when the gate promoted the model, else 0."),
    Metric("stablerep_endpoint_requests_total", "counter", "Requests by protocol and code.", ("protocol", "code")),
    Metric("stablerep_endpoint_request_seconds", "histogram", "Time to answer a request.", ("protocol",), _LATENCY_BUCKETS),
    Metric("stablerep_endpoint_in_flight", "gauge", "Requests being answered."),
    Metric("stablerep_endpoint_queue_seconds", "histogram", "Time that a decoded request waited for the model.", (), _QUEUE_BUCKETS),
    Metric("stablerep_endpoint_images_total", "counter", "Images embedded."),
    Metric("stablerep_endpoint_batch_images", "histogram", "Images in a model batch.", (), (1, 2, 4, 8, 16, 32, 64)),
    Metric("stablerep_endpoint_decode_errors_total", "counter", "Images refused, by reason.", ("reason",)),
    Metric("stablerep_endpoint_embedding_norm", "gauge", "Length of the embeddings, mean over about the last 256 images."),
    Metric(
        "stablerep_endpoint_embedding_norm_drift_sigmas",
        "gauge",
        "That mean minus the mean recorded at export, in standard deviations recorded at export.",
    ),
    Metric("stablerep_endpoint_info", "gauge", "Always 1; which model is served.", ("model_id",)),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
