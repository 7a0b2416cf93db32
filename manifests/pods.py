"""The pods that a document would make, whatever kind it is: so that one set of rules can look at all of them.

Knows pods, the built-in workloads, TrainingRuntime and ClusterTrainingRuntime, JobSet, Volcano's Job and ServingRuntime.
A TrainJob and an InferenceService are patches of a runtime: `train_job_pods` and `predictor_pod` put the two together as Trainer 2.2 and
KServe 0.20 do. Anything else makes no pods.
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


def predictor_pod(service: Document, runtime: Document) -> Pod:
    """The pod of an InferenceService in its runtime, without the init container that fetches the model.

    Args:
        service: InferenceService (serving.kserve.io/v1beta1) with a `model`.
        runtime: the ServingRuntime that it names.
    """
    predictor = deepcopy(service["spec"]["predictor"])
    model = predictor.pop("model")
    spec = {
        field: deepcopy(runtime["spec"][field])
        for field in ("containers", "volumes", "nodeSelector", "tolerations")
        if field in runtime["spec"]
    }
    container = next(each for each in spec["containers"] if each["name"] == "kserve-container")
    container["args"] = [*container.get("args", []), *model.get("args", [])]
    _merge(container, {field: model[field] for field in ("image", "env", "resources", "securityContext") if field in model})
    scaling = ("minReplicas", "maxReplicas", "autoScaling", "scaleMetric", "scaleTarget", "canaryTrafficPercent")
    _merge(spec, {field: value for field, value in predictor.items() if field not in scaling})
    labels = {**(runtime["spec"].get("labels") or {}), **(service["metadata"].get("labels") or {})}
    return Pod(f"InferenceService/{service['metadata']['name']}", labels, spec)


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
