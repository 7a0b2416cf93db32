"""The leash: no process outlives its launcher, and no attempt runs beside another. Real processes, real kills."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stablerep.errors import LaunchError
from stablerep.launch import hold, leash_folder

PROJECT = Path(__file__).resolve().parents[2]
LAUNCHER = """
import sys, time
from pathlib import Path
from stablerep.launch import hold
with hold(Path(sys.argv[1]), sys.argv[2], patience_seconds=30) as leash:
    print("held", flush=True)
    for line in sys.stdin:
        leash.ask_to_stop()
"""
WORKER = """
import os, sys, time
from pathlib import Path
from stablerep.launch import follow
follow(Path(sys.argv[1]), sys.argv[2], on_stop=lambda: print("stop", flush=True), on_gone=lambda: os._exit(6))
print("following", flush=True)
time.sleep(60)
"""
Process = subprocess.Popen[str]


class Machine:
    """Starts launchers and workers, and ends those that are left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[Process] = []

    def start(self, code: str, attempt: str) -> Process:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(self.folder), attempt],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(PROJECT)},
        )
        self.processes.append(process)
        return process

    def started(self, code: str, attempt: str, word: str) -> Process:
        process = self.start(code, attempt)
        assert process.stdout is not None
        assert process.stdout.readline().strip() == word
        return process


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path / "leash")
    yield machine
    for process in machine.processes:
        process.kill()
        process.communicate()


def test_a_worker_ends_when_its_launcher_is_killed(machine: Machine) -> None:
    launcher = machine.started(LAUNCHER, "a", "held")
    worker = machine.started(WORKER, "a", "following")
    launcher.send_signal(signal.SIGKILL)
    assert worker.wait(timeout=20) == 6


def test_a_worker_of_another_attempt_ends(machine: Machine) -> None:
    machine.started(LAUNCHER, "new", "held")
    assert machine.start(WORKER, "old").wait(timeout=20) == 6


def test_a_worker_without_a_launcher_ends(machine: Machine) -> None:
    machine.folder.mkdir()
    (machine.folder / "launcher.lock").write_text('{"attempt": "a"}')
    assert machine.start(WORKER, "a").wait(timeout=20) == 6


def test_a_request_to_stop_arrives_once(machine: Machine) -> None:
    launcher = machine.started(LAUNCHER, "a", "held")
    worker = machine.started(WORKER, "a", "following")
    assert launcher.stdin is not None
    assert worker.stdout is not None
    launcher.stdin.write("stop\n")
    launcher.stdin.flush()
    assert worker.stdout.readline().strip() == "stop"
    assert worker.poll() is None
    launcher.kill()
    assert worker.wait(timeout=20) == 6
    assert worker.stdout.read() == ""


def test_a_new_attempt_waits_until_the_workers_of_the_last_are_gone(machine: Machine) -> None:
    launcher = machine.started(LAUNCHER, "a", "held")
    worker = machine.started(WORKER, "a", "following")
    os.kill(worker.pid, signal.SIGSTOP)  # it cannot notice
    launcher.kill()
    launcher.wait()
    second = machine.start(LAUNCHER, "b")
    time.sleep(1.5)
    assert second.poll() is None
    os.kill(worker.pid, signal.SIGCONT)
    assert second.stdout is not None
    assert second.stdout.readline().strip() == "held"
    assert worker.wait(timeout=20) == 6


def test_two_attempts_at_once_are_refused(machine: Machine) -> None:
    launcher = machine.started(LAUNCHER, "a", "held")
    with pytest.raises(LaunchError, match=f"expected no other attempt of this run on this machine, found one .process {launcher.pid}"):
        with hold(machine.folder, "b", patience_seconds=0.3):
            pass


def test_each_run_has_its_own_folder() -> None:
    assert leash_folder("file:///a/runs/run-1") == leash_folder("file:///a/runs/run-1")
    assert leash_folder("file:///a/runs/run-1") != leash_folder("file:///b/runs/run-1")
