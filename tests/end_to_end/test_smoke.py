"""The whole pipeline, for real, on recipe `smoke`: what ran is what was compiled, again is a cache hit, a kill changes nothing."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from real_prometheus import ask, has_data, monitored

from manifests.monitoring.dashboards import DASHBOARDS
from stablerep.config import load_recipe
from stablerep.endpoint.client import EndpointClient
from stablerep.stages import STAGES
from stablerep.stages.ledger import Entry, Ledger
from stablerep.store import Store
from stablerep.telemetry import METRICS
from stablerep.telemetry.catalogue import LABELS, OTHER

PROJECT = Path(__file__).resolve().parents[2]
COMPILED = PROJECT / "pipelines" / "compiled" / "stablerep.yaml"
pytestmark = [pytest.mark.slow, pytest.mark.dist]


TRACE = """
import os, sys
if "--executor_input" in sys.orig_argv:
    given = sys.orig_argv[sys.orig_argv.index("--executor_input") + 1]
    with open(os.path.join(os.path.dirname(__file__), f"{os.getpid()}.json"), "w") as file:
        file.write(given)
"""  # runs as every task starts: keeps what KFP handed to it


@dataclass(frozen=True)
class Finished:
    """A run that ended well: its folder and what it printed."""

    root: Path
    text: str
    seconds: float
    prometheus: str = ""  # URL of the one that watches

    def entries(self, overrides: str = "") -> dict[str, Entry]:
        store = Store((self.root / "store").as_uri())
        return {entry.name: entry for entry in Ledger(store, load_recipe("smoke", overrides)).entries()}

    def record(self, name: str) -> dict[str, Any]:
        return json.loads(self.entries()[name].output)


def _command(root: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "pipelines.run_local", "--recipe", "smoke", "--root", str(root), *arguments]


def _run(root: Path, *arguments: str, environment: dict[str, str] | None = None) -> Finished:
    started_at = time.monotonic()
    command, environment = _command(root, *arguments), {**os.environ, **(environment or {})}
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=600, check=False, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return Finished(root, result.stdout, time.monotonic() - started_at)


def _stop(root: Path) -> None:
    store = f"file://{root / 'store'}"
    subprocess.run([sys.executable, "-m", "stablerep.cli", "stop", "--recipe", "smoke", "--store", store], timeout=120, check=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    root = tmp_path_factory.mktemp("smoke")
    (root / "trace").mkdir()
    (root / "trace" / "sitecustomize.py").write_text(TRACE, encoding="utf-8")
    with monitored(root) as url:
        yield replace(_run(root, environment={"PYTHONPATH": str(root / "trace")}), prometheus=url)
    _stop(root)


def test_the_report_shows_everything(finished: Finished) -> None:
    (report,) = (finished.root / "store" / "reports").glob("*/report.html")
    html = report.read_text(encoding="utf-8")
    for section in ('id="commit"', 'id="pretrain"', 'id="probe"', "base64 -w0"):
        assert section in html
    assert "http://127.0.0.1" in html
    assert "<script" not in html
    summary = report.with_name("summary.md").read_text(encoding="utf-8")
    assert "smoke: succeeded" in summary
    assert "```mermaid" in summary
    assert str(report) in finished.text


def test_what_ran_is_what_was_compiled(finished: Finished) -> None:
    entries = finished.entries()
    ran, ran_edges = _ran(finished.root)
    compiled_data, compiled_order = _compiled_edges()
    assert ran == set(STAGES) - {"hold"}
    assert ran_edges == {edge for edge in compiled_data if "hold" not in edge}
    for before, after in compiled_order:
        assert entries[before].ended_at <= entries[after].started_at, (before, after)


def test_every_panel_has_data(finished: Finished) -> None:
    """The endpoint answers while it is watched; then a Grafana opened on the run would show something everywhere."""
    since = min(entry.started_at for entry in finished.entries().values()) - 1
    host, _, port = finished.record("deploy")["url"].removeprefix("http://").partition("/")[0].partition(":")
    digit, queries = (PROJECT / "docs" / "images" / "digit.png").read_bytes(), _queries()
    deadline = time.monotonic() + 180
    with EndpointClient(host, int(port), "stablerep", 60.0) as client:
        while lacking := [name for name, query in queries.items() if not has_data(finished.prometheus, query, since)]:
            assert time.monotonic() < deadline, lacking
            assert client.predict([digit]).status == 200
            assert client.predict([b"no image"]).status == 400
            time.sleep(0.5)


def _queries() -> dict[str, str]:
    """What panels ask that need no more than this machine, variables filled in."""
    panels = [(dashboard, panel) for dashboard in DASHBOARDS for panel in dashboard.panels if not panel.needs]
    named = {f"{d.uid}: {p.title}, {legend}": query for d, p in panels for legend, query in p.queries.items()}
    return {name: query.replace("$__rate_interval", "1m").replace("$namespace", ".*") for name, query in named.items()}


def test_no_value_is_unknown_to_the_catalogue(finished: Finished) -> None:
    names = ask(finished.prometheus, "label/__name__/values")
    assert {name for name in names if name.startswith("stablerep_")} <= _series_names()
    for label in LABELS:
        assert OTHER not in ask(finished.prometheus, f"label/{label}/values"), label


def _series_names() -> set[str]:
    ends = {"counter": ("", "_created"), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum", "_created")}
    return {
        (metric.name.removesuffix("_total") if end == "_created" else metric.name) + end
        for metric in METRICS.values()
        for end in ends[metric.kind]
    }


def test_again_is_a_cache_hit(finished: Finished) -> None:
    again = _run(finished.root)
    for stage in ("prepare", "generator", "export", "probe"):
        assert f"cached  {stage}" in again.text
    assert again.seconds < 60
    assert again.record("deploy")["model_id"] == finished.record("export")["model_id"]


def test_what_is_gone_from_the_store_is_made_again_the_same(finished: Finished) -> None:
    dataset = finished.record("commit")
    folder = finished.root / "store" / "groups" / dataset["dataset_id"]
    shard = (folder / "shards" / "00001.tar").read_bytes()
    for path in (folder / "manifest.json", *(folder / "shards").glob("00001.*")):
        path.unlink()
    again = _run(finished.root)
    assert again.record("commit") == dataset
    assert (folder / "shards" / "00001.tar").read_bytes() == shard


def test_a_model_that_the_gate_turns_down_is_held(finished: Finished) -> None:
    overrides = "gate.min_accuracy=1.0"
    held = _run(finished.root, "--set", overrides)
    entries = held.entries(overrides)
    assert {name.partition("-")[0] for name in entries} == set(STAGES) - {"deploy", "verify"}
    assert not json.loads(entries["gate"].output)["is_promoted"]
    assert "held: " in held.text


def test_killed_three_times_it_ends_the_same(finished: Finished, tmp_path: Path) -> None:
    chance = random.Random(20231)
    for stage in ("generate", "pretrain", "pretrain"):
        process = subprocess.Popen(_command(tmp_path), cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _wait_for_stage(process, tmp_path, stage)
        time.sleep(chance.uniform(0.0, 8.0))
        _kill_all(process)
    disturbed = _run(tmp_path)
    try:
        assert disturbed.record("commit")["manifest_sha256"] == finished.record("commit")["manifest_sha256"]
        assert disturbed.record("export")["sha256"] == finished.record("export")["sha256"]
        assert disturbed.record("probe")["scores"] == finished.record("probe")["scores"]
    finally:
        _stop(tmp_path)


def test_bad_parameters_end_with_their_exit_code_and_one_sentence(tmp_path: Path) -> None:
    missing = f"captions.source={tmp_path}/none.csv"
    result = subprocess.run(_command(tmp_path, "--set", missing), cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 3
    assert "none.csv" in result.stderr
    assert "preflight" in result.stderr
    assert "-> set captions.source" in result.stderr


def _wait_for_stage(process: subprocess.Popen[bytes], root: Path, stage: str) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        logs = sorted((root / "logs").glob("*.log")) if (root / "logs").exists() else []
        if logs and f"'{stage}'" in logs[-1].read_text(encoding="utf-8", errors="replace"):
            return
        time.sleep(0.1)
    raise AssertionError(f"{stage} did not start; exit code {process.poll()}")


def _kill_all(process: subprocess.Popen[bytes]) -> None:
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for each in family:
        if each.is_running():
            each.kill()
    psutil.wait_procs(family, timeout=30)
    process.wait(timeout=30)


def _compiled_edges() -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """Data edges and order edges between stages, read from the committed YAML."""
    specification = next(iter(yaml.safe_load_all(COMPILED.read_text(encoding="utf-8"))))
    dags = [specification["root"]["dag"], *(c["dag"] for c in specification["components"].values() if "dag" in c)]
    data: set[tuple[str, str]] = set()
    order: set[tuple[str, str]] = set()
    for name, task in ((name, task) for dag in dags for name, task in dag["tasks"].items() if name in STAGES):
        for given in task.get("inputs", {}).get("parameters", {}).values():
            producer = _producer(given)
            if producer in STAGES:
                data.add((producer, name))
        order |= {(before, name) for before in task.get("dependentTasks", ()) if before in STAGES}
    return data, order


def _producer(given: dict[str, Any]) -> str:
    """The stage behind an input: named directly, or inside `pipelinechannel--<stage>-<output>` across sub-graphs."""
    direct = given.get("taskOutputParameter", {})
    channel = str(direct.get("outputParameterKey", "")) if direct.get("producerTask", "").startswith("for-loop") else ""
    channel = channel or str(given.get("componentInputParameter", ""))
    if channel.startswith("pipelinechannel--"):
        return channel.removeprefix("pipelinechannel--").partition("-")[0]
    return str(direct.get("producerTask", ""))


def _ran(root: Path) -> tuple[set[str], set[tuple[str, str]]]:
    """Tasks that ran and who took what from whom, by the values that went in and came out."""
    tasks: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
    for path in (root / "trace").glob("*.json"):
        given = json.loads(path.read_text(encoding="utf-8"))
        output_file = Path(given["outputs"]["outputFile"])
        made = json.loads(output_file.read_text(encoding="utf-8")) if output_file.exists() else {}
        tasks.append((output_file.parent.name, given["inputs"].get("parameterValues", {}), made.get("parameterValues", {})))
    producers = {text: name for name, _, outputs in tasks for value in outputs.values() for text in _texts(value)}
    taken = [(text, name) for name, inputs, _ in tasks for value in inputs.values() for text in _texts(value)]
    return {name for name, _, _ in tasks}, {(producers[text], name) for text, name in taken if text in producers}


def _texts(value: Any) -> list[str]:
    """What travelled, as comparable texts: a list also element by element, since a loop hands out its elements."""
    if isinstance(value, list):
        return [json.dumps(value), *(text for element in value for text in _texts(element))]
    return [value] if isinstance(value, str) else []
