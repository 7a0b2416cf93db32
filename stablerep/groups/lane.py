"""Which shard a lane makes next: its own in order, then those that other lanes have not begun, from the tail, then those they work on.

So a dead or slow lane does not stall the data set. A claim is a lease: it says who holds a shard and until when that is to be believed.
Of several lanes that want a free shard one gets the claim, by a conditional write; it saves double work and decides nothing, because two
workers on one shard are harmless (`shards.parts`: the first to make a group makes it for both). A lane that has nothing else to do
helps the holder of a shard from the shard's tail, and does not end before its own shards are committed.
"""

import json
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from stablerep.errors import DataError, StoreError
from stablerep.store import Store

FIRST_CLAIM_SECONDS = 600.0  # the model is loaded and the first batch made in less
MIN_CLAIM_SECONDS = 60.0
PAUSES_PER_CLAIM = 5  # a claim outlives so many of the longest pauses between two batches
CHECK_EVERY_SECONDS = 2.0


class Overtaken(Exception):
    """Another worker has committed the shard in hand. Never leaves the stage."""


@dataclass(frozen=True)
class Turn:
    """A shard to work on: as its holder, from the head, or as a helper, from the tail; who `may_leave` need not finish it."""

    index: int
    is_helper: bool = False
    may_leave: bool = False


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
        self._own, self._others, self._helped = list(own), list(reversed(others)), set[int]()
        self._holds = False
        self._until = self._beat_at = self._checked_at = self._longest_pause = 0.0

    def __iter__(self) -> Generator[Turn]:
        """Claim and yield one shard after another; the caller has committed one, or left it to its holder, when it asks for the next.

        Close it when the work ends early, so that the shard in hand is free for others.
        """
        while (turn := self._next()) is not None:
            self._beat_at = self._checked_at = self._clock()
            self._holds = not turn.is_helper
            if turn.is_helper:
                self._helped.add(turn.index)
                yield turn
                continue
            try:
                yield turn
            finally:
                with suppress(StoreError):  # a claim that cannot be taken back runs out
                    self._store.delete(self._key(turn.index))

    def forget_the_dead(self) -> None:
        """Remove claims on committed shards: of lanes that were killed and whose work others finished."""
        for key in self._store.list(self._folder):
            if self._is_done(int(key.rpartition("/")[2].removesuffix(".json"))):
                self._store.delete(key)

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
        if self._holds and self._until - now < seconds / 2:
            self._claim(index, seconds)

    def _next(self) -> Turn | None:
        for shards in (self._own, self._others):
            if (index := self._take_free(shards)) is not None:
                return Turn(index)
        if self._own:
            return Turn(self._own[0], is_helper=True)
        held = (index for index in self._others if index not in self._helped)
        return next((Turn(index, is_helper=True, may_leave=True) for index in held), None)

    def _take_free(self, shards: list[int]) -> int | None:
        """Claim the first shard that is neither done nor claimed; done ones are dropped from the list."""
        for index in list(shards):
            if self._is_done(index):
                shards.remove(index)
            elif not self._is_claimed(index) and self._claim(index, FIRST_CLAIM_SECONDS, is_first=True):
                return index
        return None

    def _claim(self, index: int, seconds: float, *, is_first: bool = False) -> bool:
        """Write the claim. The first time another lane may be quicker; a claim that expired, or was ours before a restart, is replaced."""
        self._until = self._clock() + seconds
        claim = json.dumps({"lane": self._lane, "until": self._until})
        if is_first and self._store.write_new(self._key(index), claim):
            return True
        if is_first and self._is_claimed(index):
            return False
        self._store.write(self._key(index), claim)
        return True

    def _is_claimed(self, index: int) -> bool:
        """Whether another lane says that it works on the shard, believably."""
        try:
            claim: dict[str, Any] = json.loads(self._store.read_text(self._key(index)))
            return claim["lane"] != self._lane and self._clock() < claim["until"]
        except (DataError, ValueError, KeyError, TypeError):
            return False

    def _key(self, index: int) -> str:
        return f"{self._folder}/{index:05d}.json"
