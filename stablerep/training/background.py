"""Checkpoints written while training goes on: the state is copied in memory, a thread of every rank writes, the commit marker is last.

    begin      collective: waits for the checkpoint before; then each rank's thread writes (to an object store: uploads), digests its files
    advance    collective, when all ranks' threads are done: rank 0's thread writes the commit marker and drops the oldest
    finish     collective: waits for all of that

Ranks learn from the sums that the loop takes at every step whether all threads are done, or one failed; threads themselves never
communicate, since collectives of two threads could cross. A thread's error is raised by all ranks at the next step. What is not yet
committed when the process dies does not count, as ever.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stablerep.errors import StablerepError, StoreError
from stablerep.training.checkpoint import Checkpoints, Facts, Ranks
from stablerep.training.state import CheckpointRecord

_LEAVING_SECONDS = 30.0


@dataclass
class _Save:
    facts: Facts
    num_kept: int
    started_at: float
    record: CheckpointRecord | None = None


class BackgroundSaves:
    """At most one checkpoint on its way.

    Args:
        checkpoints: of the run.
        ranks: the processes.
        on_commit: told the step and the seconds since it began, on every rank.
    """

    def __init__(self, checkpoints: Checkpoints, ranks: Ranks, on_commit: Callable[[int, float], None]) -> None:
        self._checkpoints, self._ranks, self._on_commit = checkpoints, ranks, on_commit
        self._save: _Save | None = None
        self._work = _Work()

    @property
    def is_ready(self) -> bool:
        """Whether this rank's thread has done its part; false when nothing is on its way."""
        return self._save is not None and self._work.is_done and self._work.error is None

    @property
    def has_failed(self) -> bool:
        """Whether this rank's thread ended with an error."""
        return self._work.is_done and self._work.error is not None

    def begin(self, write: Callable[[Path], None], facts: Facts, num_kept: int) -> None:
        """Start to write a checkpoint. Collective.

        Args:
            write: writes this rank's files into a folder, in a thread; not collective.
            facts: of the commit record.
            num_kept: committed checkpoints to keep, this one included.
        """
        self.finish()
        self._save = _Save(facts, num_kept, time.monotonic())
        self._work.start(lambda: self._checkpoints.write(facts, write, self._ranks.rank))

    def advance(self) -> None:
        """Go on after all ranks' threads are ready. Collective."""
        save = self._save
        if save is None:
            return
        if save.record is None:
            record = save.record = save.facts.record([file for part in self._ranks.collect(self._work.result) for file in part])
            if self._ranks.rank == 0:
                self._work.start(lambda: self._checkpoints.commit(record, save.num_kept))
            return
        self._save = None
        self._on_commit(save.facts.step, time.monotonic() - save.started_at)

    def finish(self) -> None:
        """Wait until what is on its way is committed. Collective.

        Raises:
            StablerepError: it cannot be written.
        """
        while self._save is not None:
            self._work.join()
            self.raise_failure()
            self.advance()

    def raise_failure(self) -> None:
        """Raise what ended a thread of any rank, on all ranks. Collective."""
        error = self._work.error
        texts: list[str] = [text for text in self._ranks.collect(f"{type(error).__name__}: {error}" if error else "") if text]
        if not texts:
            return
        self._save, self._work.error = None, None
        if isinstance(error, StablerepError):
            raise error
        raise StoreError(f"a checkpoint could not be written in the background: {'; '.join(texts)}") from error

    def leave(self) -> None:
        """Wait for this rank's thread only, before an error ends the process."""
        self._work.join(_LEAVING_SECONDS)


class _Work:
    """One piece of work in a thread."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self.result: Any = None
        self.error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        return self._thread is None or not self._thread.is_alive()

    def start(self, work: Callable[[], Any]) -> None:
        def run() -> None:
            try:
                self.result = work()
            except BaseException as error:  # raised again by the training thread
                self.error = error

        self._thread = threading.Thread(target=run, name="checkpoint", daemon=True)
        self._thread.start()

    def join(self, timeout_seconds: float | None = None) -> None:
        if self._thread is not None:
            self._thread.join(timeout_seconds)
