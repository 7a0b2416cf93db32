"""Starts one script in several processes that find each other as torchrun's would, and waits for all of them."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_ranks(script: Path, folder: Path, world_size: int, timeout_seconds: float, environment: Mapping[str, str] | None = None) -> None:
    """Run `script FOLDER` in every rank; their logs are FOLDER/<rank>.log, and a rank that fails fails the test with the end of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [_start(script, folder, rank, world_size, port, environment or {}) for rank in range(world_size)]
    try:
        for rank, process in enumerate(processes):
            assert process.wait(timeout_seconds) == 0, (folder / f"{rank}.log").read_text()[-4000:]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def _start(script: Path, folder: Path, rank: int, world_size: int, port: int, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": str(ROOT)}
    own = os.environ | {name: str(value) for name, value in places.items()} | meeting | dict(environment)
    with (folder / f"{rank}.log").open("wb") as log:
        return subprocess.Popen([sys.executable, str(script), str(folder)], env=own, stdout=log, stderr=subprocess.STDOUT)
