"""Which images of a shard are asked for next: those that failed first, then groups that nobody has made yet.

A worker that holds the shard takes groups from the head, one that helps takes them from the tail, and both leave out what the journal
holds; so they meet once. A helper that finds only a few groups left goes, because the holder has them in hand.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from stablerep.groups.sampler import ImageRequest
from stablerep.shards.parts import Part

REFRESH_SECONDS = 1.0
LEFT_BATCHES = 2  # so many batches are left to the holder

Wanted = tuple[int, int, ImageRequest]  # position of the group in the shard, slot in the group, what to make


class Journal(Protocol):
    """Groups of a shard that are made already, by whomever: `shards.parts.Parts`, or nothing at all."""

    def positions(self) -> set[int]:
        """Positions of the groups that are made."""
        ...

    def read(self, position: int) -> Part | None:
        """A group that is made, or None where it must be made."""
        ...

    def keep(self, position: int, part: Part) -> tuple[Part, bool]:
        """Keep a group that was made; returns the one that counts, and whether it is this one."""
        ...


class NoJournal:
    """Nothing is made already, nothing is kept."""

    def positions(self) -> set[int]:
        """None."""
        return set()

    def read(self, position: int) -> Part | None:
        """None."""

    def keep(self, position: int, part: Part) -> tuple[Part, bool]:
        """The part itself."""
        return part, True


class OpenGroups:
    """The groups of a shard that are still to be made.

    Args:
        num_groups: of the shard.
        requests: the images to ask for next of the group at a position.
        journal: what is made.
        is_helper: take groups from the tail.
        num_left: open groups at which a helper goes.
        clock: seconds.
    """

    def __init__(
        self,
        num_groups: int,
        requests: Callable[[int], Sequence[Wanted]],
        journal: Journal,
        *,
        is_helper: bool = False,
        num_left: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests, self._journal, self._clock = requests, journal, clock
        self._open, self._from_tail, self._num_left = deque(range(num_groups)), is_helper, num_left if is_helper else 0
        self._ready = deque[Wanted]()
        self._refreshed_at = -REFRESH_SECONDS
        self._damaged = set[int]()
        self.found = set[int]()

    def fill(self, size: int) -> bool:
        """Ask for images until there are `size`; whether there are."""
        self._refresh(size)
        while len(self._ready) < size and len(self._open) > self._num_left:
            self._ready.extend(self._requests(self._open.pop() if self._from_tail else self._open.popleft()))
        return len(self._ready) >= size

    def batch(self, size: int) -> list[Wanted]:
        """At most `size` images to make now; none when there is nothing to do."""
        self.fill(size)
        return [self._ready.popleft() for _ in range(min(size, len(self._ready)))]

    def again(self, wanted: Sequence[Wanted]) -> None:
        """Ask for these before anything new."""
        self._ready.extendleft(reversed(wanted))

    def reopen(self, positions: Sequence[int]) -> None:
        """What was found at these is not whole: make them."""
        self._damaged.update(positions)
        self._open.extend(positions)

    def turn(self) -> None:
        """Go on from the other end: somebody else works from this one."""
        self._from_tail = not self._from_tail

    @property
    def is_left(self) -> bool:
        """Whether groups are left to the holder of the shard."""
        return bool(self._open)

    def _refresh(self, size: int) -> None:
        """Leave out what is made by now; asked at most once a second, but before each of the last groups."""
        now = self._clock()
        if not self._open or (len(self._open) > LEFT_BATCHES * size and now - self._refreshed_at < REFRESH_SECONDS):
            return
        self._refreshed_at = now
        made = self._journal.positions() - self._damaged
        self.found.update(position for position in self._open if position in made)
        self._open = deque(position for position in self._open if position not in made)
