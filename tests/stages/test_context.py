import json
import logging
import socket
import urllib.request

import pytest

from stablerep.errors import ConfigError, DataError
from stablerep.stages.context import open_stage
from stablerep.store import Store


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_metrics_are_exported_while_a_stage_runs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    port = _free_port()
    monkeypatch.setenv("STABLEREP_METRICS_PORT", str(port))
    with open_stage("prepare", "smoke", "", store.uri) as stage:
        stage.reporter.report("stablerep_captions_total", 48, outcome="kept")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            text = answer.read().decode()
    assert 'stablerep_captions_total{outcome="kept"} 48.0' in text
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics")


def test_a_second_lane_on_the_machine_works_without_an_exporter(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("STABLEREP_METRICS_PORT", str(taken.getsockname()[1]))
        with open_stage("generate", "smoke", "", store.uri) as stage:
            stage.reporter.report("stablerep_generate_groups_total", 1)
    assert "stablerep_generate_groups_total" in store.read_text("telemetry/generate.jsonl")


@pytest.mark.parametrize(
    ("name", "value"), [("STABLEREP_METRICS_PORT", "0"), ("STABLEREP_METRICS_PORT", "http"), ("STABLEREP_LOG_EVERY_SECONDS", "often")]
)
def test_a_bad_environment_is_refused(name: str, value: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name}: expected .* found '{value}'"), open_stage("prepare", "smoke", "", store.uri):
        pass


def test_metrics_that_cannot_be_kept_do_not_hide_what_the_stage_says(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.write("telemetry/commit.jsonl", b"\xff of another program")
    log = logging.getLogger("stablerep")
    log.addHandler(caplog.handler)
    try:
        with pytest.raises(DataError, match=r"^gone$"), open_stage("commit", "smoke", "", store.uri):
            raise DataError("gone")
    finally:
        log.removeHandler(caplog.handler)
    assert "this stage keeps no metrics in the store: cannot read" in caplog.text
    assert store.read("telemetry/commit.jsonl") == b"\xff of another program"


def test_no_metrics_are_kept_where_the_stage_says_so(store: Store) -> None:
    with open_stage("commit", "smoke", "", store.uri, keeps_metrics=False) as stage:
        stage.reporter.report("stablerep_generate_groups_total", 1)
    assert store.list() == []


def test_a_failure_is_counted_by_its_class(store: Store) -> None:
    with pytest.raises(DataError, match="gone"), open_stage("commit", "smoke", "", store.uri):
        raise DataError("gone")
    lines = [json.loads(line) for line in store.read_text("telemetry/commit.jsonl").splitlines()]
    failures = [line["labels"] for line in lines if line["metric"] == "stablerep_stage_failures_total"]
    assert failures == [{"stage": "commit", "error": "DataError"}]
