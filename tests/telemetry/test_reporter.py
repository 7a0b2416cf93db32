import json
import logging
import urllib.request

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from stablerep.errors import ConfigError, PortInUseError
from stablerep.integrations.prometheus_sink import PrometheusSink, serve_metrics
from stablerep.store import Store
from stablerep.telemetry import METRICS, MemorySink, Metric, Reporter
from stablerep.telemetry.reporter import JsonlSink


def test_only_metrics_of_the_catalogue_are_reported() -> None:
    reporter = Reporter("generate", (MemorySink(),))
    with pytest.raises(ConfigError, match="'stablerep_nothing' with labels \\[\\] is not in"):
        reporter.report("stablerep_nothing", 1)
    with pytest.raises(ConfigError, match="labels \\['colour'\\]"):
        reporter.report("stablerep_training_step", 1, colour="red")


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_names_follow_the_conventions(metric: Metric) -> None:
    assert metric.name.startswith("stablerep_")
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.help.endswith(".")
    assert not metric.name.endswith(("_ms", "_milliseconds", "_percent"))


def test_every_metric_is_declared_in_prometheus_and_takes_a_value() -> None:
    registry = CollectorRegistry()
    sink = PrometheusSink(registry)
    for metric in METRICS.values():
        sink.report(metric, 1.0, dict.fromkeys(metric.labels, "x"))
    families = {family.name for family in registry.collect()}
    assert families == {name.removesuffix("_total") for name in METRICS}


def test_exporter_serves_what_is_reported_and_refuses_a_taken_port() -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sink, stop = serve_metrics(port)
    try:
        Reporter("pretrain", (sink,)).report("stablerep_training_loss", 1.5, term="total")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
        assert families["stablerep_training_loss"].samples[0].value == 1.5
        with pytest.raises(PortInUseError, match=f"metrics port {port} on 127.0.0.1 is taken"):
            serve_metrics(port)
    finally:
        stop()


def test_jsonl_is_appended_by_a_second_attempt(store: Store) -> None:
    for step in (1, 2):
        reporter = Reporter("pretrain", (JsonlSink(store, "runs/r/metrics.jsonl"),))
        reporter.report("stablerep_training_step", step)
        reporter.close()
    lines = [json.loads(line) for line in store.read_text("runs/r/metrics.jsonl").splitlines()]
    assert [line["value"] for line in lines if line["metric"] == "stablerep_training_step"] == [1, 2]


def test_a_store_that_cannot_be_written_is_logged_once_and_harmless(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("telemetry", b"a file where a folder is needed")
    monkeypatch.setattr(logging.getLogger("stablerep"), "propagate", True)
    sink = JsonlSink(store, "telemetry/x.jsonl", flush_seconds=0)
    reporter = Reporter("generate", (sink,))
    reporter.report("stablerep_training_step", 1)
    reporter.close()
    assert len({id(record) for record in caplog.records if "metrics are not kept" in record.message}) == 1


def test_progress_line_has_counts_rate_and_time_left() -> None:
    memory = MemorySink()
    with Reporter("generate", (memory,)).progress(total=100, unit="images", done=40) as progress:
        progress.advance(10)
        line = progress.line("lane 0")
    assert line.startswith("generate 50/100 images (50.0 %), ")
    assert " images/s, " in line
    assert line.endswith("left, lane 0")
    assert memory.reports[-1][:2] == ("stablerep_stage_progress_ratio", 0.5)
