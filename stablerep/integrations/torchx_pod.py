"""The pod of a training process, as the namespace's policy wants it: Pod Security `restricted`, no token, a read-only root.

`pod_overlay` is what TorchX's kubernetes scheduler lays over the pods it makes; `labels` and `resources` also serve the TrainJob.
"""

from typing import Any

from torchx.specs.overlays import JOIN

from stablerep.cluster.restricted import container_security, pod_security
from stablerep.launch import TrainingJob

_SPARE_SECONDS = 30  # between the end of the processes' grace and SIGKILL


def labels(job: TrainingJob) -> dict[str, str]:
    """Labels of the job and of its pods."""
    return {
        "app.kubernetes.io/name": "stablerep",
        "app.kubernetes.io/component": "train",
        "app.kubernetes.io/part-of": "stablerep",
        "app.kubernetes.io/managed-by": "stablerep",
        "app.kubernetes.io/instance": job.name,
        **job.placement.labels,
    }


def resources(job: TrainingJob) -> dict[str, dict[str, str]]:
    """What a node of the job asks for; requests equal limits, so that the pod is the last to be thrown out."""
    amounts = {"cpu": str(job.cpus_per_node), "memory": f"{job.memory_mib_per_node}Mi"}
    if job.gpus_per_node:
        amounts[job.placement.gpu_resource] = str(job.gpus_per_node)
    return {"limits": dict(amounts), "requests": dict(amounts)}


def pod_overlay(job: TrainingJob) -> dict[str, Any]:
    """What to lay over TorchX's pod.

    The container is found by its image, which is the same on all nodes. TorchX mounts /dev/shm itself; a second mount would be refused.
    """
    placement = job.placement
    container = {
        "image": job.image,
        "resources": resources(job),
        "securityContext": container_security(),
        "volumeMounts": [{"name": "dshm", "mountPath": "/dev/shm"}, {"name": "tmp", "mountPath": "/tmp"}],
        **({"envFrom": _environment_from(placement.store_secret)} if placement.store_secret else {}),
    }
    volumes: list[dict[str, Any]] = [
        {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{placement.shared_memory_mib}Mi"}},
        {"name": "tmp", "emptyDir": {}},
    ]
    spec: dict[str, Any] = {
        JOIN("containers", on="image"): [container],
        JOIN("volumes", on="name"): volumes,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        "terminationGracePeriodSeconds": placement.grace_seconds + _SPARE_SECONDS,
    }
    if placement.node_selector:
        spec["nodeSelector"] = dict(placement.node_selector)
    if placement.tolerations:
        spec["tolerations"] = [toleration.document() for toleration in placement.tolerations]
    return {"metadata": {"labels": {"sidecar.istio.io/inject": "false"}}, "spec": spec}


def _environment_from(name: str) -> list[dict[str, Any]]:
    return [{"configMapRef": {"name": name, "optional": True}}, {"secretRef": {"name": name, "optional": True}}]
