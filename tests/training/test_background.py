"""Checkpoints in the background: the same bytes, the marker last, one at a time, and errors that come to light."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import ALONE, StopAfter, tiny_run, train_alone

from stablerep.batches import Batch
from stablerep.errors import DivergenceError, Preempted, StoreError
from stablerep.stages.pretrain_parts import build_engine, model_spec
from stablerep.stages.pretrain_run import RunConfig
from stablerep.store import Store
from stablerep.training.checkpoint import Checkpoints, Facts
from stablerep.training.engine import TorchEngine
from stablerep.training.snapshot import copied
from stablerep.training.state import WEIGHTS_NAME, CheckpointRecord

WAIT_SECONDS = 30.0


def _plan(store: Store, **changes: Any) -> RunConfig:
    return tiny_run(store, is_checkpoint_async=True, **({"checkpoint_every_steps": 2} | changes))


def _committed(store: Store, plan: RunConfig) -> list[int]:
    return Checkpoints(store.at(plan.prefix), plan.run_key, plan.fingerprint).committed_steps()


def _before_step(monkeypatch: pytest.MonkeyPatch, act: Callable[[Batch], None]) -> None:
    step = TorchEngine.step

    def watched(self: TorchEngine, batch: Batch, lr: float) -> Any:
        act(batch)
        return step(self, batch, lr)

    monkeypatch.setattr(TorchEngine, "step", watched)


def _writing(monkeypatch: pytest.MonkeyPatch, act: Callable[[Facts], None]) -> None:
    write = Checkpoints.write

    def watched(self: Checkpoints, facts: Facts, *rest: Any) -> Any:
        act(facts)
        return write(self, facts, *rest)

    monkeypatch.setattr(Checkpoints, "write", watched)


def _join_writers() -> None:
    for thread in threading.enumerate():
        if thread.name == "checkpoint":
            thread.join(WAIT_SECONDS)


def test_training_goes_on_and_the_marker_is_last(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plan = _plan(store, checkpoint_every_steps=3)
    may_write = threading.Event()
    seen: list[list[int]] = []

    def at_step(batch: Batch) -> None:
        if batch.step == 4:  # the checkpoint of step 3 is on its way since the end of the step before
            seen.append(_committed(store, plan))
            may_write.set()

    _before_step(monkeypatch, at_step)
    _writing(monkeypatch, lambda facts: None if may_write.wait(WAIT_SECONDS) else pytest.fail("training waits for the writer"))
    record = train_alone(store, plan)
    assert seen == [[]]
    assert _committed(store, plan) == [6, 3]
    monkeypatch.undo()
    other = Store(str(tmp_path / "other"))
    waited = tiny_run(other, checkpoint_every_steps=3)
    assert waited.run_key == plan.run_key
    expected = train_alone(other, waited)
    assert record.file(WEIGHTS_NAME) == expected.file(WEIGHTS_NAME)
    assert _record(store, plan, 3).metrics == _record(other, waited, 3).metrics
    assert _record(store, plan, 3).position == _record(other, waited, 3).position


def _record(store: Store, plan: RunConfig, step: int) -> CheckpointRecord:
    return Checkpoints(store.at(plan.prefix), plan.run_key, plan.fingerprint).read(step)


def test_one_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = _plan(store, checkpoint_every_steps=1, num_checkpoints_kept=9)
    events: list[tuple[str, int]] = []
    commit = Checkpoints.commit
    _writing(monkeypatch, lambda facts: events.append(("write", facts.step)))
    monkeypatch.setattr(
        Checkpoints, "commit", lambda self, record, kept: (events.append(("commit", record.step)), commit(self, record, kept))
    )
    train_alone(store, plan)
    assert events == [(verb, step) for step in range(1, 7) for verb in ("write", "commit")]
    assert _committed(store, plan) == [6, 5, 4, 3, 2, 1]


def test_continuing_from_what_was_written_in_the_background(store: Store, tmp_path: Path) -> None:
    plan = _plan(store, checkpoint_every_steps=3)
    with pytest.raises(Preempted):
        train_alone(store, plan, is_stop_asked=StopAfter(4))
    assert _committed(store, plan) == [4, 3]  # a stop waits for the one on its way
    store.delete(f"{plan.prefix}/checkpoints/step-4")
    other = Store(str(tmp_path / "other"))
    expected = train_alone(other, tiny_run(other))
    assert train_alone(store, plan, attempt="b").file(WEIGHTS_NAME).sha256 == expected.file(WEIGHTS_NAME).sha256  # pyright: ignore


def test_an_error_of_the_writer_ends_the_next_step(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = _plan(store)
    steps: list[int] = []

    def refuse(facts: Facts) -> None:
        raise StoreError(f"cannot write the checkpoint of step {facts.step}: the disk is full")

    def at_step(batch: Batch) -> None:
        _join_writers()
        steps.append(batch.step)

    _writing(monkeypatch, refuse)
    _before_step(monkeypatch, at_step)
    with pytest.raises(StoreError, match="cannot write the checkpoint of step 2: the disk is full"):
        train_alone(store, plan)
    assert steps == [0, 1, 2]
    assert _committed(store, plan) == []


def test_an_error_that_nobody_expects_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(facts: Facts) -> None:
        raise ValueError("a bug")

    _writing(monkeypatch, stumble)
    with pytest.raises(StoreError, match="a checkpoint could not be written in the background: ValueError: a bug"):
        train_alone(store, _plan(store))


def test_a_divergence_leaves_the_checkpoint_that_was_on_its_way(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = _plan(store)
    _before_step(monkeypatch, lambda batch: batch.views_MNCHW.fill_(float("nan")) if batch.step == 2 else None)
    with pytest.raises(DivergenceError):
        train_alone(store, plan)
    assert _committed(store, plan) == [2]


def test_a_snapshot_is_not_changed_by_later_steps(store: Store, tmp_path: Path) -> None:
    pretrain = _plan(store, text_weight=0.0, ema_decay=0.5).pretrain
    engine, other = (build_engine(pretrain, model_spec(pretrain, None), ALONE) for _ in range(2))
    batches = [
        Batch(torch.randn(3, 12, 3, 16, 16), torch.zeros(12, 0, dtype=torch.int64), torch.arange(12), step, ("",) * 12) for step in range(3)
    ]
    engine.step(batches[0], 1e-3)
    before = engine.state()
    write = engine.snapshot()
    expected = [engine.step(batch, 1e-3) for batch in batches[1:]]
    write(tmp_path)
    other.load(tmp_path)
    assert all(torch.equal(before[name], value) for name, value in other.state().items())
    assert [other.step(batch, 1e-3) for batch in batches[1:]] == expected
    assert all(torch.equal(value, other.weights()[name]) for name, value in engine.weights().items())


def test_a_part_of_a_tensor_is_copied_without_the_rest() -> None:
    whole = torch.arange(1000.0)
    state = {"part": whole[:3], "more": [whole[3:5], (1, whole[5])], "name": "x"}
    twin = copied(state)
    whole.zero_()
    assert twin["part"].tolist() == [0, 1, 2]
    assert twin["more"][1][1].item() == 5
    assert twin["part"].untyped_storage().nbytes() == 12
