from pathlib import Path

import pytest

from stablerep.config import load_recipe
from stablerep.errors import ConfigError, DataError
from stablerep.records import GateDecision
from stablerep.stages.dispatch import run_stage
from stablerep.stages.ledger import Entry, Ledger
from stablerep.store import Store


def _entry(output: str, started_at: float, **inputs: str) -> Entry:
    return Entry("pretrain", output, inputs, started_at, started_at + 100)


def test_an_entry_that_is_repeated_keeps_the_times_of_the_work(store: Store) -> None:
    ledger = Ledger(store, load_recipe("smoke"))
    ledger.keep(_entry("{}", 10.0, dataset="a"))
    ledger.keep(_entry("{}", 500.0, dataset="a"))
    assert [entry.started_at for entry in ledger.entries()] == [10.0]
    ledger.keep(_entry("{}", 900.0, dataset="b"))
    assert [entry.started_at for entry in ledger.entries()] == [900.0]


def test_configurations_do_not_share_a_ledger(store: Store) -> None:
    Ledger(store, load_recipe("smoke")).keep(_entry("{}", 10.0))
    other = Ledger(store, load_recipe("smoke", "pretrain.seed=1"))
    assert other.find("pretrain") is None
    with pytest.raises(DataError, match=r"expected the result of stage 'pretrain'.*run that stage first"):
        other.output("pretrain")


def test_where_a_run_runs_is_not_in_its_key(store: Store) -> None:
    here = Ledger(store, load_recipe("smoke"))
    here.keep(_entry("{}", 10.0))
    there = load_recipe("smoke", "deploy.name=other", cluster="launch.backend=trainjob launch.queue=gpus deploy.backend=blue_green")
    assert Ledger(store, there).key == here.key
    assert Ledger(store, there).output("pretrain") == "{}"


def test_a_word_of_the_user_may_need_one_of_the_cluster(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = "deploy.backend=standard_canary deploy.canary_percents=[]"
    with pytest.raises(ConfigError, match=r"deploy\.gateway: expected namespace/name"):
        run_stage("hold", "smoke", overrides, store.uri, decision=GateDecision("m", False, (), "", 0.0).to_json())
    monkeypatch.setenv("STABLEREP_CLUSTER", "deploy.gateway=istio-system/public")
    run_stage("hold", "smoke", overrides, store.uri, decision=GateDecision("m", False, (), "", 0.0).to_json())
    assert Ledger(store, load_recipe("smoke")).find("hold")


def test_dispatch_refuses_what_it_cannot_run(store: Store) -> None:
    with pytest.raises(ConfigError, match="unknown stage 'train'"):
        run_stage("train", "smoke", "", store.uri)
    with pytest.raises(DataError, match="expected the result of stage 'commit'"):
        run_stage("pretrain", "smoke", "", store.uri)


def test_a_stage_is_run_and_kept(store: Store) -> None:
    output = run_stage("prepare", "smoke", "", store.uri)
    assert Ledger(store, load_recipe("smoke")).output("prepare") == output


def test_an_empty_record_is_a_missing_one(store: Store, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected the result of stage 'commit'"):
        run_stage("pretrain", "smoke", "", store.uri, dataset="")
    decision = GateDecision("model-1", is_promoted=False, reasons=("too low",), champion_id="model-0", champion_accuracy=0.9).to_json()
    Ledger(store, load_recipe("smoke")).keep(Entry("gate", decision, {}, 0.0, 1.0))
    assert run_stage("hold", "smoke", "", store.uri, decision="", reasons_path=str(tmp_path / "why.md")) == decision
    assert "- too low" in (tmp_path / "why.md").read_text(encoding="utf-8")
