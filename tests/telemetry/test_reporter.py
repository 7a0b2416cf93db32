import contextlib
import json
import logging
import threading
import urllib.request
from typing import get_args

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from stablerep.errors import ConfigError, PortInUseError
from stablerep.groups.inspection import FLAGS
from stablerep.groups.quality import Verdict
from stablerep.integrations.prometheus_sink import Exporter, PrometheusSink
from stablerep.launch import JobState
from stablerep.shards.manifest import KEPT, WEIGHTED
from stablerep.stages import STAGES
from stablerep.store import Store
from stablerep.telemetry import METRICS, MemorySink, Metric, Reporter
from stablerep.telemetry.catalogue import LABELS
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


def test_a_metric_that_was_not_reported_is_not_there_and_counters_of_a_server_are() -> None:
    registry = CollectorRegistry()
    PrometheusSink(registry, "stablerep_endpoint_i")
    assert {family.name for family in registry.collect()} == {"stablerep_endpoint_images"}  # not in_flight, not info


def test_exporter_serves_what_is_reported_and_refuses_a_taken_port() -> None:
    exporter = Exporter(0)
    try:
        Reporter("pretrain", (exporter.sink,)).report("stablerep_training_loss", 1.5, term="total")
        families = _scrape(exporter.port)
        assert families["stablerep_training_loss"].samples[0].value == 1.5
        assert families["process_resident_memory_bytes"].samples[0].value > 1e6
        with pytest.raises(PortInUseError, match=f"metrics port {exporter.port} on 127.0.0.1 is taken"):
            Exporter(exporter.port)
    finally:
        exporter.stop()


def test_an_exporter_that_lingers_ends_with_the_next_scrape() -> None:
    exporter = Exporter(0)
    _scrape(exporter.port)  # an earlier one does not count
    stopping = threading.Thread(target=exporter.stop, args=(300.0,))
    stopping.start()
    families = {}
    while stopping.is_alive():
        with contextlib.suppress(OSError):  # it has just ended
            families = _scrape(exporter.port)
        stopping.join(0.05)
    assert "process_cpu_seconds" in families


def test_a_value_that_a_label_does_not_have_is_reported_as_other() -> None:
    memory = MemorySink()
    Reporter("serve", (memory,)).report("stablerep_endpoint_requests_total", 1, protocol="v1", code="418")
    Reporter("serve", (memory,)).report("stablerep_run_info", 1, stage="probe", id="model-1")
    assert [labels for _, _, labels in memory.reports] == [{"protocol": "v1", "code": "other"}, {"stage": "probe", "id": "model-1"}]


def test_labels_are_enumerated_in_one_place() -> None:
    assert {label for metric in METRICS.values() for label in metric.labels} == set(LABELS)
    assert set(LABELS["stage"]) == {*STAGES, "serve"}
    assert {state.value for state in JobState} == set(LABELS["state"])
    verdicts = {*get_args(Verdict), *(prefix + flag for prefix in ("", KEPT, WEIGHTED) for flag in FLAGS)}
    assert verdicts == set(LABELS["verdict"])
    ids = {label for label, values in LABELS.items() if not values}
    assert all(metric.name.endswith("_info") for metric in METRICS.values() if ids & set(metric.labels))
    assert all(len(set(values)) == len(values) for values in LABELS.values())


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("stablerep_training_checkpoint_timestamp_seconds", "timestamp_seconds"),
        ("stablerep_endpoint_request_seconds", "seconds"),
        ("stablerep_generate_images_total", "images"),
        ("stablerep_training_step", ""),
    ],
)
def test_the_unit_is_the_end_of_the_name(name: str, unit: str) -> None:
    assert METRICS[name].unit == unit


def _scrape(port: int) -> dict[str, Family]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return {family.name: family for family in text_string_to_metric_families(answer.read().decode())}


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


def test_what_others_did_is_done_but_does_not_count_for_the_rate() -> None:
    memory = MemorySink()
    with Reporter("generate", (memory,)).progress(total=100, unit="images") as progress:
        progress.find(60)
        line = progress.line()
        assert progress.num_left == 40
    assert line == "generate 60/100 images (60.0 %), 0.0 images/s"
    assert memory.reports[-1][:2] == ("stablerep_stage_progress_ratio", 0.6)
