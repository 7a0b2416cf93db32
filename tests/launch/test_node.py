"""The container's command: torchrun with two real processes over gloo, and the exit code that comes out."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stablerep.launch.node import code_after_signal, first_code

PROJECT = Path(__file__).resolve().parents[2]
WORKER = """
import os, signal, sys, time
import torch.distributed as dist
mode = sys.argv[1]
dist.init_process_group("gloo")
rank = dist.get_rank()
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
dist.barrier()
print(f"rank {rank} of {dist.get_world_size()}", flush=True)
if mode == "first-fails" and rank == 1:
    os._exit(5)
if mode == "killed" and rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
if mode == "well":
    os._exit(0)
deadline = time.monotonic() + 60
while not stopped and time.monotonic() < deadline:
    time.sleep(0.05)
os._exit(75 if mode != "cannot-save" else 6)
"""
ARGUMENTS = [
    "--nnodes",
    "1",
    "--nproc_per_node",
    "2",
    "--rdzv_backend",
    "c10d",
    "--rdzv_endpoint",
    "localhost:0",
    "--tee",
    "3",
    "--role",
    "",
]
LOOPBACK = {"PET_LOCAL_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "LOGLEVEL": "ERROR", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "20"}

Process = subprocess.Popen[str]


def _start(folder: Path, mode: str) -> Process:
    script = folder / "worker.py"
    script.write_text(WORKER)
    command = [sys.executable, "-m", "stablerep.launch.node", *ARGUMENTS, str(script), mode]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)} | LOOPBACK
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _wait_for_both(node: Process) -> None:
    assert node.stdout is not None
    seen = ""
    while "rank 0 of 2" not in seen or "rank 1 of 2" not in seen:
        line = node.stdout.readline()
        assert line, seen
        seen += line


@pytest.mark.dist
@pytest.mark.parametrize(("mode", "code"), [("well", 0), ("first-fails", 5), ("killed", 137)])
def test_the_first_failure_is_the_exit_code(tmp_path: Path, mode: str, code: int) -> None:
    node = _start(tmp_path, mode)
    output, _ = node.communicate(timeout=100)
    assert node.returncode == code, output
    assert "[0]:rank 0 of 2" in output


@pytest.mark.dist
@pytest.mark.parametrize(("mode", "code"), [("saves", 75), ("cannot-save", 143)])
def test_sigterm_is_75_only_when_the_workers_saved(tmp_path: Path, mode: str, code: int) -> None:
    node = _start(tmp_path, mode)
    _wait_for_both(node)
    node.send_signal(signal.SIGTERM)
    output, _ = node.communicate(timeout=100)
    assert node.returncode == code, output


@pytest.mark.dist
def test_sigterm_while_waiting_for_other_nodes_ends_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # a first node that never answers
        port = str(silent.getsockname()[1])
        arguments = ["--nnodes", "2", "--node_rank", "1", "--nproc_per_node", "1", "--master_addr", "127.0.0.1", "--master_port", port]
        command = [sys.executable, "-m", "stablerep.launch.node", *arguments, "nothing.py"]
        node = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(PROJECT)} | LOOPBACK, stderr=subprocess.PIPE, text=True)
        silent.settimeout(100)
        connection, _ = silent.accept()
        with connection:
            started_at = time.monotonic()
            node.send_signal(signal.SIGTERM)
            _, errors = node.communicate(timeout=60)
    assert node.returncode == 75, errors
    assert time.monotonic() - started_at < 5


def test_arguments_torchrun_refuses_end_with_2() -> None:
    command = [sys.executable, "-m", "stablerep.launch.node", "--nproc_per_node"]
    assert subprocess.run(command, env=os.environ | {"PYTHONPATH": str(PROJECT)}, capture_output=True, check=False).returncode == 2


@pytest.mark.parametrize(
    ("failures", "code"),
    [
        ([(10, 6), (10, 5)], 5),  # rank 0 saw the connection break, rank 1 diverged: both noticed at the same look
        ([(10, 3), (11, 75)], 3),  # torchrun's SIGTERM made the other save
        ([(9, 6), (10, 5)], 6),
        ([(10, -9), (10, 6)], 137),
        ([(10, 75), (10, 75)], 75),
        ([(10, -11)], 139),
    ],
)
def test_the_first_cause_wins(failures: list[tuple[int, int]], code: int) -> None:
    assert first_code(failures) == code


@pytest.mark.parametrize(
    ("codes", "code"), [([75, 75], 75), ([], 75), ([0, 0], 0), ([0, 75], 75), ([75, -9], 143), ([75, None], 143), ([4, 75], 4)]
)
def test_after_sigterm(codes: list[int | None], code: int) -> None:
    assert code_after_signal(codes, signal.SIGTERM) == code
