"""Writes in a thread: nothing waits for them, none is lost, and an error is told."""

import threading

import pytest

from stablerep.errors import StoreError
from stablerep.store import Store
from stablerep.training.aside import WritesAside
from stablerep.training.history import History, read_history
from stablerep.training.journal import Journal


class SlowStore(Store):
    """A store whose writes wait until the test lets them."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.is_asked, self.may_go_on, self.written = threading.Event(), threading.Event(), list[tuple[str, bytes | str]]()

    def write(self, key: str, data: bytes | str) -> None:
        """Wait, then write."""
        self.is_asked.set()
        assert self.may_go_on.wait(60)
        self.written.append((key, data))
        super().write(key, data)


class FullStore(Store):
    """A store that takes nothing."""

    def write(self, key: str, data: bytes | str) -> None:
        """Refuse."""
        raise StoreError(f"{key}: no space left")


@pytest.fixture
def slow(store: Store) -> SlowStore:
    return SlowStore(store.uri)


def test_the_newest_content_of_each_key_is_written(slow: SlowStore) -> None:
    writes = WritesAside(slow)
    writes.write("a", b"1")
    assert slow.is_asked.wait(60)
    for content in (b"2", b"3"):
        writes.write("a", content)
        writes.write("b", content)
    assert slow.written == []
    slow.may_go_on.set()
    writes.finish()
    assert slow.written == [("a", b"1"), ("a", b"3"), ("b", b"3")]
    writes.write("a", b"4")
    writes.finish()
    assert slow.read("a") == b"4"


def test_no_step_waits_for_a_slow_store_but_a_flush_does(slow: SlowStore) -> None:
    journal = Journal(slow, is_first=True, attempt="a", after_step=0, num_steps=9, progress_seconds=0)
    for step in range(1, 4):
        journal.step(step, {"total": 1.0}, 1e-3, 1.0, step, 0.0)
    assert slow.written == []
    threading.Timer(0.05, slow.may_go_on.set).start()
    journal.flush()
    assert [point.step for point in read_history(slow, "metrics.jsonl") if point.metric == "stablerep_training_loss"] == [1, 2, 3]
    assert '"step":3' in slow.read_text("progress.json")


def test_an_error_is_raised_by_the_next_write_and_by_a_flush(store: Store) -> None:
    writes = WritesAside(FullStore(store.uri))
    writes.write("a", b"1")
    writes.wait()
    with pytest.raises(StoreError, match="no space left"):
        writes.write("a", b"2")
    writes.write("a", b"3")
    with pytest.raises(StoreError, match="no space left"):
        writes.finish()
    with pytest.raises(StoreError, match="no space left"):
        History(FullStore(store.uri), "m", after_step=0).close()
