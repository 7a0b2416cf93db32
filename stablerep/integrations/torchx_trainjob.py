"""The AppDef of a job as a TrainJob of Kubeflow Trainer (trainer.kubeflow.org/v1alpha1, Trainer 2.2.1); nothing is submitted here.

Image, environment and torchrun's arguments are the AppDef's; the addresses of the nodes are Trainer's business (it sets PET_NNODES,
PET_NODE_RANK and their like, which a job must not). What a pod looks like (security context, /tmp, metrics port, grace) is in the
TrainingRuntime that the job names; a runtime patch adds where it may run and the size of /dev/shm. A pod's grace and its priority cannot be
patched: `launch.runtime` compares the one, the other is Kueue's.
"""

import shlex
from typing import Any

from stablerep.errors import ConfigError
from stablerep.integrations.torchx_app import NODE_COMMAND, app_def
from stablerep.integrations.torchx_pod import labels, resources
from stablerep.launch import TrainingJob
from stablerep.launch.runtime import NODE, SHARED_MEMORY

_OF_TRAINER = ("--rdzv_backend", "--rdzv_endpoint", "--rdzv_id", "--nnodes", "--nproc_per_node", "--node_rank")
_STORE_KEYS = {
    "configMapKeyRef": ("AWS_ENDPOINT_URL", "AWS_REGION"),
    "secretKeyRef": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
}


def train_job(job: TrainingJob) -> dict[str, Any]:
    """The document of a job.

    Raises:
        ConfigError: the job names no image or no runtime.
    """
    if not job.image:
        raise ConfigError(f"job {job.name}: expected an image; set launch.image or STABLEREP_TRAIN_IMAGE")
    if not job.placement.runtime:
        raise ConfigError(f"job {job.name}: expected the name of a TrainingRuntime; set launch.runtime")
    role = app_def(job).roles[0]
    environment: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in role.env.items()]
    metadata_labels = labels(job)
    if job.placement.queue:
        metadata_labels["kueue.x-k8s.io/queue-name"] = job.placement.queue
    if job.placement.priority_class:
        metadata_labels["kueue.x-k8s.io/priority-class"] = job.placement.priority_class
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": job.name, "labels": metadata_labels},
        "spec": {
            "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": job.placement.runtime},
            "trainer": {
                "image": role.image,
                "command": list(NODE_COMMAND),
                "args": _arguments(role.args[1]),
                "env": environment + _store_environment(job.placement.store_secret),
                "numNodes": job.num_nodes,
                "numProcPerNode": job.processes_per_node,
                "resourcesPerNode": resources(job),
            },
            "runtimePatches": [_patch(job)],
        },
    }


def _arguments(command: str) -> list[str]:
    """The arguments of torchrun without those that Trainer sets."""
    words = shlex.split(command)[1 + len(NODE_COMMAND) :]  # exec python -m ...
    kept: list[str] = []
    while words:
        word = words.pop(0)
        if word in _OF_TRAINER:
            words.pop(0)
        elif word == "-m":  # the module's own arguments follow
            return [*kept, word, *words]
        else:
            kept.append(word)
    return kept


def _store_environment(name: str) -> list[dict[str, Any]]:
    """A TrainJob has no envFrom: the store's variables one by one, left out where they do not exist."""
    if not name:
        return []
    return [
        {"name": key, "valueFrom": {reference: {"name": name, "key": key, "optional": True}}}
        for reference, keys in _STORE_KEYS.items()
        for key in keys
    ]


def _patch(job: TrainingJob) -> dict[str, Any]:
    placement = job.placement
    spec: dict[str, Any] = {}
    if placement.service_account:
        spec["serviceAccountName"] = placement.service_account
    if placement.node_selector:
        spec["nodeSelector"] = dict(placement.node_selector)
    if placement.tolerations:
        spec["tolerations"] = [toleration.document() for toleration in placement.tolerations]
    if placement.shared_memory_mib:  # merged into the runtime's volume of this name
        size = {"medium": "Memory", "sizeLimit": f"{placement.shared_memory_mib}Mi"}
        spec["volumes"] = [{"name": SHARED_MEMORY, "emptyDir": size}]
    template = {"metadata": {"labels": labels(job)}, "spec": spec}
    jobs = [{"name": NODE, "template": {"spec": {"template": template}}}]
    return {"manager": "stablerep.dev/launch", "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": jobs}}}}
