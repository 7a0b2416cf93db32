"""Where tasks run on a cluster: named profiles, the only place that knows kfp-kubernetes.

A profile says what a task asks of a node, how long one attempt may take and how often it is tried again; the image comes by digest from
images/images.lock. What a user changes (the accelerator, selectors, tolerations) are parameters of the pipeline and travel as a `Pool`.
What Kubeflow adds itself is not said here: no privilege escalation, all capabilities dropped, seccomp RuntimeDefault, a service-account
token (the KFP launcher in every pod needs it). What the compiled form cannot say: a read-only root, a grace period, retry by exit code.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp import dsl, kubernetes

IMAGES = Path(__file__).resolve().parent.parent / "images" / "images.lock"
USER = 65532
QUEUE = "stablerep"  # Kueue LocalQueue of the tasks that hold a GPU; without Kueue the label means nothing
METRICS_PORT = "9090"
METRICS_LINGER_SECONDS = "40"  # for the last scrape; the PodMonitors scrape every 30 s
HOUR = 3600

ACCELERATOR = "nvidia.com/gpu"
NO_SELECTOR: dict[str, str] = {}
GPU_TOLERATIONS: list[dict[str, str]] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
SPOT_TOLERATIONS: list[dict[str, str]] = [
    {"key": "cloud.google.com/gke-spot", "operator": "Exists", "effect": "NoSchedule"},
    {"key": "kubernetes.azure.com/scalesetpriority", "operator": "Equal", "value": "spot", "effect": "NoSchedule"},
    {"key": "stablerep.dev/spot", "operator": "Exists", "effect": "NoSchedule"},
]


@dataclass(frozen=True)
class Profile:
    """What a task asks of a node, and what it may take. Sizes are Kubernetes quantities."""

    cpu: tuple[str, str]  # request, limit
    memory: tuple[str, str]  # request, limit; /dev/shm counts
    scratch: str  # /tmp
    timeout_seconds: int  # of one attempt, from when the pod is on a node
    shared_memory: str = ""  # /dev/shm
    num_accelerators: int = 0
    has_metrics: bool = False
    num_retries: int = 0
    backoff: str = "0s"


PROFILES = {
    "cpu": Profile(("500m", "2"), ("1Gi", "8Gi"), "16Gi", 6 * HOUR),
    "cpu-large": Profile(("2", "4"), ("8Gi", "24Gi"), "64Gi", 12 * HOUR),
    "gpu-generate-spot": Profile(
        ("4", "8"), ("16Gi", "32Gi"), "64Gi", 7 * 24 * HOUR, "2Gi", 1, has_metrics=True, num_retries=20, backoff="60s"
    ),
    "gpu-small": Profile(("4", "8"), ("16Gi", "32Gi"), "64Gi", 24 * HOUR, "8Gi", 1),
    "launch": Profile(("250m", "1"), ("512Mi", "4Gi"), "8Gi", 21 * 24 * HOUR, has_metrics=True, num_retries=3, backoff="60s"),
    "deploy": Profile(("500m", "2"), ("2Gi", "8Gi"), "16Gi", 12 * HOUR),
}

STORE = "stablerep-store"  # ConfigMap and Secret
STORE_FACTS = ("AWS_ENDPOINT_URL", "AWS_REGION")
STORE_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
CLUSTER = "stablerep-cluster"  # ConfigMap
ENDPOINT, ENDPOINT_KEYS = "stablerep-endpoint", {"token": "STABLEREP_ENDPOINT_TOKEN"}  # Secret


@dataclass(frozen=True)
class Pool:
    """Nodes with accelerators, as parameters of the pipeline: resource name, node selector, one or more lists of tolerations."""

    accelerator: Any
    node_selector: Any
    tolerations: tuple[Any, ...]


def images(path: Path = IMAGES) -> dict[str, str]:
    """Role -> image by digest."""
    return json.loads(path.read_text(encoding="utf-8"))


def place(task: dsl.PipelineTask, profile: str, role: str, pool: Pool | None = None) -> dsl.PipelineTask:
    """Give a task its image, resources, environment and limits.

    Args:
        task: the task of a component; its name is the verb of its stage.
        profile: a name in PROFILES.
        role: whose image it runs in.
        pool: where the accelerators are; for the profiles that have some, and for no other.

    Raises:
        ValueError: a profile with accelerators has no pool, or the other way round.
    """
    asked = PROFILES[profile]
    if bool(asked.num_accelerators) != (pool is not None):
        raise ValueError(f"profile {profile!r}: expected a pool with accelerators and none without, found {pool}")
    task.set_container_image(images()[role])
    task.set_cpu_request(asked.cpu[0]).set_cpu_limit(asked.cpu[1])
    task.set_memory_request(asked.memory[0]).set_memory_limit(asked.memory[1])
    if asked.num_retries:
        task.set_retry(asked.num_retries, backoff_duration=asked.backoff, backoff_max_duration="1800s")
    kubernetes.set_timeout(task, asked.timeout_seconds)
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    kubernetes.empty_dir_mount(task, "tmp", "/tmp", size_limit=asked.scratch)
    if asked.shared_memory:
        kubernetes.empty_dir_mount(task, "shared-memory", "/dev/shm", medium="Memory", size_limit=asked.shared_memory)
    _set_environment(task, asked, role)
    _set_metadata(task, asked, role)
    if pool is not None:
        _set_pool(task, asked, pool)
    return task


def _set_environment(task: dsl.PipelineTask, asked: Profile, role: str) -> None:
    task.set_env_variable("HOME", "/tmp")
    if asked.has_metrics:
        task.set_env_variable("STABLEREP_METRICS_PORT", METRICS_PORT).set_env_variable("STABLEREP_METRICS_HOST", "0.0.0.0")
        task.set_env_variable("STABLEREP_METRICS_LINGER_SECONDS", METRICS_LINGER_SECONDS)
    if role == "launch":
        task.set_env_variable("STABLEREP_TRAIN_IMAGE", images()["train"])
    kubernetes.use_config_map_as_env(task, CLUSTER, {"cluster": "STABLEREP_CLUSTER"}, optional=True)
    kubernetes.use_config_map_as_env(task, STORE, {key: key for key in STORE_FACTS}, optional=True)
    kubernetes.use_secret_as_env(task, STORE, {key: key for key in STORE_KEYS}, optional=True)
    if role == "serve":
        kubernetes.use_secret_as_env(task, ENDPOINT, ENDPOINT_KEYS, optional=True)


def _set_metadata(task: dsl.PipelineTask, asked: Profile, role: str) -> None:
    labels = {
        "app.kubernetes.io/name": "stablerep",
        "app.kubernetes.io/component": f"task-{role}",  # not `role`: what selects training or serving pods must not select tasks
        "app.kubernetes.io/part-of": "stablerep",
        "app.kubernetes.io/managed-by": "kubeflow-pipelines",
        "stablerep.dev/stage": task.component_spec.name,
        "sidecar.istio.io/inject": "false",  # a proxy would outlive the task; KFP says the same in an annotation, which the label outranks
    }
    if asked.num_accelerators:
        labels["kueue.x-k8s.io/queue-name"] = QUEUE
    for key, value in labels.items():
        kubernetes.add_pod_label(task, key, value)
    if asked.has_metrics:
        for key, value in (("scrape", "true"), ("port", METRICS_PORT), ("path", "/metrics")):
            kubernetes.add_pod_annotation(task, f"prometheus.io/{key}", value)


def _set_pool(task: dsl.PipelineTask, asked: Profile, pool: Pool) -> None:
    task.set_accelerator_type(pool.accelerator).set_accelerator_limit(asked.num_accelerators)
    if isinstance(pool.accelerator, dsl.pipeline_channel.PipelineChannel):
        task.register_pipeline_channels([pool.accelerator])  # kfp 2.17 forgets it, and inside a sub-graph the task would not get it
    kubernetes.add_node_selector_json(task, pool.node_selector)
    for tolerations in pool.tolerations:
        kubernetes.add_toleration_json(task, tolerations)
