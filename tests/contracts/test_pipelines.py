"""What is committed for Kubeflow is what the code compiles to, is small, and joins the stages it says it joins."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))
COMPILED = PROJECT / "pipelines" / "compiled"
COMPONENTS = sorted((PROJECT / "components").glob("*/*/component.py"))
NEVER_CACHED = {"preflight", "generate", "commit", "pretrain", "gate", "deploy", "verify", "hold", "finish"}
FRAME = {"preflight", "finish"}
JOINED = {
    "generate_dataset": {"generator", "prepare", "generate", "commit"},
    "pretrain_and_probe": {"pretrain", "export", "probe"},
    "promote_encoder": {"gate", "deploy", "verify", "hold"},
}
PARAMETERS = {
    "stablerep": {"accelerator", "gpu_node_selector", "gpu_tolerations", "spot_node_selector", "spot_tolerations"},
    "generate_dataset": {"accelerator", "gpu_tolerations", "spot_node_selector", "spot_tolerations"},
    "pretrain_and_probe": {"dataset", "accelerator", "gpu_node_selector", "gpu_tolerations"},
    "promote_encoder": {"model", "evaluation"},
}
by_pipeline = pytest.mark.parametrize("name", PARAMETERS)
Specification = dict[str, Any]


@pytest.fixture(scope="module")
def specifications() -> dict[str, Specification]:
    return {name: next(iter(yaml.safe_load_all(_path(name).read_text(encoding="utf-8")))) for name in PARAMETERS}


def _path(name: str) -> Path:
    return COMPILED / f"{name}.yaml"


def _tasks(specification: Specification) -> dict[str, dict[str, Any]]:
    dags = [specification["root"]["dag"], *(c["dag"] for c in specification["components"].values() if "dag" in c)]
    return {name: task for dag in dags for name, task in dag["tasks"].items()}


def _stages(specification: Specification) -> set[str]:
    components = specification["components"]
    return {name for name in _tasks(specification) if "executorLabel" in components.get(f"comp-{name}", {})}


def test_compiled_pipelines_do_not_drift(tmp_path: Path) -> None:
    from pipelines.compile import compile_all

    fresh = {path.name: path.read_text(encoding="utf-8") for path in compile_all(tmp_path)}
    committed = {path.name: path.read_text(encoding="utf-8") for path in COMPILED.glob("*.yaml")}
    assert fresh == committed, "run `make compile` and commit the result"


@by_pipeline
def test_compiled_pipeline_is_small_and_has_few_parameters(name: str, specifications: dict[str, Specification]) -> None:
    assert _path(name).stat().st_size < 256 * 1024
    parameters = specifications[name]["root"]["inputDefinitions"]["parameters"]
    assert set(parameters) == {"store", "recipe", "overrides"} | PARAMETERS[name]
    assert len(parameters) <= 8
    assert {key for key, parameter in parameters.items() if not parameter.get("isOptional")} == {"store"}
    assert all(parameter["description"] for parameter in parameters.values())
    assert parameters["recipe"]["defaultValue"] == "quickstart"


def test_every_stage_is_a_task_and_every_task_is_a_stage(specifications: dict[str, Specification]) -> None:
    from stablerep.stages import STAGES

    assert _stages(specifications["stablerep"]) == set(STAGES) == {path.parent.name for path in COMPONENTS}


def test_the_three_parts_are_the_whole(specifications: dict[str, Specification]) -> None:
    from stablerep.stages import STAGES

    assert {name: _stages(specifications[name]) - FRAME for name in JOINED} == JOINED
    assert FRAME.union(*JOINED.values()) == set(STAGES)
    assert all(_stages(specifications[name]) >= FRAME for name in JOINED)
    for name, stages in JOINED.items():
        whole, part = specifications["stablerep"], specifications[name]
        for stage in stages:
            label = f"exec-{stage}"
            assert part["deploymentSpec"]["executors"][label] == whole["deploymentSpec"]["executors"][label], (name, stage)


@pytest.mark.parametrize("name", JOINED)
def test_preflight_looks_at_what_will_run(name: str, specifications: dict[str, Specification]) -> None:
    given = _tasks(specifications[name])["preflight"]["inputs"]["parameters"]["stages"]["runtimeValue"]["constant"]
    assert set(given.split()) == JOINED[name]
    assert _tasks(specifications["stablerep"])["preflight"]["inputs"]["parameters"]["stages"]["runtimeValue"]["constant"] == ""


@pytest.mark.parametrize("name", JOINED)
def test_nothing_starts_before_preflight_has_ended(name: str, specifications: dict[str, Specification]) -> None:
    tasks = _tasks(specifications[name])
    first = {"generate_dataset": "generator", "pretrain_and_probe": "pretrain", "promote_encoder": "gate"}[name]
    assert "preflight" in tasks[first]["dependentTasks"]


@by_pipeline
def test_cache_policy(name: str, specifications: dict[str, Specification]) -> None:
    tasks = _tasks(specifications[name])
    stages = _stages(specifications[name])
    cached = {stage for stage in stages if tasks[stage].get("cachingOptions", {}).get("enableCache", False)}
    assert cached == stages - NEVER_CACHED


@by_pipeline
def test_retries(name: str, specifications: dict[str, Specification]) -> None:
    """Only what resumes, and what a node that is taken away interrupts, is tried again; a fatal exit code cannot be told apart here."""
    found = {stage: task["retryPolicy"]["maxRetryCount"] for stage, task in _tasks(specifications[name]).items() if "retryPolicy" in task}
    assert found == {stage: retries for stage, retries in (("generate", 20), ("pretrain", 3)) if stage in _stages(specifications[name])}


@by_pipeline
def test_no_pip_at_run_time(name: str, specifications: dict[str, Specification]) -> None:
    for label, executor in specifications[name]["deploymentSpec"]["executors"].items():
        assert "pip install" not in " ".join(executor["container"]["command"]), label


@pytest.mark.parametrize("name", ["promote_encoder"])
def test_pipeline_file_compiles_from_anywhere(name: str, tmp_path: Path) -> None:
    kfp, target = Path(sys.executable).parent / "kfp", tmp_path / "compiled.yaml"
    words = [str(kfp), "dsl", "compile", "--py", str(PROJECT / "pipelines" / f"{name}.py"), "--output", str(target)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert target.read_text(encoding="utf-8") == _path(name).read_text(encoding="utf-8")


def test_pipelines_import_components_and_not_the_other_way_round() -> None:
    for path in COMPONENTS:
        assert not re.search(r"^\s*(from|import) pipelines", path.read_text(encoding="utf-8"), re.MULTILINE), path
