"""A play on the fake API server: the controllers, the kubelets and the training processes of one job of two nodes.

`Scene` sets what they would set. A scene's script is a generator that the launcher's ticks move on, so that a test is a sequence and not a
race: `yield` waits for the next look of the launcher, `yield from scene.until(...)` for something to be so.
"""

from collections.abc import Callable, Iterator
from typing import Any

from fake_cluster import FakeCluster

from stablerep.cluster import EVENT, POD, TRAIN_JOB, Document
from stablerep.launch.kinds import JobKind

Script = Iterator[None]
_MAX_LOOKS = 600


class Scene:
    """One job of `num_nodes` nodes and what happens to it."""

    def __init__(self, cluster: FakeCluster, kind: JobKind, name: str, num_nodes: int = 2) -> None:
        self.cluster, self.kind, self.name, self.num_nodes = cluster, kind, name, num_nodes
        self._num_made = 0

    @property
    def job(self) -> Document | None:
        return self.cluster.get(self.kind.kind, self.name)

    @property
    def attempt(self) -> str:
        job = self.job
        return job["metadata"]["annotations"].get("stablerep.dev/attempt", "") if job else ""

    def suspend(self) -> None:
        if self.kind.kind == TRAIN_JOB:
            self.condition("Suspended", "Workload waits for quota")
        else:
            self.phase("Pending")

    def admit(self) -> None:
        if self.kind.kind == TRAIN_JOB:
            self.condition("Suspended", "admitted", "False")

    def condition(self, name: str, message: str = "", status: str = "True") -> None:
        row = {"type": name, "status": status, "reason": "Played", "message": message, "lastTransitionTime": "2026-11-23T08:00:00Z"}
        self.cluster.update_status(self.kind.kind, self.name, {"conditions": [row]})

    def phase(self, name: str, message: str = "") -> None:
        self.cluster.update_status(self.kind.kind, self.name, {"state": {"phase": name, "message": message}})

    def succeed(self) -> None:
        for node in range(self.num_nodes):
            self.pod(node, phase="Succeeded", terminated={"exitCode": 0, "reason": "Completed"})
        self.condition("Complete") if self.kind.kind == TRAIN_JOB else self.phase("Completed")

    def fail(self, message: str = "a pod failed") -> None:
        self.condition("Failed", message) if self.kind.kind == TRAIN_JOB else self.phase("Terminated", message)

    def run(self) -> None:
        """The job gets its place, and all its pods run."""
        self.admit()
        for node in range(self.num_nodes):
            self.pod(node)

    def pod(
        self,
        node: int,
        *,
        phase: str = "Running",
        name: str = "",
        place: str = "",
        terminated: dict[str, Any] | None = None,
        waiting: dict[str, Any] | None = None,
        conditions: tuple[dict[str, Any], ...] = (),
        **status: Any,
    ) -> str:
        """Make a pod, or change the pod of this name."""
        name = name or f"{self.name}-node-{node}"
        job = self.job
        assert job is not None
        labels = self.kind.pod_labels(self.name)
        labels |= {"batch.kubernetes.io/job-completion-index": str(node), "volcano.sh/task-spec": f"node-{node}"}
        owner = {"apiVersion": "v1", "kind": self.kind.kind.kind, "name": self.name, "uid": job["metadata"]["uid"]}
        container: dict[str, Any] = {"name": "node", "state": {"running": {}}}
        if terminated is not None:
            container["state"] = {"terminated": {"finishedAt": "2026-11-23T09:00:00Z", **terminated}}
        if waiting is not None:
            container["state"] = {"waiting": waiting}
        document: Document = {
            "metadata": {"name": name, "labels": labels, "ownerReferences": [owner]},
            "spec": {"containers": [{"name": "sidecar"}, {"name": "node"}]},
            "status": {"phase": phase, "conditions": list(conditions), "containerStatuses": [container], **status},
        }
        if place != "none":
            document["spec"]["nodeName"] = place or f"machine-{node}"
        self.cluster.set(POD, document)
        return name

    def remove_pods(self) -> None:
        for pod in self.cluster.objects(POD):
            self.cluster.remove(POD, pod["metadata"]["name"])

    def say(self, node: int, *lines: str, name: str = "") -> None:
        """Write lines into a pod's log, all within one second of the cluster's clock (`second` moves on with `later`)."""
        log = self.cluster.logs.setdefault((name or f"{self.name}-node-{node}", "node"), [])
        log += [f"2026-11-23T09:00:{self._num_made:02d}.{len(log):09d}Z {line}" for line in lines]

    def later(self) -> None:
        self._num_made += 1

    def event(self, name: str, reason: str, message: str, type_: str = "Warning") -> None:
        document = {"metadata": {"name": f"{name}.{len(self.cluster.objects(EVENT))}"}, "type": type_, "reason": reason, "message": message}
        self.cluster.set(EVENT, document | {"involvedObject": {"name": name}, "lastTimestamp": "2026-11-23T09:00:00Z"})

    def until(self, is_so: Callable[[], object]) -> Script:
        for _ in range(_MAX_LOOKS):
            if is_so():
                return
            yield
        raise AssertionError("what the scene waits for did not happen")


def look(times: int) -> Script:
    """Let the launcher look so many times."""
    for _ in range(times):
        yield


DISRUPTED = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "node is drained"}
UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/5 nodes: Insufficient nvidia.com/gpu"}
