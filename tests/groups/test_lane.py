"""Which shard is next: own first, then unclaimed ones of others from the tail; claims expire; nobody waits for the dead."""

import json

import pytest

from stablerep.groups.lane import FIRST_CLAIM_SECONDS, MIN_CLAIM_SECONDS, LaneWork, Overtaken, Turn
from stablerep.store import Store

FOLDER = "groups/x/claims"


class World:
    """A clock and what is committed, shared by lanes; lane 0 owns the even shards, lane 1 the odd ones."""

    def __init__(self, store: Store, num_shards: int = 6) -> None:
        self.store, self.num_shards = store, num_shards
        self.now, self.done = 1000.0, set[int]()

    def lane(self, lane: int) -> LaneWork:
        own = list(range(lane, self.num_shards, 2))
        others = [index for index in range(self.num_shards) if index not in own]
        return LaneWork(
            self.store, FOLDER, lane=lane, own=own, others=others, is_done=lambda index: index in self.done, clock=lambda: self.now
        )

    def claims(self) -> list[int]:
        return [int(key.removesuffix(".json")[-5:]) for key in self.store.list(FOLDER)]


@pytest.fixture
def world(store: Store) -> World:
    return World(store)


def _finish(world: World, lane: int) -> list[int]:
    """The shards of which the lane becomes the holder; those it may only help with stay as they are."""
    return [turn.index for turn in _turns(world, lane) if not turn.is_helper]


def _turns(world: World, lane: int) -> list[Turn]:
    turns: list[Turn] = []
    for turn in world.lane(lane):
        turns.append(turn)
        if not turn.may_leave:
            world.done.add(turn.index)
    return turns


def test_own_in_order_then_others_from_the_tail(world: World) -> None:
    assert _finish(world, 0) == [0, 2, 4, 5, 3, 1]
    assert world.claims() == []


def test_what_is_done_is_skipped(world: World) -> None:
    world.done |= {0, 5}
    assert _finish(world, 0) == [2, 4, 3, 1]
    assert _finish(world, 0) == []


def test_a_claimed_shard_of_another_lane_is_helped_with_once_and_last(world: World) -> None:
    other = iter(world.lane(1))
    assert next(other) == Turn(1)
    assert world.claims() == [1]
    turns = _turns(world, 0)
    assert turns == [*map(Turn, (0, 2, 4, 5, 3)), Turn(1, is_helper=True, may_leave=True)]
    assert world.claims() == [1], "a helper takes no claim, and gives none back"
    world.done.add(1)
    assert list(other) == []
    assert world.claims() == []


def test_the_claim_of_a_dead_lane_expires(world: World) -> None:
    dead = iter(world.lane(1))
    next(dead)
    world.now += FIRST_CLAIM_SECONDS - 1
    assert 1 not in _finish(world, 0)
    world.now += 2
    assert _finish(world, 0) == [1]


def test_a_lane_that_starts_again_is_not_stopped_by_its_own_claim(world: World) -> None:
    killed = iter(world.lane(0))
    next(killed)
    assert world.claims() == [0]
    assert _finish(world, 0)[0] == 0


def test_own_shards_are_made_even_when_others_claim_them(world: World) -> None:
    """A lane must not end before its shards are committed; it helps with claimed ones last, and may not leave them."""
    world.done |= {1, 2, 3, 5}
    helper = iter(world.lane(1))
    assert next(helper) == Turn(4)
    assert _turns(world, 0) == [Turn(0), Turn(4, is_helper=True)]


def test_of_lanes_that_want_one_free_shard_one_gets_the_claim(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second has seen it free before the first wrote its claim."""
    world.done |= {0, 1, 2, 3, 4}
    looks = iter([False])
    late = world.lane(0)
    is_claimed = late._is_claimed
    monkeypatch.setattr(late, "_is_claimed", lambda index: next(looks, is_claimed(index)))
    first, second = iter(world.lane(1)), iter(late)
    assert next(first) == Turn(5)
    assert next(second) == Turn(5, is_helper=True, may_leave=True)
    assert json.loads(world.store.read_text(f"{FOLDER}/00005.json"))["lane"] == 1


def test_a_helper_does_not_keep_the_claim_of_a_dead_holder_alive(world: World) -> None:
    dead = iter(world.lane(1))
    assert next(dead) == Turn(1)
    world.done |= {0, 2, 3, 4, 5}
    helper = world.lane(0)
    turns = iter(helper)
    assert next(turns) == Turn(1, is_helper=True, may_leave=True)
    for _ in range(3):
        world.now += FIRST_CLAIM_SECONDS / 2
        helper.beat(1)
    assert _finish(world, 4) == [1]


def test_beats_keep_a_claim_alive_without_writing_each_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = world.lane(1)
    index = next(iter(worker)).index
    writes: list[str] = []
    write = world.store.write
    monkeypatch.setattr(world.store, "write", lambda key, data: (writes.append(key), write(key, data)))
    for _ in range(3000):
        world.now += 1.0
        worker.beat(index)
    assert index not in _finish(world, 0)
    assert len(writes) < 3000 / (MIN_CLAIM_SECONDS / 2) + 20


def test_slow_batches_make_longer_claims(world: World) -> None:
    worker = world.lane(1)
    index = next(iter(worker)).index
    for _ in range(10):
        world.now += 300
        worker.beat(index)
    world.now += 1000
    assert index not in _finish(world, 0), "five times the longest pause are 1500 s"


def test_a_beat_tells_that_another_worker_was_first(world: World) -> None:
    worker = world.lane(0)
    steps = iter(worker)
    assert next(steps) == Turn(0)
    world.now += 10
    worker.beat(0)
    world.done.add(0)
    world.now += 10
    with pytest.raises(Overtaken):
        worker.beat(0)
    assert next(steps) == Turn(2)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"lane": 1}', json.dumps({"lane": 1, "until": "soon"}), "\xff"])
def test_a_damaged_claim_is_no_claim(world: World, content: str) -> None:
    world.store.write(f"{FOLDER}/00005.json", content)
    assert 5 in _finish(world, 0)
