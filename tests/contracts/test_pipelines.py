"""What is committed for Kubeflow is what the code compiles to, is small, and is documented."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))
COMPILED = PROJECT / "pipelines" / "compiled" / "stablerep.yaml"
COMPONENTS = sorted((PROJECT / "components").glob("*/*/component.py"))
NEVER_CACHED = {"preflight", "generate", "commit", "pretrain", "gate", "deploy", "verify", "hold", "finish"}


@pytest.fixture(scope="module")
def specification() -> dict[str, Any]:
    return next(iter(yaml.safe_load_all(COMPILED.read_text(encoding="utf-8"))))


def _tasks(specification: dict[str, Any]) -> dict[str, dict[str, Any]]:
    dags = [specification["root"]["dag"], *(c["dag"] for c in specification["components"].values() if "dag" in c)]
    return {name: task for dag in dags for name, task in dag["tasks"].items()}


def test_compiled_pipeline_does_not_drift(tmp_path: Path) -> None:
    from pipelines.compile import compile_all

    (fresh,) = compile_all(tmp_path)
    assert fresh.read_text(encoding="utf-8") == COMPILED.read_text(encoding="utf-8"), "run `make compile` and commit the result"


def test_component_pages_do_not_drift() -> None:
    from pipelines.compile import component_readmes

    stale = [str(path) for path, text in component_readmes().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    assert stale == [], "run `make compile` and commit the result"


def test_compiled_pipeline_is_small_and_has_few_parameters(specification: dict[str, Any]) -> None:
    assert COMPILED.stat().st_size < 256 * 1024
    parameters = specification["root"]["inputDefinitions"]["parameters"]
    assert set(parameters) == {"store", "recipe", "overrides"}
    assert parameters["recipe"]["defaultValue"] == "quickstart"


def test_every_stage_is_a_task_and_every_task_is_a_stage(specification: dict[str, Any]) -> None:
    from stablerep.stages import STAGES

    leaves = {name for name, task in _tasks(specification).items() if f"comp-{name}" in specification["components"]}
    executed = {name for name in leaves if "executorLabel" in specification["components"][f"comp-{name}"]}
    assert executed == set(STAGES) == {path.parent.name for path in COMPONENTS}


def test_cache_policy(specification: dict[str, Any]) -> None:
    tasks = _tasks(specification)
    from stablerep.stages import STAGES

    cached = {name for name in STAGES if tasks[name].get("cachingOptions", {}).get("enableCache", False)}
    assert cached == set(STAGES) - NEVER_CACHED


def test_no_pip_at_run_time_and_no_floating_image(specification: dict[str, Any]) -> None:
    for label, executor in specification["deploymentSpec"]["executors"].items():
        container = executor["container"]
        assert "pip install" not in " ".join(container["command"]), label
        assert not container["image"].endswith(":latest"), label


@pytest.mark.parametrize("path", COMPONENTS, ids=lambda path: path.parent.name)
def test_component_metadata(path: Path) -> None:
    metadata = yaml.safe_load(path.with_name("metadata.yaml").read_text(encoding="utf-8"))
    assert set(metadata) == {"name", "stability", "dependencies", "tags", "lastVerified"}
    assert metadata["name"] == path.parent.name
    assert metadata["stability"] in ("alpha", "beta", "stable")
    assert metadata["dependencies"]["kubeflow"][0]["name"] == "Pipelines"
    assert path.with_name("README.md").exists()
