"""Parts of an unfinished shard: whole or not there, the first one counts for everybody, gone when the shard is committed."""

from pathlib import Path

import pytest
from made_groups import random_groups

from stablerep.shards.parts import Part, Parts, remove_leftover_parts
from stablerep.store import Store

GROUPS = random_groups(3, 5)
DATASET = "groups-0123"


def _parts(store: Store, index: int = 0) -> Parts:
    return Parts(store, DATASET, index, [group.caption for group in GROUPS])


def _file(store: Store, position: int) -> Path:
    return store.local_path(f"groups/{DATASET}/parts/00000/{position:05d}.part") or Path()


def test_what_is_kept_is_read_back(store: Store) -> None:
    parts = _parts(store)
    assert parts.positions() == set()
    for position in (4, 1):
        assert parts.keep(position, Part(GROUPS[position], {"good": 3, "black": position})) == (
            Part(GROUPS[position], {"good": 3, "black": position}),
            True,
        )
    dropped = Part(None, {"missing": 3})
    parts.keep(2, dropped)
    again = _parts(store)
    assert again.positions() == {1, 2, 4}
    assert again.read(1) == Part(GROUPS[1], {"good": 3, "black": 1})
    assert again.read(2) == dropped
    assert again.read(0) is None
    again.delete()
    assert parts.positions() == set()
    again.delete()


def test_the_first_to_make_a_group_makes_it_for_everybody(store: Store) -> None:
    first, late = Part(GROUPS[0], {"good": 3}), Part(random_groups(3, 5)[0], {"good": 2, "missing": 1})
    _parts(store).keep(0, first)
    assert _parts(store).keep(0, late) == (first, False)
    assert _parts(store).read(0) == first


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "of another caption"])
def test_a_damaged_part_does_not_count_and_is_replaced(store: Store, damage: str) -> None:
    parts, part = _parts(store), Part(GROUPS[0], {"good": 3})
    parts.keep(0, part)
    path = _file(store, 0)
    content = path.read_bytes()
    if damage == "of another caption":
        parts.keep(1, Part(GROUPS[1]))
        path.write_bytes(_file(store, 1).read_bytes())
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes({"cut": content[:-700], "empty": b"", "flipped": flipped}[damage])
    assert parts.read(0) is None
    assert parts.keep(0, part) == (part, True)
    assert parts.read(0) == part


def test_parts_of_committed_shards_are_removed_those_of_others_stay(store: Store) -> None:
    for index in (0, 3):
        _parts(store, index).keep(1, Part(GROUPS[1]))
    remove_leftover_parts(store, DATASET, lambda index: index == 3)
    assert _parts(store, 0).positions() == {1}
    assert _parts(store, 3).positions() == set()


def test_parts_on_a_real_object_store(s3_store_uri: str) -> None:
    store = Store(s3_store_uri)
    first = Part(GROUPS[0], {"good": 3})
    assert _parts(store).keep(0, first) == (first, True)
    assert _parts(store).keep(0, Part(None, {"missing": 3})) == (first, False)
    assert _parts(store).positions() == {0}
    _parts(store).delete()
    assert _parts(store).positions() == set()
