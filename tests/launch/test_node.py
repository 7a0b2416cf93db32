"""The container's command: torchrun with two real processes, and the exit code that comes out.

One run is the whole command with workers that meet over gloo. The others need no torch in their workers (they meet in a folder), and are
forked from a process that has imported torchrun once; each is started, and waited for, only by what it is.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stablerep.launch.node import code_after_signal, first_code

PROJECT = Path(__file__).resolve().parents[2]
GLOO_WORKER = """
import os
import torch.distributed as dist
dist.init_process_group("gloo")
dist.barrier()
print(f"rank {dist.get_rank()} of {dist.get_world_size()}", flush=True)
dist.barrier()
os._exit(0)
"""
WORKER = """
import os, pathlib, signal, sys, time
mode, folder = sys.argv[1], pathlib.Path(sys.argv[2])
rank = int(os.environ["RANK"])
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
(folder / os.environ["RANK"]).touch()
deadline = time.monotonic() + 60
while len(list(folder.iterdir())) < int(os.environ["WORLD_SIZE"]) and time.monotonic() < deadline:
    time.sleep(0.01)
print(f"rank {rank} of {os.environ['WORLD_SIZE']}", flush=True)
if mode == "first-fails" and rank == 1:
    os._exit(5)
if mode == "killed" and rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
while not stopped and time.monotonic() < deadline:
    time.sleep(0.01)
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
FORKER = """
import json, os, sys
from stablerep.launch.node import main
from torch.distributed import run  # what `main` imports, once
import torch.distributed.elastic.multiprocessing.errors, torch.distributed.launcher.api

for line in sys.stdin:
    order = json.loads(line)
    if "pid" in order:
        answer = os.waitstatus_to_exitcode(os.waitpid(order["pid"], 0)[1])
    else:
        answer = os.fork()
        if answer == 0:
            output = os.open(order["log"], os.O_WRONLY | os.O_CREAT)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.argv = ["node", *order["arguments"]]
            try:
                code = main(order["arguments"])
            except SystemExit as end:
                code = end.code
            sys.stdout.flush()
            os._exit(code)
    print(answer, flush=True)
"""


@dataclass
class Node:
    """A process that runs `stablerep.launch.node.main`."""

    forker: "subprocess.Popen[str]"
    pid: int
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def wait(self) -> int:
        return _ask(self.forker, {"pid": self.pid})


def _ask(forker: "subprocess.Popen[str]", order: dict[str, object]) -> int:
    assert forker.stdin is not None
    assert forker.stdout is not None
    forker.stdin.write(json.dumps(order) + "\n")
    forker.stdin.flush()
    return int(forker.stdout.readline())


@pytest.fixture(scope="module")
def forker() -> "Iterator[subprocess.Popen[str]]":
    command, environment = [sys.executable, "-c", FORKER], os.environ | {"PYTHONPATH": str(PROJECT)} | LOOPBACK
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def _start(forker: "subprocess.Popen[str]", folder: Path, arguments: list[str]) -> Node:
    log = folder / "log"
    return Node(forker, _ask(forker, {"log": str(log), "arguments": arguments}), log)


def _start_workers(forker: "subprocess.Popen[str]", folder: Path, mode: str) -> Node:
    script, meeting = folder / "worker.py", folder / "meeting"
    script.write_text(WORKER)
    meeting.mkdir()
    return _start(forker, folder, [*ARGUMENTS, str(script), mode, str(meeting)])


def _wait_for_both(node: Node) -> None:
    deadline = time.monotonic() + 60
    while "rank 0 of 2" not in node.output or "rank 1 of 2" not in node.output:
        assert time.monotonic() < deadline, node.output
        time.sleep(0.02)


@pytest.mark.dist
def test_the_command_runs_workers_that_meet_over_gloo(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(GLOO_WORKER)
    command = [sys.executable, "-m", "stablerep.launch.node", *ARGUMENTS, str(script)]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)} | LOOPBACK
    node = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100, check=False)
    assert node.returncode == 0, node.stdout
    assert "[0]:rank 0 of 2" in node.stdout
    assert "[1]:rank 1 of 2" in node.stdout


@pytest.mark.dist
@pytest.mark.parametrize(("mode", "code"), [("first-fails", 5), ("killed", 137)])
def test_the_first_failure_is_the_exit_code(forker: "subprocess.Popen[str]", tmp_path: Path, mode: str, code: int) -> None:
    node = _start_workers(forker, tmp_path, mode)
    assert node.wait() == code, node.output
    assert "[0]:rank 0 of 2" in node.output


@pytest.mark.dist
@pytest.mark.parametrize(("mode", "code"), [("saves", 75), ("cannot-save", 143)])
def test_sigterm_is_75_only_when_the_workers_saved(forker: "subprocess.Popen[str]", tmp_path: Path, mode: str, code: int) -> None:
    node = _start_workers(forker, tmp_path, mode)
    _wait_for_both(node)
    os.kill(node.pid, signal.SIGTERM)
    assert node.wait() == code, node.output


@pytest.mark.dist
def test_sigterm_while_waiting_for_other_nodes_ends_at_once(forker: "subprocess.Popen[str]", tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # a first node that never answers
        port = str(silent.getsockname()[1])
        arguments = ["--nnodes", "2", "--node_rank", "1", "--nproc_per_node", "1", "--master_addr", "127.0.0.1", "--master_port", port]
        node = _start(forker, tmp_path, [*arguments, "nothing.py"])
        silent.settimeout(100)
        connection, _ = silent.accept()
        with connection:
            started_at = time.monotonic()
            os.kill(node.pid, signal.SIGTERM)
            assert node.wait() == 75, node.output
    assert time.monotonic() - started_at < 5


def test_arguments_torchrun_refuses_end_with_2(forker: "subprocess.Popen[str]", tmp_path: Path) -> None:
    node = _start(forker, tmp_path, ["--nproc_per_node"])
    assert node.wait() == 2
    assert "expected one argument" in node.output


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
