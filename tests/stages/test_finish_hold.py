import json
from pathlib import Path

from stablerep.config import load_recipe
from stablerep.records import EndpointRef, GateDecision, PromptSet
from stablerep.stages import finish, hold
from stablerep.stages.ledger import Entry, Ledger
from stablerep.store import Store


def _keep(store: Store, name: str, output: str) -> None:
    Ledger(store, load_recipe("smoke")).keep(Entry(name, output, {}, 1.0, 2.0))


def _decision(is_promoted: bool) -> GateDecision:
    return GateDecision("model-1", is_promoted, ("the linear probe reaches 12 %",), "model-0", 0.5)


def test_the_report_shows_the_branch_that_the_gate_took(store: Store) -> None:
    _keep(store, "deploy", EndpointRef("model-1", "http://127.0.0.1:1/old", "127.0.0.1:2", 3, "file:///log").to_json())
    _keep(store, "hold", _decision(False).to_json())
    for is_promoted in (True, False):
        _keep(store, "gate", _decision(is_promoted).to_json())
        report = finish.run("smoke", "", store.uri)
        html = store.read_text(report.uri.removeprefix(store.uri + "/"))
        assert ("http://127.0.0.1:1/old" in html) == is_promoted
        assert ("promoted: " in html) == is_promoted
        assert ("<td>hold</td>" in html) != is_promoted


def test_a_run_that_failed_early_has_a_report_too(store: Store, tmp_path: Path) -> None:
    counts = {"read": 3, "kept": 2, "duplicate": 1}
    _keep(store, "prepare", PromptSet("prompts-1", f"{store.uri}/captions/prompts-1", "00", 2, 1, 1, counts).to_json())
    paths = {"summary_path": str(tmp_path / "s.md"), "report_path": str(tmp_path / "r.html")}
    report = finish.run("smoke", "", store.uri, state="FAILED", error="Task generate failed", **paths)
    assert report.state == "FAILED"
    assert "# smoke: failed" in (tmp_path / "s.md").read_text(encoding="utf-8")
    assert "Task generate failed" in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert json.loads(store.read_text(f"reports/{report.key}/config.json"))["name"] == "smoke"


def test_hold_says_why(store: Store, tmp_path: Path) -> None:
    assert hold.run("smoke", "", store.uri, decision=_decision(False).to_json(), reasons_path=str(tmp_path / "why.md")) == _decision(False)
    text = (tmp_path / "why.md").read_text(encoding="utf-8")
    assert "model-1 is not deployed" in text
    assert "- the linear probe reaches 12 %" in text
    assert "The champion stays: model-0" in text
