"""`make monitor` without a run: what it writes, what it refuses. With a run: tests/end_to_end/test_smoke.py."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from manifests.monitoring.monitor import announce_endpoints, main, write_configuration
from stablerep.endpoint.local import EndpointState, Served
from stablerep.endpoint.process import describe
from stablerep.store import Store

PROJECT = Path(__file__).resolve().parents[2]


def test_promtool_accepts_the_configuration(promtool: str, tmp_path: Path) -> None:
    path = write_configuration(tmp_path, tmp_path / "targets", scrape_seconds=2)
    done = subprocess.run([promtool, "check", "config", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (job,) = yaml.safe_load(path.read_text())["scrape_configs"]
    assert job["file_sd_configs"][0]["files"] == [f"{tmp_path}/targets/*.json"]


def test_no_prometheus_is_said_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["--root", str(tmp_path)]) == 2
    assert "expected the program prometheus on the PATH, found none; on Debian or Ubuntu: apt-get install" in capsys.readouterr().err


def test_a_taken_port_is_refused(prometheus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["--root", str(tmp_path), "--port", str(port)]) == 6
    assert f"port of Prometheus: cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err
    assert not list(tmp_path.rglob("WATCHED"))


def test_ctrl_c_in_a_terminal_ends_it_well(prometheus: str, tmp_path: Path) -> None:
    """A terminal sends SIGINT to every process of the foreground group, Prometheus too unless it has a session of its own."""
    command = [sys.executable, "-m", "manifests.monitoring.monitor", "--root", str(tmp_path), "--port", "0"]
    with subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_as_in_the_foreground
    ) as process:
        assert process.stdout
        assert process.stdout.readline().startswith("Prometheus: http://127.0.0.1:")
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    assert not list(tmp_path.rglob("WATCHED"))


def _as_in_the_foreground() -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run in the background it is ignored, which is inherited


def test_endpoints_come_and_go(store: Store, tmp_path: Path) -> None:
    process, targets = describe(os.getpid()), tmp_path / "targets"
    targets.mkdir()
    assert process
    served = Served("model-1", "uri")
    state = EndpointState("stablerep", served, True, None, "127.0.0.1", 8080, 8081, process, "log")
    store.write("endpoints/stablerep.json", state.to_json())
    for _ in range(2):
        announce_endpoints(store, targets)
    assert json.loads((targets / "endpoint-stablerep.json").read_text()) == [{"targets": ["127.0.0.1:8080"]}]
    store.delete("endpoints/stablerep.json")
    announce_endpoints(store, targets)
    assert list(targets.iterdir()) == []
