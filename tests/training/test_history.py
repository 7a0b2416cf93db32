"""metrics.jsonl of a run: keyed by step, exact over kills."""

import pytest

from stablerep.store import Store
from stablerep.telemetry import METRICS
from stablerep.training.history import History, read_history, series

LOSS = METRICS["stablerep_training_loss"]
STEP = METRICS["stablerep_training_step"]


def _write(history: History, steps: range) -> None:
    for step in steps:
        history.step = step
        history.report(STEP, step, {})
        history.report(LOSS, 10.0 - step, {"term": "total"})


def test_a_continued_run_has_each_point_once(store: Store) -> None:
    first = History(store, "metrics.jsonl", after_step=0)
    _write(first, range(1, 6))
    first.close()  # checkpoint of step 5
    _write(first, range(6, 9))
    first.close()  # flushed, then killed before the checkpoint of step 10
    second = History(store, "metrics.jsonl", after_step=5)
    _write(second, range(6, 11))
    second.close()
    losses = series(read_history(store, "metrics.jsonl"), "stablerep_training_loss", term="total")
    assert losses == [(step, 10.0 - step) for step in range(1, 11)]


def test_flushes_by_the_clock(store: Store) -> None:
    now = [0.0]
    history = History(store, "m", after_step=0, flush_seconds=10, clock=lambda: now[0])
    _write(history, range(1, 2))
    assert read_history(store, "m") == []
    now[0] = 10.0
    _write(history, range(2, 3))
    history.wait()
    assert [point.step for point in read_history(store, "m")] == [1, 1, 2]


def test_keeps_what_is_not_finite_as_nothing(store: Store) -> None:
    history = History(store, "m", after_step=0)
    history.report(LOSS, float("nan"), {"term": "image"})
    history.close()
    assert read_history(store, "m")[0].value is None
    assert series(read_history(store, "m"), "stablerep_training_loss", term="image") == []


def test_other_subsystems_are_not_in_it(store: Store) -> None:
    history = History(store, "m", after_step=0)
    history.report(METRICS["stablerep_stage_seconds"], 3.0, {"stage": "pretrain"})
    history.close()
    assert store.read_text("m") == ""


def test_mean_of_the_last_tenth(store: Store) -> None:
    history = History(store, "m", after_step=0)
    _write(history, range(1, 21))
    assert history.mean_of_last("stablerep_training_loss", term="total") == pytest.approx((10 - 19 + 10 - 20) / 2)
    assert history.mean_of_last("stablerep_training_loss", term="text") is None


def test_damaged_history_begins_anew(store: Store) -> None:
    store.write("m", "not json\n")
    assert read_history(store, "m") == []
