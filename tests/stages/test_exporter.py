"""Who exports where, and how Prometheus finds it on this machine."""

import json
import logging
import socket
import urllib.request
from pathlib import Path

import pytest

from stablerep.errors import ConfigError, DataError, Preempted
from stablerep.stages.context import open_stage
from stablerep.stages.exporter import WATCHED, open_exporter, slots
from stablerep.store import Store


def test_processes_take_the_ports_that_prometheus_was_told(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STABLEREP_METRICS_FOLDER", str(tmp_path / "targets"))
    with open_stage("prepare", "smoke", "", store.uri) as first, open_stage("generate", "smoke", "", store.uri) as second:
        first.reporter.report("stablerep_captions_total", 48, outcome="kept")
        second.reporter.report("stablerep_generate_groups_total", 3)
        (group,) = json.loads((tmp_path / "targets" / "slots.json").read_text())
        assert len(set(group["targets"])) == 8
        assert all(target.startswith("127.0.0.1:") for target in group["targets"])
        texts = [urllib.request.urlopen(f"http://{target}/metrics").read().decode() for target in group["targets"][:2]]
    assert 'stablerep_captions_total{outcome="kept"} 48.0' in texts[0]
    assert "stablerep_generate_groups_total 3.0" in texts[1]
    assert [path.name for path in (tmp_path / "targets").iterdir()] == ["slots.json"]
    assert slots(tmp_path / "targets") == [int(target.rpartition(":")[2]) for target in group["targets"]]


def test_a_file_of_ports_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "slots.json").write_text("{}")
    with pytest.raises(DataError, match=r"expected targets of Prometheus, found something else .*; delete it"):
        slots(tmp_path)


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
                open_exporter()
        else:
            open_exporter().stop(True)
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
