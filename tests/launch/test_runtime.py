"""What a TrainJob cannot change in its TrainingRuntime is compared with what the job needs, before anything is made."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_cluster import FakeCluster

from stablerep.cluster import TRAINING_RUNTIME
from stablerep.config.schema import LaunchConfig
from stablerep.errors import ConfigError
from stablerep.integrations.kubernetes_api import KubernetesApi, connect
from stablerep.integrations.torchx_trainjob import train_job
from stablerep.integrations.torchx_volcano import volcano_job
from stablerep.launch import Placement, TrainingJob
from stablerep.launch.runtime import NODE, SHARED_MEMORY, SPARE_SECONDS, check_runtime

FILE = Path(__file__).parents[2] / "manifests" / "runtimes" / "training-runtime.yaml"
PLACEMENT = Placement(runtime="stablerep-deepspeed", shared_memory_mib=16 * 1024, grace_seconds=LaunchConfig().grace_seconds)
JOB = TrainingJob("job", "m", (), 1, image="i", placement=PLACEMENT)


@pytest.fixture
def api(cluster_kubeconfig: Path) -> Iterator[KubernetesApi]:
    with connect(budget_seconds=0.2) as api:
        yield api


@pytest.fixture
def pod(fake_cluster: FakeCluster) -> dict[str, Any]:
    """The pod of the runtime in manifests/; `place` puts it into the cluster."""
    return _pod(yaml.safe_load(FILE.read_text()))


def _pod(runtime: dict[str, Any]) -> dict[str, Any]:
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    return job["template"]["spec"]["template"]["spec"]


def _place(cluster: FakeCluster, **changes: Any) -> None:
    runtime = yaml.safe_load(FILE.read_text())
    _pod(runtime).update(changes)
    cluster.set(TRAINING_RUNTIME, {key: value for key, value in runtime.items() if key not in ("apiVersion", "kind")})


def _with(**changes: Any) -> TrainingJob:
    return replace(JOB, placement=replace(PLACEMENT, **changes))


def test_the_runtime_of_the_manifests_fits_the_defaults(api: KubernetesApi, fake_cluster: FakeCluster, pod: dict[str, Any]) -> None:
    _place(fake_cluster)
    check_runtime(api, JOB)
    check_runtime(api, _with(shared_memory_mib=10**6))  # the job sets it
    check_runtime(api, _with(grace_seconds=pod["terminationGracePeriodSeconds"] - SPARE_SECONDS))


def test_a_grace_that_is_too_short_is_refused_with_the_number_to_set(api: KubernetesApi, fake_cluster: FakeCluster) -> None:
    _place(fake_cluster)
    message = r"job job: TrainingRuntime stablerep-deepspeed: expected .* of 151 or more .*found 150.*or set launch\.grace_seconds=135"
    with pytest.raises(ConfigError, match=message):
        check_runtime(api, _with(grace_seconds=136))
    _place(fake_cluster, terminationGracePeriodSeconds=None)
    with pytest.raises(ConfigError, match="found 30; a TrainJob cannot change it"):
        check_runtime(api, JOB)


@pytest.mark.parametrize(("size", "is_enough"), [("16Gi", True), ("17179869184", True), ("15Gi", False), ("1G", False), (None, True)])
def test_a_volume_that_a_job_does_not_set_must_be_large_enough(
    api: KubernetesApi, fake_cluster: FakeCluster, pod: dict[str, Any], size: str | None, is_enough: bool
) -> None:
    pod["containers"][0]["volumeMounts"][0]["name"] = "shm"
    volume = {"name": "shm", "emptyDir": {"medium": "Memory"} | ({"sizeLimit": size} if size else {})}
    _place(fake_cluster, containers=pod["containers"], volumes=[volume])
    if is_enough:
        check_runtime(api, JOB)
        return
    with pytest.raises(ConfigError, match=rf"launch\.shared_memory_gib=16 at /dev/shm, found volume shm of {size}; call the volume"):
        check_runtime(api, JOB)


def test_without_shared_memory_the_remedy_is_told(api: KubernetesApi, fake_cluster: FakeCluster, pod: dict[str, Any]) -> None:
    pod["containers"][0]["volumeMounts"] = []
    _place(fake_cluster, containers=pod["containers"])
    with pytest.raises(ConfigError, match=r"expected an emptyDir shared-memory at /dev/shm for launch\.shared_memory_gib=16, found none"):
        check_runtime(api, JOB)
    check_runtime(api, _with(shared_memory_mib=0))


def test_a_runtime_of_other_jobs_is_refused(api: KubernetesApi, fake_cluster: FakeCluster) -> None:
    fake_cluster.set(TRAINING_RUNTIME, {"metadata": {"name": PLACEMENT.runtime}, "spec": {}})
    with pytest.raises(ConfigError, match="expected a replicated job node, found none"):
        check_runtime(api, JOB)


def test_a_runtime_that_cannot_be_read_is_told_and_one_that_is_missing_left_to_the_server(
    api: KubernetesApi, fake_cluster: FakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    check_runtime(api, JOB)
    assert caplog.text == ""
    fake_cluster.forbid("get", TRAINING_RUNTIME)
    check_runtime(api, JOB)
    assert "TrainingRuntime stablerep-deepspeed cannot be read" in caplog.text
    assert "launch.grace_seconds=120" in caplog.text


def test_what_a_job_patches_is_the_volume_that_the_runtime_mounts(pod: dict[str, Any]) -> None:
    (patch,) = train_job(JOB)["spec"]["runtimePatches"]
    (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    (volume,) = job["template"]["spec"]["template"]["spec"]["volumes"]
    assert job["name"] == pod["containers"][0]["name"] == NODE
    assert volume == {"name": SHARED_MEMORY, "emptyDir": {"medium": "Memory", "sizeLimit": "16384Mi"}}
    assert {"name": SHARED_MEMORY, "mountPath": "/dev/shm"} in pod["containers"][0]["volumeMounts"]
    assert SHARED_MEMORY in {volume["name"] for volume in pod["volumes"]}
    (without,) = train_job(_with(shared_memory_mib=0))["spec"]["runtimePatches"]
    assert "volumes" not in str(without)


@pytest.mark.parametrize("seconds", [1, 120, 3600])
def test_torchrun_gives_up_before_the_pod_does(seconds: int) -> None:
    job = _with(grace_seconds=seconds)
    (task,) = volcano_job(job)["spec"]["tasks"]
    assert task["template"]["spec"]["terminationGracePeriodSeconds"] >= seconds + SPARE_SECONDS
