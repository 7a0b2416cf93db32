"""The documents of a job of two nodes with eight GPUs each, compared whole, and what every pod must satisfy."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_groups import GENERATOR

from stablerep.config import RECIPES
from stablerep.config.schema import LaunchConfig
from stablerep.errors import ConfigError
from stablerep.integrations.torchx_trainjob import train_job
from stablerep.integrations.torchx_volcano import volcano_job
from stablerep.launch import Placement, Toleration, TrainingJob
from stablerep.records import DatasetRef
from stablerep.stages.pretrain_run import plan_run, training_job

GOLDEN = Path(__file__).parents[1] / "golden" / "launch"
DATASET = DatasetRef("groups-0", "s3://b/groups/groups-0", "2" * 64, "prompts-0", GENERATOR.generator_id, 16, 400, 2400, 6, {})
IMAGE = f"stablerep/train@sha256:{'a' * 64}"
LAUNCH = LaunchConfig(
    queue="gpu",
    priority_class="training",
    cpus_per_process=8,
    node_selector=("node.kubernetes.io/instance-type=a3-highgpu-8g",),
    tolerations=("nvidia.com/gpu:NoSchedule", "pool=training:NoExecute"),
)
DOCUMENTS = {"trainjob": train_job, "volcano": volcano_job}
Make = Callable[[TrainingJob], dict[str, Any]]


def two_nodes(launch: LaunchConfig = LAUNCH, image: str = IMAGE) -> TrainingJob:
    pretrain = replace(RECIPES["cc12m_b16_language"].pretrain, num_processes=16, num_nodes=2)
    plan = replace(plan_run("cc12m_b16_language", pretrain, DATASET), run_key="run-0123456789abcdef")
    return training_job(plan, "s3://bucket/store", launch, image)


def pods(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [task["template"] for task in document["spec"]["tasks"]]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_is_the_golden_one(name: str) -> None:
    found = DOCUMENTS[name](two_nodes())
    assert found == yaml.safe_load((GOLDEN / f"{name}_2x8.yaml").read_text())


@pytest.mark.parametrize("make", DOCUMENTS.values())
def test_equal_jobs_give_equal_documents(make: Make) -> None:
    assert make(two_nodes()) == make(two_nodes())
    assert make(two_nodes()) != make(two_nodes(replace(LAUNCH, cpus_per_process=9)))


def test_volcano_pods_are_restricted() -> None:
    for pod in pods(volcano_job(two_nodes())):
        spec, (container,) = pod["spec"], pod["spec"]["containers"]
        assert spec["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert spec["automountServiceAccountToken"] is False
        assert spec["serviceAccountName"] == "stablerep-train"
        assert spec["restartPolicy"] == "Never"
        assert spec["terminationGracePeriodSeconds"] > LAUNCH.grace_seconds
        assert container["resources"]["limits"] == {"cpu": "64", "memory": "262144Mi", "nvidia.com/gpu": "8"}
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert len(mounts) == len(container["volumeMounts"])
        volumes = {volume["name"]: volume["emptyDir"] for volume in spec["volumes"]}
        assert volumes[mounts["/dev/shm"]] == {"medium": "Memory", "sizeLimit": "16384Mi"}
        assert volumes[mounts["/tmp"]] == {}
        assert {"name": "metrics", "containerPort": 9090} in container["ports"]
        assert container["envFrom"] == [
            {"configMapRef": {"name": "stablerep-store", "optional": True}},
            {"secretRef": {"name": "stablerep-store", "optional": True}},
        ]
        assert pod["metadata"]["labels"]["app.kubernetes.io/name"] == "stablerep"


def test_volcano_nodes_meet_by_their_numbers_at_the_first() -> None:
    first, second = (pod["spec"]["containers"][0]["command"][2] for pod in pods(volcano_job(two_nodes())))
    assert first.startswith(
        "exec python -m stablerep.launch.node --rdzv_backend static --rdzv_endpoint ${TORCHX_RANK0_HOST:=localhost}:29500 "
    )
    assert "--rdzv_endpoint ${VC_NODE_0_HOSTS:=localhost}:29500 " in second
    assert "--node_rank '0'" in first
    assert "--node_rank '1'" in second
    assert "--nnodes 2 --nproc_per_node 8" in first


def test_a_trainjob_leaves_to_trainer_what_is_trainers() -> None:
    job = replace(two_nodes(), arguments=("s3://b/s", "--nnodes", "run"))
    trainer = train_job(job)["spec"]["trainer"]
    reserved = {"PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT"}
    assert not reserved & {variable["name"] for variable in trainer["env"]}
    assert trainer["args"] == ["--tee", "3", "--role", "", "-m", job.module, "s3://b/s", "--nnodes", "run"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 8)


@pytest.mark.parametrize("make", DOCUMENTS.values())
def test_a_job_without_gpus_asks_for_none_and_places_nothing(make: Make) -> None:
    job = two_nodes(LaunchConfig(gpus_per_process=0, gpu_resource="amd.com/gpu", queue="", store_secret=""))
    text = yaml.safe_dump(make(job))
    assert "gpu" not in text
    assert "tolerations" not in text
    assert "kueue" not in text
    assert "secretRef" not in text
    assert "secretKeyRef" not in text
    assert "memory: 32768Mi" in text


@pytest.mark.parametrize("make", DOCUMENTS.values())
def test_another_gpu_resource(make: Make) -> None:
    text = yaml.safe_dump(make(two_nodes(replace(LAUNCH, gpu_resource="amd.com/gpu"))))
    assert "amd.com/gpu: '8'" in text
    assert "nvidia.com/gpu: '8'" not in text


@pytest.mark.parametrize("make", DOCUMENTS.values())
def test_an_attempt_is_told_to_the_processes_only(make: Make) -> None:
    with_attempt, without = make(replace(two_nodes(), attempt="tenth-attempt")), make(two_nodes())
    assert yaml.safe_dump(with_attempt).count("tenth-attempt") in (1, 2)  # once a pod that is written out
    assert _without_attempt(with_attempt) == without


def _without_attempt(document: dict[str, Any]) -> dict[str, Any]:
    def cleaned(value: Any) -> Any:
        if isinstance(value, list):
            return [cleaned(item) for item in value if not (isinstance(item, dict) and item.get("name") == "STABLEREP_ATTEMPT")]
        return {key: cleaned(item) for key, item in value.items()} if isinstance(value, dict) else value

    return cleaned(copy.deepcopy(document))


@pytest.mark.parametrize("make", DOCUMENTS.values())
def test_a_job_without_an_image_is_refused(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"expected an image; set launch\.image or STABLEREP_TRAIN_IMAGE"):
        make(TrainingJob("a", "m", (), 1, placement=Placement(runtime="r")))


def test_a_trainjob_needs_a_runtime() -> None:
    with pytest.raises(ConfigError, match=r"expected the name of a TrainingRuntime; set launch\.runtime"):
        train_job(TrainingJob("a", "m", (), 1, image="i"))


@pytest.mark.parametrize(
    ("word", "document"),
    [
        ("nvidia.com/gpu:NoSchedule", {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}),
        ("pool=a:NoExecute", {"key": "pool", "operator": "Equal", "value": "a", "effect": "NoExecute"}),
    ],
)
def test_tolerations_are_written_as_kubectl_does(word: str, document: dict[str, str]) -> None:
    assert Toleration.of(word).document() == document


def test_the_job_travels_as_json_with_its_placement() -> None:
    assert TrainingJob.from_json(two_nodes().to_json()) == two_nodes()
