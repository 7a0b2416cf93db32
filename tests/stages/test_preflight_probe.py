"""The probe pod: what it is, how it ends, and that it is deleted whatever happens."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_cluster import FakeCluster
from fake_cluster_objects import Refusal
from whole_cluster import IMAGE, look, scope

from stablerep.cluster import POD, Document
from stablerep.integrations.kubernetes_api import KubernetesApi
from stablerep.stages import doctor, preflight_probe
from stablerep.stages.preflight_probe import ACCELERATOR, CONTAINER, PROBE, SHARED_MEMORY, probe_pod
from stablerep.stages.preflight_probe import IMAGE as IMAGE_CHECK
from stablerep.stages.preflight_table import Check, judged, plain

WATCHED_WITHIN_SECONDS = 60.0
GOLDEN = Path(__file__).parents[1] / "golden" / "preflight" / "probe_pod.yaml"
ROWS = (
    judged("role", True, "train", ""),
    judged("CUDA", True, "torch 2.15.0, built for CUDA 13.2; 64 x 64 product on cuda; NVIDIA H100", ""),
    judged("shared memory", True, "16384 MiB at /dev/shm", ""),
)
RUNNING: Document = {"phase": "Running", "containerStatuses": [{"name": CONTAINER, "state": {"running": {}}}]}


def waiting(reason: str, message: str = "") -> Document:
    return {"phase": "Pending", "containerStatuses": [{"name": CONTAINER, "state": {"waiting": {"reason": reason, "message": message}}}]}


def ended(exit_code: int, reason: str = "Completed") -> Document:
    state = {"terminated": {"exitCode": exit_code, "reason": reason}}
    phase = "Failed" if exit_code else "Succeeded"
    return {"phase": phase, "containerStatuses": [{"name": CONTAINER, "state": state}]}


def unplaced(message: str) -> Document:
    return {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "message": message}]}


@dataclass
class Kubelet:
    """Plays the scheduler and the kubelet: a pod goes through `course`, one status after the other, at once or when it is watched."""

    cluster: FakeCluster
    course: list[Document] = field(default_factory=list)
    rows: tuple[Check, ...] = ROWS
    is_prompt: bool = False
    pods: list[Document] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cluster.on_change(POD, self._changed)

    def _changed(self, event: str, pod: Document) -> None:
        self.events.append(event)
        if event != "ADDED":
            return
        self.pods.append(pod)
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        threading.Thread(target=self._play, args=(name, namespace)).start()

    def _play(self, name: str, namespace: str) -> None:
        gives_up_at = time.monotonic() + WATCHED_WITHIN_SECONDS
        while not (self.is_prompt or self.cluster.seen("watch", POD)):
            if time.monotonic() > gives_up_at:
                return
            time.sleep(0.005)
        for status in self.course:
            if "containerStatuses" in status and "waiting" not in status["containerStatuses"][0]["state"]:
                lines = plain(self.rows, 500).splitlines()
                self.cluster.logs[name, CONTAINER] = [f"2026-11-23T09:00:00.0Z {line}" for line in lines]
            with suppress(Refusal):  # preflight has seen enough and deleted it
                self.cluster.update_status(POD, name, status, namespace)


@pytest.fixture
def probe(api: KubernetesApi, cluster: FakeCluster) -> Iterator[Callable[..., dict[str, Check]]]:
    """Looks with a probe pod; afterwards there is no pod, however it went."""

    def run(words: str = "", image: str = IMAGE) -> dict[str, Check]:
        words = f"launch.start_timeout_seconds=20 {words}"
        return look(api, words, stages=("pretrain",), has_probe_pod=True, image=image)

    yield run
    for namespace in ("stablerep", "team-a"):
        assert cluster.objects(POD, namespace) == []


def test_the_pod_is_the_golden_one() -> None:
    pod = probe_pod("stablerep-probe-0123abcd", "stablerep/train@sha256:" + "a" * 64, scope().recipe.launch)
    assert pod == yaml.safe_load(GOLDEN.read_text(encoding="utf-8"))


def test_without_a_gpu_none_is_asked_for() -> None:
    container = probe_pod("probe", IMAGE, scope("launch.gpus_per_process=0").recipe.launch)["spec"]["containers"][0]
    assert set(container["resources"]["limits"]) == {"cpu", "memory", "ephemeral-storage"}
    assert container["resources"]["limits"]["memory"] == "20Gi"
    assert "STABLEREP_REQUIRE_GPU" not in [variable["name"] for variable in container["env"]]


@pytest.mark.parametrize("is_prompt", [True, False])
def test_a_pod_that_finds_everything(probe: Callable[..., dict[str, Check]], cluster: FakeCluster, is_prompt: bool) -> None:
    kubelet = Kubelet(cluster, [waiting("ContainerCreating"), RUNNING, ended(0)], is_prompt=is_prompt)
    checks = probe()
    assert checks[IMAGE_CHECK].found.startswith(IMAGE)
    assert [checks[name].state for name in (IMAGE_CHECK, PROBE, SHARED_MEMORY, ACCELERATOR)] == ["ok"] * 4
    found = "the node gives 16 GiB to a volume of launch.shared_memory_gib=16, which the job's pods get as well"
    assert checks[SHARED_MEMORY].found == found
    assert checks[ACCELERATOR].found.endswith("NVIDIA H100")
    assert len(kubelet.pods) == 1
    assert len(cluster.seen("delete", POD)) == 1


def test_it_runs_in_the_namespace_of_the_job(probe: Callable[..., dict[str, Check]], cluster: FakeCluster) -> None:
    kubelet = Kubelet(cluster, [ended(0)])
    assert probe("launch.namespace=team-a")[PROBE].is_ok
    assert kubelet.pods[0]["metadata"]["namespace"] == "team-a"


@pytest.mark.parametrize("reason", ["ImagePullBackOff", "InvalidImageName"])
def test_an_image_that_cannot_be_pulled(probe: Callable[..., dict[str, Check]], cluster: FakeCluster, reason: str) -> None:
    Kubelet(cluster, [waiting("ErrImagePull", "401 Unauthorized"), waiting(reason, "401 Unauthorized")])
    check = probe()[IMAGE_CHECK]
    assert check.state == "failed"
    assert f"{IMAGE}: {reason}: 401 Unauthorized" in check.found
    assert "imagePullSecret" in check.remedy


def test_a_pod_that_finds_no_place_says_why(probe: Callable[..., dict[str, Check]], cluster: FakeCluster) -> None:
    Kubelet(cluster, [unplaced("0/5 nodes are available: 5 Insufficient nvidia.com/gpu.")])
    check = probe("launch.start_timeout_seconds=1")[PROBE]
    assert check.state == "failed"
    assert check.found == "not ended after 1 s: 0/5 nodes are available: 5 Insufficient nvidia.com/gpu."
    assert "launch.node_selector" in check.remedy


def test_a_pod_that_does_not_end_is_not_waited_for(probe: Callable[..., dict[str, Check]], cluster: FakeCluster) -> None:
    Kubelet(cluster, [RUNNING])
    checks = probe("launch.start_timeout_seconds=1")
    assert checks[IMAGE_CHECK].is_ok
    assert checks[PROBE].found == "not ended after 1 s: it runs"


def test_what_the_pod_finds_wrong(probe: Callable[..., dict[str, Check]], cluster: FakeCluster) -> None:
    rows = (judged("CUDA", False, "no GPU visible", ""), judged("shared memory", True, "64 MiB at /dev/shm", ""))
    Kubelet(cluster, [RUNNING, ended(2, "Error")], rows)
    checks = probe()
    assert checks[PROBE].state == "failed"
    assert "CUDA: no GPU visible (exit code 2, Error)" in checks[PROBE].found
    assert checks[SHARED_MEMORY].state == "failed"
    assert checks[SHARED_MEMORY].found.startswith("the node gives 0.0625 GiB to a volume of launch.shared_memory_gib=16")
    assert checks[ACCELERATOR].state == "failed"
    assert "device plugin" in checks[ACCELERATOR].remedy


def test_a_log_that_says_nothing_is_not_taken_for_a_finding(probe: Callable[..., dict[str, Check]], cluster: FakeCluster) -> None:
    Kubelet(cluster, [ended(137, "OOMKilled")], ())
    checks = probe()
    assert "exit code 137, OOMKilled" in checks[PROBE].found
    assert [checks[name].state for name in (SHARED_MEMORY, ACCELERATOR)] == ["not checked"] * 2


def test_the_rows_of_the_real_doctor_are_read(
    probe: Callable[..., dict[str, Check]], cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STABLEREP_ROLE", "train")
    rows = tuple(check for check in doctor._torch() if check.name in ("CUDA", "shared memory"))
    Kubelet(cluster, [ended(0)], rows)
    checks = probe()
    assert checks[SHARED_MEMORY].state != "not checked"
    assert checks[ACCELERATOR].found.startswith("torch ")


@pytest.mark.parametrize("is_prompt", [True, False], ids=["before it is looked at", "while it is watched"])
def test_a_pod_that_somebody_deletes(
    probe: Callable[..., dict[str, Check]], cluster: FakeCluster, is_prompt: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight_probe, "_WATCH_SECONDS", 0.5)
    kubelet = Kubelet(cluster, [RUNNING], is_prompt=is_prompt)
    cluster.on_change(POD, lambda event, pod: cluster.remove(POD, pod["metadata"]["name"]) if event == "MODIFIED" else None)
    assert probe()[PROBE].found == "somebody deleted the pod while it ran"
    assert kubelet.events[-1] == "DELETED"


def test_admission_that_refuses_the_pod(probe: Callable[..., dict[str, Check]], cluster: FakeCluster) -> None:
    cluster.refuse("create", POD, 'violates PodSecurity "restricted:latest"', code=403, reason="Forbidden")
    check = probe()[PROBE]
    assert check.state == "failed"
    assert "violates PodSecurity" in check.found


def test_a_pod_that_cannot_be_deleted_is_named(api: KubernetesApi, cluster: FakeCluster) -> None:
    Kubelet(cluster, [ended(0)])
    cluster.fail(500, times=100, verb="delete", kind=POD)
    checks = look(api, stages=("pretrain",), has_probe_pod=True, image=IMAGE)
    (left,) = cluster.objects(POD)
    assert checks[PROBE].remedy == f"kubectl delete pod {left['metadata']['name']} -n stablerep"


def test_without_the_right_no_pod_is_started(probe: Callable[..., dict[str, Check]], cluster: FakeCluster) -> None:
    cluster.forbid("create", POD)
    checks = probe()
    assert checks["rights on pods"].state == "failed"
    assert "somebody who may start pods" in checks["rights on pods"].remedy
    assert cluster.seen("create", POD) == []


def test_without_an_image_no_pod_is_started(probe: Callable[..., dict[str, Check]], cluster: FakeCluster) -> None:
    check = probe(image="")[IMAGE_CHECK]
    assert (check.state, check.found) == ("failed", "none is named")
    assert cluster.seen("create", POD) == []


def test_without_being_asked_no_pod_is_started(api: KubernetesApi, cluster: FakeCluster) -> None:
    assert PROBE not in look(api, image=IMAGE)
    assert cluster.seen("create", POD) == []


def test_a_signal_ends_the_wait_and_the_pod(probe: Callable[..., dict[str, Check]], cluster: FakeCluster) -> None:
    Kubelet(cluster, [RUNNING])
    cluster.on_change(POD, lambda event, _: os.kill(os.getpid(), signal.SIGTERM) if event == "MODIFIED" else None)
    assert probe()[PROBE].found == "stopped as asked: it runs"
    assert len(cluster.seen("list", POD)) == 1  # it did not go on watching


def test_an_error_of_ours_leaves_no_pod(
    probe: Callable[..., dict[str, Check]], cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(preflight_probe, "_look", fail)
    Kubelet(cluster, [RUNNING])
    with pytest.raises(ZeroDivisionError):
        probe()
    assert len(cluster.seen("delete", POD)) == 1
