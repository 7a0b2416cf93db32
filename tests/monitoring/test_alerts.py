"""Every alert fires where it should and nowhere else, by promtool's own evaluation; and each leads to a runbook."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from manifests.monitoring.rules import rules

PROJECT = Path(__file__).resolve().parents[2]
ALERTS: dict[str, dict[str, Any]] = {rule["alert"]: rule for rule in rules() if "alert" in rule}
CASES: dict[str, list[dict[str, Any]]] = yaml.safe_load(Path(__file__).with_name("alerts.yaml").read_text(encoding="utf-8"))


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    assert set(CASES) == set(ALERTS)
    assert [name for name, cases in CASES.items() if {bool(case["fires"]) for case in cases} != {True, False}] == []


def _filled(text: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda match: labels.get(match[1], ""), text)


def _expected(name: str, labels: dict[str, str]) -> dict[str, Any]:
    rule = ALERTS[name]
    annotations = {key: _filled(text, labels) for key, text in rule["annotations"].items()}
    return {"exp_labels": {**labels, **rule["labels"]}, "exp_annotations": annotations}


def _promtool_test(name: str, case: dict[str, Any]) -> dict[str, Any]:
    return {
        "interval": case.get("every", "1m"),
        "input_series": [{"series": series, "values": str(values)} for series, values in case["series"].items()],
        "alert_rule_test": [
            {"eval_time": case["at"], "alertname": name, "exp_alerts": [_expected(name, labels) for labels in case["fires"]]}
        ],
    }


def test_alerts_fire_when_they_should(promtool: str, rules_file: Path, tmp_path: Path) -> None:
    paths: list[str] = []
    for every in ("1m", "5m"):
        cases = [(name, case) for name, named in CASES.items() for case in named if case.get("every", "1m") == every]
        tests = [_promtool_test(name, case) for name, case in cases]
        document = {"rule_files": [str(rules_file)], "evaluation_interval": every, "tests": tests}
        path = tmp_path / f"{every}.yml"
        path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        paths.append(str(path))
    done = subprocess.run([promtool, "test", "rules", *paths], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_rules(promtool: str, rules_file: Path) -> None:
    done = subprocess.run(
        [promtool, "check", "rules", "--lint=all", "--lint-fatal", str(rules_file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_leads_to_a_runbook(name: str) -> None:
    path, _, anchor = ALERTS[name]["annotations"]["runbook"].partition("#")
    text = (PROJECT / path).read_text(encoding="utf-8")
    section = re.search(rf"^### {anchor.replace('-', ' ')}\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL | re.IGNORECASE)
    assert section, f"{path} has no heading for #{anchor}"
    assert name in section[1]
    for part in ("**Means**", "**Look at**", "**Do**"):
        assert part in section[1], f"the runbook {anchor} says nothing under {part}"


def test_severities_are_those_that_people_route_by() -> None:
    assert {rule["labels"]["severity"] for rule in ALERTS.values()} == {"page", "ticket", "critical", "warning"}


def test_the_page_names_every_alert_with_its_severity() -> None:
    text = (PROJECT / "docs" / "observability.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(Stablerep\w+)` \| [^|]+ \| (\w+) \|$", text, flags=re.MULTILINE))
    assert rows == {name: rule["labels"]["severity"] for name, rule in ALERTS.items()}
