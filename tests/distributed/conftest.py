"""Runs `rank_worker.py` once with two and once with four gloo processes; the tests look at what each rank returned."""

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[2]
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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [_launch(rank, request.param, port, folder) for rank in range(request.param)]
    try:
        for rank, process in enumerate(processes):
            assert process.wait(TIMEOUT_SECONDS) == 0, (folder / f"{rank}.log").read_text()
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(request.param)]


def _launch(rank: int, world_size: int, port: int, folder: Path) -> subprocess.Popen:
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment = os.environ | {name: str(value) for name, value in places.items()} | {"PYTHONPATH": str(ROOT)}
    with (folder / f"{rank}.log").open("wb") as log:
        return subprocess.Popen([sys.executable, str(WORKER), str(folder)], env=environment, stdout=log, stderr=subprocess.STDOUT)
