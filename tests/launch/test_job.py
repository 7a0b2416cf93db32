"""A job as plain data, and the AppDef TorchX would get, compared whole."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_groups import GENERATOR

from stablerep.config import RECIPES
from stablerep.errors import ConfigError, LaunchError
from stablerep.integrations.torchx_app import TorchxLocal
from stablerep.launch import TrainingJob, dry_run
from stablerep.records import DatasetRef
from stablerep.stages.pretrain_run import plan_run, training_job

GOLDEN = Path(__file__).parents[1] / "golden"
DATASET = DatasetRef("groups-0", "s3://b/groups/groups-0", "2" * 64, "prompts-0", GENERATOR.generator_id, 16, 400, 2400, 6, {})


@pytest.mark.parametrize("recipe", ["quickstart", "cc12m_b16_language"])
def test_appdef_is_the_golden_one(recipe: str) -> None:
    job = training_job(replace(plan_run(recipe, RECIPES[recipe].pretrain, DATASET), run_key="run-0123456789abcdef"), "s3://bucket/store")
    with TorchxLocal() as backend:
        found = dry_run(job, backend)
    assert found == json.loads((GOLDEN / f"appdef_{recipe}.json").read_text())


def test_a_job_travels_as_json() -> None:
    job = TrainingJob("pretrain-x", "stablerep.stages.pretrain_worker", ("a", "b c"), 8, num_nodes=2, environment={"A": "1"})
    assert TrainingJob.from_json(job.to_json()) == job
    assert job.processes_per_node == 4


@pytest.mark.parametrize("name", ["", "Pretrain", "a_b", "-a", "a-", "a" * 41, "1a"])
def test_names_fit_kubernetes(name: str) -> None:
    with pytest.raises(ConfigError, match="job name: expected at most 40 of a-z, 0-9 and '-'"):
        TrainingJob(name, "m", (), 1)


def test_processes_fill_the_nodes() -> None:
    with pytest.raises(ConfigError, match="multiple of num_nodes=2 processes, found 3"):
        TrainingJob("a", "m", (), 3, num_nodes=2)


def test_the_local_backend_runs_one_node(tmp_path: Path) -> None:
    job = TrainingJob("a", "m", (), 2, num_nodes=2)
    with TorchxLocal() as backend, pytest.raises(LaunchError, match=r"runs one node, found num_nodes=2; set pretrain\.num_nodes=1"):
        backend.submit(job, tmp_path)


def test_the_job_is_the_same_for_every_attempt_and_differs_by_run() -> None:
    pretrain = RECIPES["quickstart"].pretrain
    jobs = [
        training_job(plan_run("quickstart", settings, DATASET), "s3://b/s") for settings in (pretrain, pretrain, replace(pretrain, seed=1))
    ]
    assert jobs[0] == jobs[1]
    assert jobs[0].name != jobs[2].name
