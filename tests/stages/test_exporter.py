"""Who exports where, and how Prometheus finds it on this machine."""

import json
import logging
import os
import socket
import urllib.request
from pathlib import Path

import pytest

from stablerep.errors import ConfigError, DataError, Preempted
from stablerep.stages.context import open_stage
from stablerep.stages.exporter import WATCHED, forget_targets, open_exporter
from stablerep.store import Store


def _text(target: dict[str, list[str]]) -> str:
    with urllib.request.urlopen(f"http://{target['targets'][0]}/metrics") as answer:
        return answer.read().decode()


def test_a_process_tells_its_port_in_the_folder_while_it_works(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STABLEREP_METRICS_FOLDER", str(tmp_path / "targets"))
    with open_stage("prepare", "smoke", "", store.uri) as stage, open_stage("generate", "smoke", "", store.uri):
        stage.reporter.report("stablerep_captions_total", 48, outcome="kept")
        paths = sorted((tmp_path / "targets").iterdir())
        assert [path.name for path in paths] == [f"generate-{os.getpid()}.json", f"prepare-{os.getpid()}.json"]
        (target,) = json.loads(paths[1].read_text())
        assert target["labels"] == {"task": "prepare"}
        assert target["targets"][0].startswith("127.0.0.1:")
        assert 'stablerep_captions_total{outcome="kept"} 48.0' in _text(target)
    assert list((tmp_path / "targets").iterdir()) == []


@pytest.mark.parametrize(("error", "is_waited_for"), [(None, True), (DataError("x"), True), (Preempted("x"), False)])
def test_it_waits_for_the_last_scrape_where_a_monitor_runs(
    error: Exception | None, is_waited_for: bool, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STABLEREP_METRICS_FOLDER", str(tmp_path))
    waited: list[float] = []
    monkeypatch.setattr("stablerep.integrations.prometheus_sink._Scrapes.wait_for_next", lambda self, seconds: waited.append(seconds))
    for is_watched in (False, True):
        if is_watched:
            (tmp_path / WATCHED).touch()
        try:
            with open_stage("prepare", "smoke", "", store.uri):
                if error:
                    raise error
        except type(error or DataError):
            pass
    assert waited == [0.0, 5.0 if is_waited_for else 0.0]


def test_on_a_cluster_it_waits_as_long_as_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("stablerep.integrations.prometheus_sink._Scrapes.wait_for_next", lambda self, seconds: waited.append(seconds))
    monkeypatch.setenv("STABLEREP_METRICS_PORT", str(_free_port()))
    for seconds in (None, "40", "soon"):
        if seconds:
            monkeypatch.setenv("STABLEREP_METRICS_LINGER_SECONDS", seconds)
        if seconds == "soon":
            with pytest.raises(ConfigError, match="STABLEREP_METRICS_LINGER_SECONDS: expected seconds, found 'soon'"):
                open_exporter("generate")
        else:
            open_exporter("generate").stop(True)
    assert waited == [0.0, 40.0]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_folder_that_cannot_be_written_stops_nobody(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("a file where a folder is needed")
    monkeypatch.setenv("STABLEREP_METRICS_FOLDER", str(tmp_path / "file" / "targets"))
    monkeypatch.setattr(logging.getLogger("stablerep"), "propagate", True)
    with open_stage("prepare", "smoke", "", store.uri):
        pass


def test_targets_of_processes_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    alive, gone = tmp_path / f"probe-{os.getpid()}.json", tmp_path / f"probe-{2**30}.json"
    for path in (alive, gone):
        path.write_text("[]")
    forget_targets(tmp_path)
    assert alive.exists()
    assert not gone.exists()
