"""The loop in one process: it learns, it continues exactly, it stops in the right way. Real data, towers and engine."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_groups import weighted_tiny
from tiny_training import ALONE, TINY, StopAfter, tiny_run, train_alone

from stablerep.errors import CheckpointError, ConfigError, DivergenceError, Preempted
from stablerep.stages.pretrain_run import RunConfig, decisive_settings, plan_run
from stablerep.store import Store
from stablerep.training import loop
from stablerep.training.engine import TorchEngine
from stablerep.training.history import Point, read_history, series
from stablerep.training.state import METRICS_KEY, WEIGHTS_NAME, CheckpointRecord


def _weights(store: Store, plan: RunConfig, record: CheckpointRecord) -> bytes:
    file = record.file(WEIGHTS_NAME)
    assert file is not None
    return store.read(f"{plan.prefix}/checkpoints/step-{record.step}/{file.name}")


def _values(store: Store, plan: RunConfig) -> list[tuple[Any, ...]]:
    """The history without what the clock decides."""
    by_clock = ("images_per_second", "data_wait_ratio", "timestamp_seconds")
    points: list[Point] = read_history(store.at(plan.prefix), METRICS_KEY)
    return [(p.step, p.metric, str(p.labels), p.value) for p in points if not p.metric.endswith(by_clock)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, RunConfig, CheckpointRecord]:
    store = Store(str(tmp_path_factory.mktemp("undisturbed")))
    plan = tiny_run(store)
    return store, plan, train_alone(store, plan)


Undisturbed = tuple[Store, RunConfig, CheckpointRecord]


def test_leaves_checkpoints_and_history(undisturbed: Undisturbed) -> None:
    done_store, plan, record = undisturbed
    assert record.step == record.num_steps == 6
    losses = series(read_history(done_store.at(plan.prefix), METRICS_KEY), "stablerep_training_loss", term="total")
    assert [step for step, _ in losses] == [1, 2, 3, 4, 5, 6]
    assert record.metrics["loss"] == pytest.approx(record.metrics["image_loss"] + record.metrics["text_loss"])
    assert record.file("state.pt") is not None
    kept = {key.split("/")[1] for key in done_store.at(plan.prefix).list("checkpoints")}
    assert kept == {"step-3", "step-6"}


def test_weights_of_images_reach_the_loss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    losses: list[float] = []
    for weight in (1.0, 0.25):
        store = Store(str(tmp_path / str(weight)))
        plan = plan_run("tiny", replace(TINY, num_steps=1, checkpoint_every_steps=1), weighted_tiny(store, weight))
        losses.append(train_alone(store, plan).metrics["image_loss"])
    assert losses[0] != losses[1]
    assert "lower weights" not in caplog.text
    store = Store(str(tmp_path / "simclr"))
    train_alone(store, plan_run("tiny", replace(TINY, objective="simclr", num_steps=1), weighted_tiny(store, 0.25)))
    assert "some images have lower weights, which pretrain.objective=simclr does not count" in caplog.text


def test_the_curve_is_the_golden_one(undisturbed: Undisturbed) -> None:
    done_store, plan, _ = undisturbed
    golden = json.loads((Path(__file__).parents[1] / "golden" / "loss_curve.json").read_text())
    for term, losses in golden.items():
        found = [value for _, value in series(read_history(done_store.at(plan.prefix), METRICS_KEY), "stablerep_training_loss", term=term)]
        assert found == pytest.approx(losses, rel=1e-3), term


def test_it_learns(store: Store) -> None:
    plan = tiny_run(store, num_steps=40, warmup_steps=4)
    train_alone(store, plan)
    history = read_history(store.at(plan.prefix), METRICS_KEY)
    for term in ("image", "text"):
        losses = [value for _, value in series(history, "stablerep_training_loss", term=term)]
        assert sum(losses[-5:]) < 0.6 * sum(losses[:5]), term


def test_the_same_run_elsewhere_is_the_same_bytes(undisturbed: Undisturbed, store: Store) -> None:
    done_store, plan, record = undisturbed
    torch.manual_seed(12345)  # what came before must not matter
    assert _weights(store, plan, train_alone(store, tiny_run(store))) == _weights(done_store, plan, record)


@pytest.mark.parametrize("stop_after", [1, 2, 5])
def test_stopped_and_continued_is_never_stopped(undisturbed: Undisturbed, store: Store, stop_after: int) -> None:
    done_store, plan, record = undisturbed
    assert tiny_run(store) == replace(plan, dataset=replace(plan.dataset, uri=tiny_run(store).dataset.uri))
    with pytest.raises(Preempted, match=f"stopped after step {stop_after} of 6 as asked, its checkpoint is committed; run again"):
        train_alone(store, plan, is_stop_asked=StopAfter(stop_after))
    again = train_alone(store, plan, attempt="b")
    assert _weights(store, plan, again) == _weights(done_store, plan, record)
    assert _values(store, plan) == _values(done_store, plan)
    assert again.metrics == record.metrics


def test_killed_between_checkpoints_is_never_killed(undisturbed: Undisturbed, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    done_store, plan, record = undisturbed
    step = TorchEngine.step
    monkeypatch.setattr(TorchEngine, "step", lambda self, batch, lr: _die() if batch.step == 4 else step(self, batch, lr))
    with pytest.raises(KeyboardInterrupt):
        train_alone(store, tiny_run(store))
    monkeypatch.setattr(TorchEngine, "step", step)
    again = train_alone(store, plan, attempt="b")
    assert _weights(store, plan, again) == _weights(done_store, plan, record)
    assert _values(store, plan) == _values(done_store, plan)


def _die() -> Any:
    raise KeyboardInterrupt


def test_a_finished_run_does_nothing(undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch) -> None:
    done_store, plan, record = undisturbed
    monkeypatch.setattr(TorchEngine, "step", lambda *_: _die())
    assert train_alone(done_store, plan, attempt="b") == record


def test_other_settings_do_not_continue_this_run(undisturbed: Undisturbed, store: Store) -> None:
    done_store, plan, _ = undisturbed
    other = tiny_run(done_store, lr=1e-3)
    assert other.run_key != plan.run_key
    stolen = replace(other, run_key=plan.run_key)  # a copied folder, a tampered configuration
    with pytest.raises(CheckpointError, match=f"fingerprint {other.fingerprint[:16]}, found one of run {plan.run_key} with fingerprint"):
        train_alone(done_store, stolen)


@pytest.mark.parametrize(
    "changed",
    [
        {"is_activation_checkpointed": True},
        {"num_workers": 3},
        {"checkpoint_every_steps": 1},
        {"launch_timeout_seconds": 9},
        {"num_checkpoints_kept": 9},
    ],
)
def test_what_decides_nothing_is_not_in_the_key(undisturbed: Undisturbed, changed: dict[str, int]) -> None:
    done_store, plan, _ = undisturbed
    assert tiny_run(done_store, **changed).run_key == plan.run_key


def test_settings_that_came_later_leave_the_keys_of_earlier_runs(undisturbed: Undisturbed) -> None:
    """The digest of a run's settings as they were first; a change of it makes every stored run start anew."""
    _, plan, _ = undisturbed
    names = {"objective", "ema_decay", "accumulation_steps", "is_compiled"}
    assert names & set(decisive_settings(plan.pretrain)) == set()
    assert (
        set(
            decisive_settings(
                replace(plan.pretrain, accumulation_steps=2, ema_decay=0.9, is_compiled=True, text_weight=0.0, objective="simclr")
            )
        )
        >= names
    )


def test_accumulating_is_the_big_batch(undisturbed: Undisturbed, store: Store) -> None:
    done_store, plan, _ = undisturbed
    parts = tiny_run(store, accumulation_steps=5)
    train_alone(store, parts)
    curves = [
        [value for _, value in series(read_history(kept.at(run.prefix), METRICS_KEY), "stablerep_training_loss", term="total")]
        for kept, run in ((done_store, plan), (store, parts))
    ]
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)
    assert parts.run_key != plan.run_key


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_forgetting_activations_changes_no_bit(store: Store, tmp_path: Path, precision: str) -> None:
    settings = {"precision": precision, "trunk": replace(TINY.trunk, depth=3), "num_steps": 3}
    plain = tiny_run(store, **settings)
    expected = _weights(store, plain, train_alone(store, plain))
    other = Store(str(tmp_path / "other"))
    forgetting = tiny_run(other, is_activation_checkpointed=True, **settings)
    assert _weights(other, forgetting, train_alone(other, forgetting)) == expected


def test_the_settings_reach_the_trunk() -> None:
    """What torch.compile makes of the trunk is tested in tests/models with a backend that writes no code."""
    from stablerep.stages.pretrain_parts import build_objective, model_spec

    spec = model_spec(replace(TINY, text_weight=0.0), None)
    for is_on in (False, True):
        pretrain = replace(TINY, text_weight=0.0, is_compiled=is_on, is_activation_checkpointed=is_on)
        trunk = build_objective(pretrain, spec).towers.trunk
        assert (trunk._compiled_call_impl is not None) is is_on
        assert trunk.grad_checkpointing is is_on
    with pytest.raises(ConfigError, match=r"pretrain\.is_compiled: expected whole weights .* found zero_stage=3"):
        replace(TINY, is_compiled=True, zero_stage=3, num_processes=2)


@pytest.mark.parametrize("steps", [0, 13])
def test_no_more_parts_than_captions(steps: int) -> None:
    with pytest.raises(ConfigError, match=rf"pretrain\.accumulation_steps: expected 1 to 12 \(captions of a process\), found {steps}"):
        replace(TINY, accumulation_steps=steps)


def test_a_loss_that_is_not_finite_names_step_and_captions(store: Store) -> None:
    plan = tiny_run(store, lr=1e30, clip_norm=0.0, num_steps=9)
    with pytest.raises(DivergenceError, match=r"step [1-8]: expected finite losses and gradients, found loss .*; lower pretrain.lr"):
        train_alone(store, plan)
    details = json.loads(store.at(plan.prefix).read_text(loop.DIVERGED_KEY))
    assert 1 <= details["step"] <= 8
    assert len(details["caption_ids"]) == len(set(details["caption_ids"])) == 12
    assert all(len(name) == 16 for name in details["caption_ids"])


def test_a_gradient_that_is_not_finite_changes_no_weight(store: Store, tmp_path: Path) -> None:
    from stablerep.stages.pretrain_parts import build_engine, model_spec

    plan = tiny_run(store, text_weight=0.0, clip_norm=0.0)
    engine = build_engine(plan.pretrain, model_spec(plan.pretrain, None), ALONE)
    before = engine.weights()
    views = torch.full((3, 12, 3, 16, 16), float("nan"))
    from stablerep.batches import Batch

    result = engine.step(Batch(views, torch.zeros(12, 0, dtype=torch.int64), torch.arange(12), 0, ("",) * 12), lr=1.0)
    assert not result.is_finite
    after = engine.weights()
    assert all(torch.equal(before[name], after[name]) for name in before if "running" not in name and "tracked" not in name)


def test_bf16_follows_fp32(undisturbed: Undisturbed, store: Store) -> None:
    done_store, plan, _ = undisturbed
    rough = tiny_run(store, precision="bf16")
    train_alone(store, rough)
    history = read_history(store.at(rough.prefix), METRICS_KEY)
    losses = dict(series(history, "stablerep_training_loss", term="total"))
    exact = dict(series(read_history(done_store.at(plan.prefix), METRICS_KEY), "stablerep_training_loss", term="total"))
    assert losses != exact
    assert losses[1] == pytest.approx(exact[1], rel=2e-2)


def test_without_captions_there_is_one_loss(store: Store) -> None:
    plan = tiny_run(store, text_weight=0.0, num_steps=2)
    record = train_alone(store, plan)
    assert record.metrics["text_loss"] == 0.0
    assert record.metrics["loss"] == record.metrics["image_loss"]
    assert not store.at(plan.prefix).exists("tokenizer.json")
