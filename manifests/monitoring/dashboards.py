"""The dashboards: `python -m manifests.monitoring.dashboards` writes dashboards/*.json, which kustomize puts into ConfigMaps.

A new metric needs one line here: a Panel in the row of its subject, or one more query of a panel. Tests check every query with promtool,
that it names only metrics that exist, and that it has data after a real run; `needs` names what a laptop does not have.
"""

import sys
from pathlib import Path

from manifests.monitoring.panels import Dashboard, Panel, Row, dashboard_json

FOLDER = Path(__file__).resolve().parent / "dashboards"
GPU = "a GPU, and DCGM's exporter (GPU operator)"
FAILURE = "a failure"
_CHOSEN = 'namespace=~"$namespace"'
_GOOD = 'verdict="good"'
_ENCODER = 'source="encoder"'
_FAULTS = 'code=~"5..|UNKNOWN|INTERNAL|UNAVAILABLE|UNIMPLEMENTED|DATA_LOSS|DEADLINE_EXCEEDED|ABORTED"'


def of(metric: str, *matchers: str) -> str:
    """A metric of the product in the chosen namespaces."""
    return f"stablerep_{metric}{{{', '.join((_CHOSEN, *matchers))}}}"


def rate(metric: str, *matchers: str) -> str:
    """Its increase a second."""
    return f"rate({of(metric, *matchers)}[$__rate_interval])"


def quantile(share: float, metric: str, by: str = "") -> str:
    """A quantile of a histogram."""
    return f"histogram_quantile({share}, sum by ({', '.join(filter(None, ('le', by)))}) ({rate(f'{metric}_bucket')}))"


def recorded(rule: str) -> str:
    """What a recording rule keeps."""
    return f'stablerep:{rule}{{namespace=~"$namespace"}}'


RUNS = Dashboard(
    "stablerep-runs",
    "stablerep / Pipeline runs",
    "Stages, what they work on, what failed, and what came out.",
    (
        Row(
            "Stages",
            (
                Panel("Progress", {"{{stage}}": f"max by (stage) ({of('stage_progress_ratio')})"}, "percentunit", width=12),
                Panel("Seconds in each stage", {"{{stage}}": f"max by (stage) ({of('stage_seconds')})"}, "s"),
                Panel(
                    "Failures by error",
                    {"{{stage}} {{error}}": f"sum by (stage, error) (max_over_time({of('stage_failures_total')}[1h]))"},
                    width=4,
                    needs=FAILURE,
                ),
                Panel("What is worked on", {"": f"max by (stage, id) ({of('run_info')})"}, kind="table", width=24, height=7),
            ),
        ),
        Row(
            "Captions and results",
            (
                Panel("Captions", {"{{outcome}}": f"max by (outcome) ({of('captions_total')})"}, kind="stat", width=12, height=5),
                Panel("Promoted by the gate", {"": f"max({of('gate_promoted')})"}, kind="stat", width=4, height=5),
                Panel(
                    "Probe accuracy, encoder",
                    {"{{probe}}, {{labels}} labels": f"max by (probe, labels) ({of('probe_accuracy_ratio', _ENCODER)})"},
                    "percentunit",
                    kind="stat",
                    height=5,
                ),
                Panel(
                    "Probe accuracy of every feature source",
                    {"{{source}}, {{probe}}, {{labels}}": f"max by (source, probe, labels) ({of('probe_accuracy_ratio')})"},
                    "percentunit",
                    kind="stat",
                    width=24,
                    height=6,
                ),
            ),
        ),
        Row(
            "The training job and its tasks",
            (
                Panel("State of the job", {"{{state}}": f"max by (state) ({of('launch_job_state')}) == 1"}, width=6),
                Panel("Waiting for a place", {"": f"max({of('launch_queue_seconds')})"}, "s", width=6, limit=4 * 3600),
                Panel("Preemptions", {"": f"sum({of('launch_preemptions_total')})"}, width=4, needs="a cluster that preempts"),
                Panel(
                    "Memory of tasks",
                    {"{{pod}}{{instance}}": 'max by (pod, instance) (process_resident_memory_bytes{namespace=~"$namespace"})'},
                    "bytes",
                    width=4,
                ),
                Panel(
                    "CPU of tasks",
                    {"{{pod}}{{instance}}": f"max by (pod, instance) (rate(process_cpu_seconds_total{{{_CHOSEN}}}[$__rate_interval]))"},
                    width=4,
                ),
            ),
        ),
    ),
)

GENERATION = Dashboard(
    "stablerep-generation",
    "stablerep / Generation",
    "Lanes that make groups of images: how fast, how good, at what cost.",
    (
        Row(
            "Speed",
            (
                Panel("Images a second, all lanes", {"all": f"sum({of('generate_images_per_second')})"}),
                Panel("Progress of lanes", {"{{pod}}{{instance}}": of("stage_progress_ratio", 'stage="generate"')}, "percentunit"),
                Panel("Groups committed", {"": f"sum({of('generate_groups_total')})"}, kind="stat", width=4),
                Panel("Shards", {"{{outcome}}": f"sum by (outcome) ({of('generate_shards_total')})"}, kind="stat", width=4),
                Panel("TFLOP/s of the samplers, all lanes", {"all": f"sum({of('generate_tflop_per_second')})"}),
                Panel("Share of what the GPU reaches", {"{{pod}}{{instance}}": of("generate_utilisation_ratio")}, "percentunit", needs=GPU),
                Panel("Batches halved", {"": f"sum({of('generate_out_of_memory_total')})"}, kind="stat", needs=FAILURE),
            ),
        ),
        Row(
            "Quality and cost",
            (
                Panel("Images by verdict, a second", {"{{verdict}}": f"sum by (verdict) ({rate('generate_images_total')})"}),
                Panel(
                    "Share of images that were turned down",
                    {"": f"1 - sum({of('generate_images_total', _GOOD)}) / sum({of('generate_images_total')})"},
                    "percentunit",
                ),
                Panel(
                    "Groups before training",
                    {
                        "purity": f"min({of('dataset_purity_ratio')})",
                        "diversity": f"min({of('dataset_diversity_ratio')})",
                        "agreement": f"min({of('dataset_agreement_ratio')})",
                    },
                    kind="stat",
                ),
                Panel(
                    "Images stored although they failed a threshold, a second",
                    {"{{verdict}}": f"sum by (verdict) ({rate('generate_flagged_images_total')})"},
                    needs="a failure, of an image under a threshold",
                ),
                Panel("Lane-seconds for a group", {"{{namespace}}": recorded("generate_lane_seconds_per_group:rate1h")}, "s", width=4),
                Panel(
                    "Cost of a group, and its budget",
                    {
                        "cost {{namespace}}": recorded("generate_cost_per_group:rate1h"),
                        "budget": "stablerep:generate_budget_per_group",
                        "price of a lane-hour": "stablerep:generate_price_per_lane_hour",
                    },
                    width=4,
                ),
            ),
        ),
    ),
)

TRAINING = Dashboard(
    "stablerep-training",
    "stablerep / Training and GPUs",
    "Losses, speed, what a step spends its time on, checkpoints, and the GPUs below.",
    (
        Row(
            "Learning",
            (
                Panel("Loss", {"{{term}}": f"max by (term) ({of('training_loss')})"}),
                Panel("Gradient norm", {"": f"max({of('training_gradient_norm')})"}),
                Panel("Learning rate", {"": f"max({of('training_learning_rate')})"}, width=4),
                Panel(
                    "Steps that were not finite",
                    {"": f"sum(max_over_time({of('training_nonfinite_total')}[1h]))"},
                    kind="stat",
                    width=4,
                    needs=FAILURE,
                ),
            ),
        ),
        Row(
            "Speed",
            (
                Panel("Images a second", {"all processes": f"max({of('training_images_per_second')})"}),
                Panel("Waiting for data", {"{{pod}}": recorded("training_data_wait_ratio:avg15m")}, "percentunit", limit=0.2),
                Panel("Phases of a step", {"{{phase}}": f"max by (phase) ({of('training_phase_seconds')})"}, "s"),
                Panel("Step", {"": f"max({of('training_step')})"}),
                Panel("Age of the last checkpoint", {"": f"time() - max({of('training_checkpoint_timestamp_seconds')})"}, "s", limit=7200),
            ),
        ),
        Row(
            "GPUs",
            (
                Panel("GPU utilisation", {"{{pod}}": recorded("gpu_utilisation_ratio")}, "percentunit", needs=GPU),
                Panel(
                    "Tensor cores active", {"{{gpu}}": "max by (Hostname, gpu) (DCGM_FI_PROF_PIPE_TENSOR_ACTIVE)"}, "percentunit", needs=GPU
                ),
                Panel("GPU memory", {"{{gpu}}": "max by (Hostname, gpu) (DCGM_FI_DEV_FB_USED * 1024 * 1024)"}, "bytes", needs=GPU),
                Panel("Power", {"{{gpu}}": "max by (Hostname, gpu) (DCGM_FI_DEV_POWER_USAGE)"}, "watt", needs=GPU),
            ),
        ),
    ),
)

SERVING = Dashboard(
    "stablerep-serving",
    "stablerep / Serving",
    "The endpoint's objectives, 99.9 % without a fault of ours and 99 % within 0.5 s, and what moves them.",
    (
        Row(
            "Objectives",
            (
                Panel(
                    "Error budget burnt: 1 is the rate allowed over 30 days",
                    {f"{window}": f"{recorded(f'endpoint_error_ratio:rate{window}')} / 0.001" for window in ("5m", "30m", "1h", "6h")},
                    limit=14.4,
                    width=12,
                ),
                Panel(
                    "Latency budget burnt: 1 is the rate allowed over 30 days",
                    {f"{window}": f"{recorded(f'endpoint_slow_ratio:rate{window}')} / 0.01" for window in ("5m", "30m", "1h", "6h")},
                    limit=14.4,
                    width=12,
                ),
            ),
        ),
        Row(
            "Requests",
            (
                Panel("Requests by code, a second", {"{{code}}": f"sum by (code) ({rate('endpoint_requests_total')})"}),
                Panel(
                    "Latency",
                    {
                        "p50 {{protocol}}": quantile(0.5, "endpoint_request_seconds", "protocol"),
                        "p99 {{protocol}}": quantile(0.99, "endpoint_request_seconds", "protocol"),
                    },
                    "s",
                    limit=0.5,
                ),
                Panel("In flight", {"{{pod}}": f"sum by (pod) ({of('endpoint_in_flight')})"}, width=4),
                Panel(
                    "Images in a batch",
                    {"p50": quantile(0.5, "endpoint_batch_images"), "p90": quantile(0.9, "endpoint_batch_images")},
                    width=4,
                ),
                Panel(
                    "Faults of ours, a second", {"{{code}}": f"sum by (code) ({rate('endpoint_requests_total', _FAULTS)})"}, needs=FAILURE
                ),
                Panel("Images refused, a second", {"{{reason}}": f"sum by (reason) ({rate('endpoint_decode_errors_total')})"}),
                Panel("Images embedded, a second", {"": f"sum({rate('endpoint_images_total')})"}, width=4),
                Panel(
                    "Waiting for the model",
                    {"p50": quantile(0.5, "endpoint_queue_seconds"), "p99": quantile(0.99, "endpoint_queue_seconds")},
                    "s",
                ),
                Panel("Length of embeddings", {"{{pod}}": f"max by (pod) ({of('endpoint_embedding_norm')})"}, width=4),
                Panel(
                    "Drift of their length, in deviations at export",
                    {"{{pod}}": f"max by (pod) ({of('endpoint_embedding_norm_drift_sigmas')})"},
                ),
                Panel("Encoders that are served", {"": f"count by (model_id) ({of('endpoint_info')})"}, kind="table"),
                Panel("Pods", {"{{pod}}": 'max by (pod) (up{namespace=~"$namespace"})'}, width=4),
            ),
        ),
    ),
)

DASHBOARDS = (RUNS, GENERATION, TRAINING, SERVING)


def main() -> int:
    """Write the JSON files; the exit code is 0."""
    FOLDER.mkdir(exist_ok=True)
    for dashboard in DASHBOARDS:
        (FOLDER / f"{dashboard.uid}.json").write_text(dashboard_json(dashboard), encoding="utf-8")
        sys.stdout.write(f"wrote manifests/monitoring/dashboards/{dashboard.uid}.json, {len(list(dashboard.panels))} panels\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
