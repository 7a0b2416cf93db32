"""Which shard a lane makes next: its own in order, then those that other lanes have not begun, from the tail.

So a dead or slow lane does not stall the data set. A claim in the store says who works on a shard and until when that is to be
believed; it saves double work and decides nothing, because two workers on one shard are harmless (equal bytes, the record written
last). A lane does not end before its own shards are committed.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from stablerep.errors import DataError
from stablerep.store import Store

FIRST_CLAIM_SECONDS = 600.0  # the model is loaded and the first batch made in less
MIN_CLAIM_SECONDS = 60.0
PAUSES_PER_CLAIM = 5  # a claim outlives so many of the longest pauses between two batches
CHECK_EVERY_SECONDS = 2.0


class Overtaken(Exception):
    """Another worker has committed the shard in hand. Never leaves the stage."""


class LaneWork:
    """The shards a lane has to make.

    Args:
        store: where the claims are kept.
        folder: key of their folder.
        lane: this lane.
        own: its shards.
        others: the shards of the other lanes.
        is_done: whether a shard is committed.
        clock: seconds since the epoch; clocks of machines may differ by less than a minute.
    """

    def __init__(
        self,
        store: Store,
        folder: str,
        *,
        lane: int,
        own: Sequence[int],
        others: Sequence[int],
        is_done: Callable[[int], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._folder, self._lane, self._is_done, self._clock = store, folder, lane, is_done, clock
        self._own, self._others = list(own), list(reversed(others))
        self._until = self._beat_at = self._checked_at = self._longest_pause = 0.0

    def __iter__(self) -> Iterator[int]:
        """Claim and yield one shard after another; the caller has committed one when it asks for the next."""
        while (index := self._next()) is not None:
            self._beat_at = self._checked_at = self._clock()
            self._claim(index, FIRST_CLAIM_SECONDS)
            try:
                yield index
            finally:
                self._store.delete(self._key(index))

    def beat(self, index: int) -> None:
        """Keep the claim on the shard in hand alive; called after every batch.

        Raises:
            Overtaken: another worker has committed the shard.
        """
        now = self._clock()
        self._longest_pause, self._beat_at = max(self._longest_pause, now - self._beat_at), now
        if now - self._checked_at >= CHECK_EVERY_SECONDS:
            self._checked_at = now
            if self._is_done(index):
                raise Overtaken
        seconds = max(MIN_CLAIM_SECONDS, PAUSES_PER_CLAIM * self._longest_pause)
        if self._until - now < seconds / 2:
            self._claim(index, seconds)

    def _next(self) -> int | None:
        free = self._first_free(self._own)
        if free is None:
            free = self._first_free(self._others)
        return self._own[0] if free is None and self._own else free

    def _first_free(self, shards: list[int]) -> int | None:
        """The first shard that is neither done nor claimed; done ones are dropped from the list."""
        for index in list(shards):
            if self._is_done(index):
                shards.remove(index)
            elif not self._is_claimed(index):
                return index
        return None

    def _claim(self, index: int, seconds: float) -> None:
        self._until = self._clock() + seconds
        self._store.write(self._key(index), json.dumps({"lane": self._lane, "until": self._until}))

    def _is_claimed(self, index: int) -> bool:
        """Whether another lane says that it works on the shard, believably."""
        try:
            claim: dict[str, Any] = json.loads(self._store.read_text(self._key(index)))
            return claim["lane"] != self._lane and self._clock() < claim["until"]
        except (DataError, ValueError, KeyError, TypeError):
            return False

    def _key(self, index: int) -> str:
        return f"{self._folder}/{index:05d}.json"
