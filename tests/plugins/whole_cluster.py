"""A cluster that has everything a run asks for, and how preflight looks at it; shared by the tests of preflight."""

from pathlib import Path
from typing import Any

import yaml
from fake_cluster import FakeCluster

from stablerep.cluster import (
    GATEWAY,
    LOCAL_QUEUE,
    NODE,
    RESOURCE_QUOTA,
    SERVICE_ACCOUNT,
    SERVING_RUNTIME,
    TRAINING_RUNTIME,
    ClusterApi,
    Document,
    Kind,
)
from stablerep.config import load_recipe
from stablerep.stages import STAGES
from stablerep.stages.preflight_cluster import check_cluster
from stablerep.stages.preflight_needs import Scope
from stablerep.stages.preflight_table import Check
from stablerep.store import Store

IMAGE = "registry.test/stablerep/train@sha256:" + "a" * 64
KEDA = Kind("keda.sh", "v1alpha1", "scaledobjects", "ScaledObject")
WORDS = (
    "launch.backend=trainjob launch.queue=stablerep launch.tolerations=nvidia.com/gpu:NoSchedule launch.node_selector=pool=gpu "
    "pretrain.num_processes=16 pretrain.num_nodes=2 launch.cpus_per_process=8 launch.memory_gib_per_process=32 "
    "deploy.backend=standard_canary deploy.gateway=default/public deploy.autoscaler=keda deploy.canary_percents=[]"
)


def scope(words: str = "", *, is_pod: bool = False, stages: tuple[str, ...] = STAGES) -> Scope:
    # prometheus_url is only asked where there are steps, and then a test says so
    recipe = load_recipe("smoke", f"{WORDS} {words}")
    return Scope(recipe, Store("memory://preflight"), is_pod, frozenset(stages))


def look(api: ClusterApi, words: str = "", **others: Any) -> dict[str, Check]:
    probe = {name: others.pop(name) for name in ("has_probe_pod", "image") if name in others}
    return {check.name: check for check in check_cluster(scope(words, **others), lambda: api, **probe)}


def node(name: str, *, gpus: int = 8, cpus: str = "96", memory: str = "700Gi", taint: str = "nvidia.com/gpu") -> Document:
    taints = [{"key": taint, "value": "present", "effect": "NoSchedule"}] if taint else []
    allocatable = {"cpu": cpus, "memory": memory, "pods": "110"} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    return {
        "metadata": {"name": name, "labels": {"pool": "gpu"}},
        "spec": {"taints": taints},
        "status": {"allocatable": allocatable},
    }


def quota(hard: dict[str, str], used: dict[str, str] | None = None, **spec: Any) -> Document:
    return {
        "metadata": {"name": "team"},
        "spec": {"hard": hard, **spec},
        "status": {"hard": hard, "used": used or dict.fromkeys(hard, "0")},
    }


def training_runtime() -> Document:
    """The one of manifests/."""
    path = Path(__file__).parents[2] / "manifests" / "runtimes" / "training-runtime.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def furnish(cluster: FakeCluster) -> None:
    """Everything that `WORDS` ask for."""
    cluster.kinds.add(KEDA)
    for kind, name in (
        (SERVING_RUNTIME, "stablerep-encoder"),
        (SERVICE_ACCOUNT, "stablerep-train"),
        (SERVICE_ACCOUNT, "stablerep-serve"),
        (LOCAL_QUEUE, "stablerep"),
    ):
        cluster.set(kind, {"metadata": {"name": name}})
    cluster.set(TRAINING_RUNTIME, training_runtime())
    programmed = {"conditions": [{"type": "Programmed", "status": "True"}]}
    cluster.set(GATEWAY, {"metadata": {"name": "public"}, "status": programmed}, "default")
    cluster.set(RESOURCE_QUOTA, quota({"requests.nvidia.com/gpu": "16", "limits.cpu": "200", "limits.memory": "1Ti", "pods": "50"}))
    for name in ("node-0", "node-1"):
        cluster.set(NODE, node(name))
