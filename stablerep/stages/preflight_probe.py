"""A pod that looks around where the training job will run: is the image pulled, what does the node show, how much of /dev/shm?

It asks for one accelerator, runs `stablerep doctor` for some seconds and is deleted, whatever happens; should this process be killed, the
cluster ends the pod at its deadline. It is started only when asked for, because a pool that grows by itself may add a node for it.
"""

import re
import signal
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from stablerep.cluster import POD, ClusterApi, Document, section
from stablerep.cluster.restricted import container_security, pod_security
from stablerep.config.schema import LaunchConfig
from stablerep.errors import ClusterError
from stablerep.launch import Toleration, stop_signals
from stablerep.stages.preflight_table import Check, judged, unknown

PROBE, IMAGE, SHARED_MEMORY, ACCELERATOR = "probe pod", "training image", "/dev/shm", "accelerator"
CONTAINER = "doctor"
_WATCH_SECONDS = 5.0
_NOT_PULLED = ("ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_NOT_STARTED = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_ROW = re.compile(r"(ok|FAILED|not checked) +(\S.*?) {2,}(.*)")
_MEMORY_GIB = 4  # to import torch and multiply on a GPU
_IMAGE_REMEDY = "push the image (make push), name it with its registry in launch.image, or give the ServiceAccount an imagePullSecret"
_PLACE_REMEDY = "correct launch.node_selector, launch.tolerations or launch.gpu_resource, or make room; see `kubectl get events`"


@dataclass(frozen=True)
class _End:
    """How the pod ended, or why it did not start."""

    is_started: bool = False
    exit_code: int | None = None
    reason: str = ""
    node: str = ""


def probe_pod(name: str, image: str, launch: LaunchConfig) -> Document:
    """The pod as a document: Pod Security `restricted`, no token, the job's selector and tolerations, one accelerator."""
    memory_gib = _MEMORY_GIB + launch.shared_memory_gib  # the kubelet makes /dev/shm no larger than the pod's memory
    limits = {"cpu": "1", "memory": f"{memory_gib}Gi", "ephemeral-storage": "1Gi"}
    environment = {"HOME": "/tmp", "COLUMNS": "500"}  # the log is read by columns: no row may be wrapped
    if launch.gpus_per_process:
        limits[launch.gpu_resource] = str(launch.gpus_per_process)
        environment["STABLEREP_REQUIRE_GPU"] = "1"
    container: Document = {
        "name": CONTAINER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["stablerep", "doctor"],
        "env": [{"name": key, "value": value} for key, value in environment.items()],
        "resources": {"limits": limits, "requests": dict(limits)},
        "securityContext": container_security(),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "shared-memory", "mountPath": "/dev/shm"}],
    }
    spec: Document = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": launch.start_timeout_seconds,
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "serviceAccountName": launch.service_account,
        "nodeSelector": dict(word.split("=", 1) for word in launch.node_selector),
        "tolerations": [Toleration.of(word).document() for word in launch.tolerations],
        "securityContext": pod_security(),
        "containers": [container],
        "volumes": [
            {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": f"{launch.shared_memory_gib}Gi"}},
        ],
    }
    return {"apiVersion": POD.api_version, "kind": POD.kind, "metadata": {"name": name, "labels": _labels(name)}, "spec": spec}


def _labels(name: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "stablerep",
        "app.kubernetes.io/component": "preflight",
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/part-of": "stablerep",
        "app.kubernetes.io/managed-by": "stablerep",
        "sidecar.istio.io/inject": "false",
    }


def check_probe_pod(api: ClusterApi, launch: LaunchConfig, image: str) -> list[Check]:
    """Start the pod, wait for its end for at most launch.start_timeout_seconds, read its log, delete it.

    Args:
        api: the cluster.
        launch: where the training job will run.
        image: of the training processes.
    """
    if not image:
        return [judged(IMAGE, False, "none is named", "set launch.image, or STABLEREP_TRAIN_IMAGE, to the training image by its digest")]
    name, namespace = f"stablerep-probe-{uuid.uuid4().hex[:8]}", launch.namespace or api.namespace
    document = probe_pod(name, image, launch)
    try:
        with stop_signals(signal.SIGTERM, signal.SIGINT) as is_stop_asked:
            api.create(POD, document, namespace)
            end = _wait(api, name, namespace, launch.start_timeout_seconds, is_stop_asked)
            lines = api.log_lines(name, CONTAINER, namespace) if end.is_started else []
        checks = _judge(end, image, launch, [line.partition(" ")[2] for line in lines])
    except ClusterError as error:
        checks = [judged(PROBE, False, str(error), "mend what the server refuses: the training pods are refused in the same way")]
    finally:
        left = _delete(api, name, namespace)
    return checks + left


def _delete(api: ClusterApi, name: str, namespace: str) -> list[Check]:
    try:
        api.delete(POD, name, namespace)
    except ClusterError as error:
        return [judged(PROBE, False, f"not deleted: {error}", f"kubectl delete pod {name} -n {namespace}")]
    return []


def _wait(api: ClusterApi, name: str, namespace: str, seconds: float, is_stop_asked: Callable[[], bool]) -> _End:
    """Follow the pod to its end, or to what it will not get over by itself."""
    ends_at = time.monotonic() + seconds
    seen = _End(reason="the cluster has not looked at it")
    while (remaining := ends_at - time.monotonic()) > 0 and not is_stop_asked():
        is_there = False
        for event in api.watch(POD, namespace, {"app.kubernetes.io/instance": name}, seconds=min(remaining, _WATCH_SECONDS)):
            is_there = event.type != "DELETED"
            if not is_there:
                break
            seen, is_final = _look(event.document)
            if is_final:
                return seen
            if is_stop_asked():
                break
        if not is_there:
            return _End(reason="somebody deleted the pod while it ran", node=seen.node)
    word = "stopped as asked" if is_stop_asked() else f"not ended after {seconds:.0f} s"
    return _End(seen.is_started, None, f"{word}: {seen.reason}", seen.node)


def _look(pod: Document) -> tuple[_End, bool]:
    """What the pod's status says, and whether that will not change any more."""
    status = section(pod, "status")
    node = str(section(pod, "spec").get("nodeName") or "")
    containers: list[Document] = status.get("containerStatuses") or [{}]
    state = section(containers[0], "state")
    if ended := state.get("terminated"):
        return _End(True, int(ended["exitCode"]), f"{ended.get('reason', '')} {ended.get('message', '')}".strip(), node), True
    if status.get("phase") == "Failed":
        return _End(False, None, f"{status.get('reason', 'failed')}: {status.get('message', '')}", node), True
    if waiting := state.get("waiting"):
        reason = str(waiting.get("reason", ""))
        return _End(False, None, f"{reason}: {waiting.get('message', '')}", node), reason in (*_NOT_PULLED, *_NOT_STARTED)
    if "running" in state:
        return _End(True, None, "it runs", node), False
    conditions: list[Document] = status.get("conditions") or []
    unplaced = [str(condition.get("message") or "") for condition in conditions if condition["type"] == "PodScheduled"]
    return _End(False, None, "".join(unplaced) or "waiting for a node", node), False


def _judge(end: _End, image: str, launch: LaunchConfig, lines: list[str]) -> list[Check]:
    """The table's rows of a probe that ended."""
    if end.reason.startswith(_NOT_PULLED):
        return [judged(IMAGE, False, f"{image}: {end.reason}", _IMAGE_REMEDY)]
    if not end.is_started:
        return [judged(PROBE, False, end.reason, _PLACE_REMEDY)]
    checks = [judged(IMAGE, True, f"{image}, on node {end.node}", "")]
    if end.exit_code is None:
        return [*checks, judged(PROBE, False, end.reason, "raise launch.start_timeout_seconds, or look at the node")]
    rows = {match[2].strip(): match for line in lines if (match := _ROW.fullmatch(line.rstrip()))}
    failed = [f"{name}: {row[3]}" for name, row in rows.items() if row[1] == "FAILED"]
    found = "; ".join(failed) or ("every check of `stablerep doctor` is ok" if end.exit_code == 0 else " / ".join(lines[-3:]))
    text = f"on node {end.node}: {found}" + (f" (exit code {end.exit_code}, {end.reason})" if end.exit_code else "")
    checks.append(judged(PROBE, end.exit_code == 0, text, "use the image of role train, as images/ builds it, on a node with its driver"))
    return [*checks, _shared_memory(rows, launch), *_accelerator(rows, launch)]


def _shared_memory(rows: dict[str, re.Match[str]], launch: LaunchConfig) -> Check:
    size = re.search(r"(\d+) MiB", rows["shared memory"][3]) if "shared memory" in rows else None
    if size is None:
        return unknown(SHARED_MEMORY, "the pod's log says nothing about it")
    is_enough = int(size[1]) >= launch.shared_memory_gib * 1024
    given, wanted = f"{int(size[1]) / 1024:.4g} GiB", f"launch.shared_memory_gib={launch.shared_memory_gib}"
    found = f"the node gives {given} to a volume of {wanted}, which the job's pods get as well"
    return judged(SHARED_MEMORY, is_enough, found, "lower launch.shared_memory_gib under the node's memory, or take a larger node")


def _accelerator(rows: dict[str, re.Match[str]], launch: LaunchConfig) -> list[Check]:
    if not launch.gpus_per_process:
        return []
    if "CUDA" not in rows:
        return [unknown(ACCELERATOR, "the pod's log says nothing about it")]
    remedy = "install the driver and the device plugin (GPU operator) on this pool, or set launch.gpus_per_process=0"
    return [judged(ACCELERATOR, rows["CUDA"][1] == "ok", rows["CUDA"][3], remedy)]
