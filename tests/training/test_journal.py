"""What rank 0 writes down: which steps, what progress, one line a minute."""

import json
import logging

import pytest

from stablerep.store import Store
from stablerep.training.history import read_history, series
from stablerep.training.journal import Journal

LOSSES = {"total": 3.0, "image": 2.0, "text": 1.0}


class Clock:
    """Seconds that the test decides."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _journal(store: Store, clock: Clock, *, num_steps: int, after_step: int = 0, is_first: bool = True) -> Journal:
    return Journal(store, is_first=is_first, attempt="a", after_step=after_step, num_steps=num_steps, clock=clock)


def _steps(store: Store) -> list[int]:
    return [step for step, _ in series(read_history(store, "metrics.jsonl"), "stablerep_training_loss", term="total")]


def test_long_runs_are_thinned_always_at_the_same_steps(store: Store) -> None:
    clock = Clock()
    for after_step in (0, 4_998):
        journal = _journal(store, clock, num_steps=10_007, after_step=after_step)
        for step in range(after_step + 1, 10_008):
            journal.step(step, LOSSES, 1e-3, 1.0, step, 0.0)
        journal.flush()
    assert _steps(store) == [*range(10, 10_001, 10), 10_007]


def test_throughput_and_waits_are_those_of_the_interval(store: Store) -> None:
    clock = Clock()
    journal = _journal(store, clock, num_steps=10)
    clock.now = 2.0
    journal.step(1, LOSSES, 1e-3, 1.0, 100, 0.5)
    clock.now = 3.0
    journal.step(2, LOSSES, 1e-3, 1.0, 400, 1.25)
    journal.flush()
    history = read_history(store, "metrics.jsonl")
    assert series(history, "stablerep_training_images_per_second") == [(1, 50.0), (2, 300.0)]
    assert series(history, "stablerep_training_data_wait_ratio") == [(1, 0.25), (2, 0.75)]


def test_progress_is_written_every_second(store: Store) -> None:
    clock = Clock()
    journal = _journal(store, clock, num_steps=10)
    for step, now in ((1, 0.0), (2, 0.5), (3, 1.0)):
        clock.now = now
        journal.step(step, LOSSES, 1e-3, 1.0, 1, 0.0)
        journal.leave()
        progress = json.loads(store.read_text("progress.json"))
        assert progress["step"] == (1 if step < 3 else 3)
    assert progress["metrics"]["loss_text"] == 1.0
    assert (progress["attempt"], progress["num_steps"]) == ("a", 10)


def test_one_line_a_minute(store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("stablerep"), "propagate", True)
    caplog.set_level(logging.INFO, logger="stablerep")
    clock = Clock()
    journal = _journal(store, clock, num_steps=50_000, after_step=1_000)
    for step in range(1_001, 1_301):
        clock.now += 0.5
        journal.step(step, LOSSES, 1e-3, 1.0, (step - 1_000) * 200, 0.0)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "step 1150/50000 (2.3 %), loss 3.000, 400 images/s, 6 h 47 m left",
        "step 1300/50000 (2.6 %), loss 3.000, 400 images/s, 6 h 46 m left",
    ]


def test_other_ranks_write_nothing(store: Store) -> None:
    journal = _journal(store, Clock(), num_steps=3, is_first=False)
    journal.step(1, LOSSES, 1e-3, 1.0, 10, 0.0)
    journal.flush()
    journal.checkpoint(1, 0.1)
    assert store.list() == []
    assert journal.summary() == {}
