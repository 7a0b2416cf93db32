"""Runs `rank_worker.py` once with two and once with four gloo processes; the tests look at what each rank returned."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from rank_processes import run_ranks

WORKER = Path(__file__).with_name("rank_worker.py")
TIMEOUT_SECONDS = 300


@pytest.fixture(scope="session")
def worker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rank_worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", params=[2, 4])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each of the ranks returned, in rank order."""
    folder = tmp_path_factory.mktemp(f"ranks-{request.param}")
    run_ranks(WORKER, folder, request.param, TIMEOUT_SECONDS)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(request.param)]
