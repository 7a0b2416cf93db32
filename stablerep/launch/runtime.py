"""What a TrainingRuntime fixes and a TrainJob cannot change: how long pods may save, and what is mounted at /dev/shm.

Trainer merges a job's runtime patches into the runtime's pod template (volumes by their names). A patch cannot say
terminationGracePeriodSeconds, so the runtime's must do: the launcher compares it before it submits. Nothing is changed here.
"""

import logging
import re
from collections.abc import Iterator

from stablerep.cluster import TRAINING_RUNTIME, ClusterApi, Document
from stablerep.errors import ClusterError, ConfigError
from stablerep.launch.documents import part, rows
from stablerep.launch.job import Placement, TrainingJob

log = logging.getLogger("stablerep")

NODE = "node"  # the replicated job, and its container
SHARED_MEMORY = "shared-memory"  # the volume that a job patches
SPARE_SECONDS = 15  # a pod needs them after its processes have saved
_DEFAULT_GRACE_SECONDS = 30  # Kubernetes'
_SHM = "/dev/shm"
_FILE = "manifests/runtimes/training-runtime.yaml"
_MIB = {
    "": 2**-20,
    "k": 1e3 / 2**20,
    "M": 1e6 / 2**20,
    "G": 1e9 / 2**20,
    "T": 1e12 / 2**20,
    "Ki": 2**-10,
    "Mi": 1,
    "Gi": 2**10,
    "Ti": 2**20,
}


def check_runtime(api: ClusterApi, job: TrainingJob, namespace: str = "") -> None:
    """Compare the job's runtime with what the job needs; a runtime that is missing is the server's to refuse.

    Args:
        api: a server.
        job: not submitted yet.
        namespace: where it will be; empty: that of the credentials.

    Raises:
        ConfigError: pods would be killed while they save, or their shared memory is too small.
    """
    placement = job.placement
    try:
        found = api.get(TRAINING_RUNTIME, placement.runtime, namespace or api.namespace)
    except ClusterError as error:
        log.warning(
            "TrainingRuntime %s cannot be read, so nobody knows whether its pods get launch.grace_seconds=%d to save in: %s",
            placement.runtime,
            placement.grace_seconds,
            error,
        )
        return
    if found and (problems := list(runtime_problems(found, placement))):
        raise ConfigError(f"job {job.name}: TrainingRuntime {placement.runtime}: " + "; ".join(problems))


def runtime_problems(runtime: Document, placement: Placement) -> Iterator[str]:
    """What of a runtime does not fit a job, each with what to do; preflight says the same before anything is spent."""
    jobs = [job for job in rows(runtime, "spec", "template", "spec", "replicatedJobs") if job.get("name") == NODE]
    if not jobs:
        yield f"expected a replicated job {NODE}, found none; take {_FILE}"
        return
    pod = part(jobs[0], "template", "spec", "template", "spec")
    grace = int(pod.get("terminationGracePeriodSeconds") or _DEFAULT_GRACE_SECONDS)
    needed = placement.grace_seconds + SPARE_SECONDS
    if grace < needed:
        yield (
            f"expected terminationGracePeriodSeconds of {needed} or more (launch.grace_seconds={placement.grace_seconds} to save in, and "
            f"{SPARE_SECONDS} to end), found {grace}; a TrainJob cannot change it: raise it in the runtime ({_FILE}, or a patch in your "
            f"overlay), or set launch.grace_seconds={max(grace - SPARE_SECONDS, 1)}"
        )
    yield from _shared_memory_problem(pod, placement.shared_memory_mib)


def _shared_memory_problem(pod: Document, wanted_mib: int) -> Iterator[str]:
    container = next((c for c in rows(pod, "containers") if c.get("name") == NODE), Document())
    mounted = next((str(mount.get("name")) for mount in rows(container, "volumeMounts") if mount.get("mountPath") == _SHM), "")
    if not wanted_mib or mounted == SHARED_MEMORY:  # its size is the job's
        return
    wanted = f"launch.shared_memory_gib={wanted_mib // 1024}"
    if not mounted:
        yield f"expected an emptyDir {SHARED_MEMORY} at {_SHM} for {wanted}, found none; take it from {_FILE}"
        return
    volume = next((v for v in rows(pod, "volumes") if v.get("name") == mounted), Document())
    limit = part(volume, "emptyDir").get("sizeLimit")
    if limit is not None and _mib(str(limit)) < wanted_mib:
        yield (
            f"expected {wanted} at {_SHM}, found volume {mounted} of {limit}; call the volume {SHARED_MEMORY}, so "
            "that the job can set its size, or raise its sizeLimit"
        )


def _mib(quantity: str) -> float:
    """A quantity of bytes as Kubernetes writes it; infinite where it is written in another way."""
    number = re.fullmatch(r"(\d+(?:\.\d+)?)(k|Ki|[MGT]i?)?", quantity)
    return float(number[1]) * _MIB[number[2] or ""] if number else float("inf")
