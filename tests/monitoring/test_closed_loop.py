"""Metrics, panels and rules know each other: nothing is reported that nobody sees, nothing is asked that nobody reports.

A metric of yours failed here? Add a line to manifests/monitoring/dashboards.py and run `python -m manifests.monitoring.dashboards`.
"""

import itertools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from manifests.monitoring.dashboards import DASHBOARDS, FOLDER
from manifests.monitoring.panels import Dashboard, dashboard_json
from manifests.monitoring.promql import Selector, selectors
from manifests.monitoring.rules import rules
from stablerep.telemetry import METRICS
from stablerep.telemetry.catalogue import LABELS, OTHER

# What others export: Prometheus itself, prometheus_client's collector of the process, DCGM's exporter.
EXTERNAL = {"up", "process_resident_memory_bytes", "process_cpu_seconds_total"}
EXTERNAL |= {f"DCGM_FI_{name}" for name in ("DEV_GPU_UTIL", "DEV_FB_USED", "DEV_POWER_USAGE", "PROF_PIPE_TENSOR_ACTIVE")}
ADDED_BY_PROMETHEUS = {"namespace", "pod", "instance", "job", "exported_pod", "exported_namespace"}
RULES = rules()
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
QUERIES = {f"{d.uid}/{p.title}/{legend}": query for d in DASHBOARDS for p in d.panels for legend, query in p.queries.items()}
EXPRESSIONS = {**QUERIES, **{f"rule/{rule.get('record') or rule.get('alert')}": rule["expr"] for rule in RULES}}
each_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)


def substituted(query: str) -> str:
    """As Grafana fills the variables in."""
    return query.replace("$__rate_interval", "1m").replace("$namespace", ".*")


def _metric_of(name: str) -> str:
    """The metric whose series has this name: a histogram has three kinds."""
    stems = [name.removesuffix(end) for end in ("_bucket", "_count", "_sum") if name.endswith(end)]
    return next((stem for stem in stems if stem in METRICS and METRICS[stem].kind == "histogram"), name)


NAMED = {name: [Selector(_metric_of(s.metric), s.matchers) for s in selectors(substituted(query))] for name, query in EXPRESSIONS.items()}


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_has_a_panel_or_a_rule(name: str) -> None:
    assert any(selector.metric == name for found in NAMED.values() for selector in found), (
        f"{name} is reported and shown nowhere: add a Panel (one line) to manifests/monitoring/dashboards.py"
    )


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_expressions_name_what_exists(name: str) -> None:
    assert NAMED[name] or EXPRESSIONS[name].startswith("vector("), "names no metric"
    for selector in NAMED[name]:
        assert selector.metric in METRICS.keys() | RECORDED | EXTERNAL, f"{selector.metric} is no metric, no recording rule, not external"
        known = METRICS[selector.metric].labels if selector.metric in METRICS else ()
        for label, operator, value in selector.matchers:
            if selector.metric in METRICS and label not in ADDED_BY_PROMETHEUS:
                assert label == "le" or label in known, f"{selector.metric} has no label {label}"
                assert _is_possible(selector.metric, label, operator, value), (
                    f"{selector.metric}: {label}{operator}{value!r} matches nothing"
                )


def _is_possible(metric: str, label: str, operator: str, value: str) -> bool:
    if label == "le":
        return any(float(value) == bucket for bucket in METRICS[metric].buckets)
    values = (*LABELS[label], OTHER)
    return value in values if operator in ("=", "!=") else any(re.fullmatch(value, each) for each in values)


def test_labels_that_are_grouped_by_exist() -> None:
    known = {label for metric in METRICS.values() for label in metric.labels} | ADDED_BY_PROMETHEUS | {"le", "gpu", "Hostname"}
    lists = [found for query in EXPRESSIONS.values() for found in re.findall(r"\b(?:by|on|without|ignoring) ?\(([^)]*)\)", query)]
    assert {label.strip() for found in lists for label in found.split(",") if label.strip()} - known == set()


def test_promtool_parses_every_query(promtool: str, tmp_path: Path) -> None:
    wrapped = [{"record": f"query{i}", "expr": substituted(query)} for i, query in enumerate(QUERIES.values())]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": wrapped}]}), encoding="utf-8")
    done = subprocess.run([promtool, "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@each_dashboard
def test_the_committed_json_is_what_the_code_says(dashboard: Dashboard) -> None:
    committed = (FOLDER / f"{dashboard.uid}.json").read_text(encoding="utf-8")
    assert committed == dashboard_json(dashboard), "run python -m manifests.monitoring.dashboards"


def test_every_dashboard_reaches_grafana() -> None:
    generator = yaml.safe_load((FOLDER.parent / "kustomization.yaml").read_text(encoding="utf-8"))["configMapGenerator"][0]
    assert generator["options"]["labels"] == {"grafana_dashboard": "1"}
    assert {Path(name).stem for name in generator["files"]} == {dashboard.uid for dashboard in DASHBOARDS}
    assert {path.name for path in FOLDER.glob("*.json")} == {Path(name).name for name in generator["files"]}


@each_dashboard
def test_panels_have_their_own_id_and_place(dashboard: Dashboard) -> None:
    content = json.loads(dashboard_json(dashboard))
    panels: list[dict[str, Any]] = content["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(0 < panel["id"] < 2**31 for panel in panels)
    for first, second in itertools.combinations([panel["gridPos"] for panel in panels], 2):
        beside = first["x"] + first["w"] <= second["x"] or second["x"] + second["w"] <= first["x"]
        above = first["y"] + first["h"] <= second["y"] or second["y"] + second["h"] <= first["y"]
        assert beside or above, (first, second)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


@each_dashboard
def test_every_query_asks_the_chosen_prometheus(dashboard: Dashboard) -> None:
    content = json.loads(dashboard_json(dashboard))
    assert [(each["name"], each["type"]) for each in content["templating"]["list"]] == [
        ("datasource", "datasource"),
        ("namespace", "query"),
    ]
    for panel in content["panels"]:
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == panel["datasource"]["uid"] == "${datasource}"
    assert content["uid"] == dashboard.uid
    assert len({dashboard.uid for dashboard in DASHBOARDS}) == len(DASHBOARDS)
    titles = [panel.title for panel in dashboard.panels]
    assert len(set(titles)) == len(titles)


def test_what_a_laptop_has_no_data_for_is_named() -> None:
    lacking = {(panel.title, panel.needs) for dashboard in DASHBOARDS for panel in dashboard.panels if panel.needs}
    assert {reason.partition(",")[0] for _, reason in lacking} == {"a failure", "a GPU", "a cluster that preempts"}
