"""The pods that a document would make, whatever kind it is: so that one set of rules can look at all of them.

Knows pods, the built-in workloads, TrainingRuntime and ClusterTrainingRuntime, JobSet, Volcano's Job, ServingRuntime and InferenceService.
A TrainJob is a patch of its runtime: `train_job_pods` puts the two together as Trainer 2.2 does. Anything else makes no pods.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]


@dataclass(frozen=True)
class Pod:
    """A pod to be: where it comes from, its labels and its spec."""

    origin: str
    labels: dict[str, str]
    spec: Document

    @property
    def containers(self) -> list[Document]:
        """Containers of every sort."""
        return [each for field in ("initContainers", "containers", "ephemeralContainers") for each in self.spec.get(field) or []]


def pods_of(document: Document) -> list[Pod]:
    """The pods a document describes by itself."""
    name = f"{document.get('kind')}/{document.get('metadata', {}).get('name', '?')}"
    return [Pod(f"{name}{suffix}", (meta or {}).get("labels") or {}, spec) for suffix, meta, spec in _templates(document)]


def _templates(document: Document) -> Iterator[tuple[str, Document, Document]]:
    kind, spec = document.get("kind"), document.get("spec") or {}
    if kind == "Pod":
        yield "", document.get("metadata") or {}, spec
    elif kind == "CronJob":
        yield "", *_split(spec["jobTemplate"]["spec"]["template"])
    elif kind == "ServingRuntime" or kind == "ClusterServingRuntime":
        yield "", {"labels": spec.get("labels")}, spec
    elif kind == "InferenceService":
        predictor = spec.get("predictor") or {}
        if predictor.get("containers"):
            yield "", {"labels": document["metadata"].get("labels")}, predictor
    elif kind == "Job" and document.get("apiVersion", "").startswith("batch.volcano.sh/"):
        for task in spec["tasks"]:
            yield f"/{task['name']}", *_split(task["template"])
    elif kind in ("TrainingRuntime", "ClusterTrainingRuntime"):
        yield from _replicated(spec["template"]["spec"])
    elif kind == "JobSet":
        yield from _replicated(spec)
    elif kind in ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job"):
        yield "", *_split(spec["template"])


def _replicated(job_set: Document) -> Iterator[tuple[str, Document, Document]]:
    for job in job_set["replicatedJobs"]:
        yield f"/{job['name']}", *_split(job["template"]["spec"]["template"])


def _split(template: Document) -> tuple[Document, Document]:
    return template.get("metadata") or {}, template["spec"]


def train_job_pods(job: Document, runtime: Document) -> list[Pod]:
    """The pods of a TrainJob in its runtime.

    Args:
        job: TrainJob (trainer.kubeflow.org/v1alpha1).
        runtime: the TrainingRuntime that it names.
    """
    merged = deepcopy(runtime)
    replicated = merged["spec"]["template"]["spec"]["replicatedJobs"]
    trainer = job["spec"].get("trainer") or {}
    for each in replicated:
        node = next(container for container in each["template"]["spec"]["template"]["spec"]["containers"] if container["name"] == "node")
        node.update({field: trainer[field] for field in ("image", "command", "args") if field in trainer})
        if "resourcesPerNode" in trainer:
            node["resources"] = trainer["resourcesPerNode"]
        node["env"] = _by_name(node.get("env"), trainer.get("env"))
    for patch in job["spec"].get("runtimePatches") or []:
        _patch(replicated, (patch.get("trainingRuntimeSpec") or {}).get("template") or {})
    name = job["metadata"]["name"]
    return [
        Pod(pod.origin.replace(f"{runtime['kind']}/{runtime['metadata']['name']}", f"TrainJob/{name}"), pod.labels, pod.spec)
        for pod in pods_of(merged)
    ]


def _patch(replicated: list[Document], template: Document) -> None:
    for change in (template.get("spec") or {}).get("replicatedJobs") or []:
        target = next(each for each in replicated if each["name"] == change["name"])["template"]["spec"]["template"]
        wanted = ((change.get("template") or {}).get("spec") or {}).get("template") or {}
        labels = (wanted.get("metadata") or {}).get("labels") or {}
        target.setdefault("metadata", {}).setdefault("labels", {}).update(labels)
        _merge(target["spec"], wanted.get("spec") or {})


def _merge(target: Document, change: Document) -> None:
    """A strategic merge, as far as pod specs need one: lists of named things by name, other lists as a whole."""
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        elif isinstance(value, list) and value and all(isinstance(each, dict) and "name" in each for each in value):
            target[key] = _by_name(target.get(key), value)
        else:
            target[key] = deepcopy(value)


def _by_name(first: list[Document] | None, second: list[Document] | None) -> list[Document]:
    merged = {each["name"]: deepcopy(each) for each in first or []}
    for each in second or []:
        _merge(merged.setdefault(each["name"], {}), each)
    return list(merged.values())
