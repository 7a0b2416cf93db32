"""Random access: the right bytes, only those bytes, and damage noticed at open or where it is read."""

import multiprocessing
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_groups import random_groups

from stablerep.errors import DataError, ShardError
from stablerep.records import DatasetRef
from stablerep.shards import GroupDataset, layout
from stablerep.shards import read as module
from stablerep.shards.index import index_of
from stablerep.store import Store

MakeDataset = Callable[..., DatasetRef]


@pytest.fixture(params=["local", "s3"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store") if request.param == "local" else request.getfixturevalue("s3_store_uri"))


def test_every_group_is_read_back(any_store: Store, make_dataset: MakeDataset) -> None:
    groups = GroupDataset(any_store, make_dataset(any_store, num_images=None))
    expected = [group for index in range(4) for group in random_groups(index, 5, None)]
    assert (groups.num_groups, groups.images_per_caption, groups.image_format) == (20, 3, "png")
    for position, group in enumerate(expected):
        caption = groups.caption(position)
        assert (caption.caption_id, caption.text) == (group.caption.caption_id, group.caption.text)
        assert groups.num_images(position) == len(group.images)
        assert groups.metadata(position) == group.metadata
        assert groups.shard_name(position) == f"0000{position // 5}.tar"
        assert groups.group(position).images == group.images
        backwards = range(len(group.images) - 1, -1, -2)
        assert groups.images(position, backwards) == [group.images[i] for i in backwards]


def test_m_of_n_images_are_read_and_not_n(any_store: Store, make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = GroupDataset(any_store, make_dataset(any_store))
    expected = random_groups(1, 5)[2].images
    groups.caption(7)
    read: list[int] = []
    whole = Store.read_ranges

    def counted(self: Store, key: str, ranges: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        contents = whole(self, key, ranges)
        read.extend(map(len, contents))
        return contents

    monkeypatch.setattr(Store, "read_ranges", counted)
    monkeypatch.setattr(Store, "read", None)  # no whole object may be read any more
    assert groups.images(7, [2, 0]) == [expected[2], expected[0]]
    assert read == [len(expected[2]), len(expected[0])]
    groups.caption(7)
    assert len(read) == 2


def test_what_is_not_there_is_refused(store: Store, make_dataset: MakeDataset) -> None:
    dataset = make_dataset(store)
    groups = GroupDataset(store, dataset)
    for position in (-1, 20):
        with pytest.raises(DataError, match=rf"data set {dataset.dataset_id}: expected a group from 0 to 19, found {position}"):
            groups.caption(position)
    with pytest.raises(DataError, match=rf"group 3 of {dataset.dataset_id}: expected images 0 to 2, found \[3, -1\]"):
        groups.images(3, [0, 3, -1])
    with pytest.raises(DataError, match=r"groups/groups-gone/manifest.json: there is no such object"):
        GroupDataset(store, replace(dataset, dataset_id="groups-gone"))


def _damage(store: Store, key: str, how: str) -> None:
    content = bytearray(store.read(key))
    if how == "flipped":
        content[len(content) // 3] ^= 1
    if how == "gone":
        store.delete(key)
    else:
        store.write(key, bytes(content[:-700]) if how == "cut" else bytes(content))


DAMAGES = {
    "flipped": r"expected sha256 [0-9a-f]{64}, found sha256 [0-9a-f]{64}",
    "cut": r"expected 00002.tar of \d+ bytes, found \d+ bytes \(cut short\)",
    "gone": r"expected 00002.tar of \d+ bytes, found no such object",
}


@pytest.mark.parametrize("how", DAMAGES)
def test_damage_is_noticed_at_open(store: Store, make_dataset: MakeDataset, how: str) -> None:
    dataset = make_dataset(store)
    GroupDataset(store, dataset)
    _damage(store, layout.shard_key(dataset.dataset_id, 2), how)
    remedy = r"delete file://.*/shards/00002.json and file://.*/manifest.json, then run generate and commit again"
    message = rf"^shard file://.*/shards/00002.tar: {DAMAGES[how]}; {remedy}"
    with pytest.raises(ShardError, match=message):
        GroupDataset(store, dataset)


def _reads(groups: GroupDataset, position: int, image_index: int, expected: bytes) -> str:
    """What a reader of one image meets: nothing, or the error."""
    try:
        content = groups.images(position, [image_index])
    except ShardError as error:
        return str(error)
    return "" if content == [expected] else "WRONG BYTES"


@pytest.mark.parametrize("how", DAMAGES)
def test_damage_is_noticed_where_it_is_read(any_store: Store, make_dataset: MakeDataset, how: str) -> None:
    dataset = make_dataset(any_store)
    groups = GroupDataset(any_store, dataset, verify=False)
    packed = {position: group.images for position, group in enumerate(random_groups(2, 5), 10)}
    key = layout.shard_key(dataset.dataset_id, 2)
    content = any_store.read(key)
    member = index_of(content).image(3, 1)
    middle = member.offset + member.size_bytes // 2
    if how == "gone":
        any_store.delete(key)
    else:
        rest = bytes([content[middle] ^ 1]) + content[middle + 1 :] if how == "flipped" else b""
        any_store.write(key, content[:middle] + rest)
    met = {(position, i): _reads(groups, position, i, image) for position, images in packed.items() for i, image in enumerate(images)}
    hurt = {place for place in met if how == "gone" or place == (13, 1) or (how == "cut" and place > (13, 1))}
    assert {place for place, error in met.items() if error} == hurt
    assert all("00002.tar: expected" in met[place] and "/manifest.json, then run generate and commit again" in met[place] for place in hurt)
    assert groups.images(9, [0]) == [random_groups(1, 5)[4].images[0]]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_index_is_noticed(any_store: Store, make_dataset: MakeDataset, how: str) -> None:
    dataset = make_dataset(any_store)
    _damage(any_store, layout.index_key(dataset.dataset_id, 1), how)
    groups = GroupDataset(any_store, dataset, verify=False)
    assert groups.caption(0).text == random_groups(0, 5)[0].caption.text
    with pytest.raises(ShardError, match=r"00001.tar: expected .*; delete .*/00001.json and .*/manifest.json, then run generate"):
        groups.caption(5)
    if how != "flipped":
        with pytest.raises(ShardError, match=r"00001.tar: expected 00001.index.json of \d+ bytes, found"):
            GroupDataset(any_store, dataset)


def test_another_manifest_is_refused(store: Store, make_dataset: MakeDataset) -> None:
    dataset = make_dataset(store)
    key = layout.manifest_key(dataset.dataset_id)
    store.write(key, store.read_text(key) + " ")
    with pytest.raises(DataError, match=r"manifest .*: expected sha256 .*, found .*: delete it and run commit again"):
        GroupDataset(store, dataset)


def test_a_file_is_hashed_once_a_process_until_it_changes(store: Store, make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make_dataset(store)
    hashed: list[str] = []
    whole = Store.sha256
    monkeypatch.setattr(Store, "sha256", lambda self, key: hashed.append(key) or whole(self, key))
    GroupDataset(store, dataset)
    assert len(hashed) == 4
    GroupDataset(store, dataset)
    assert len(hashed) == 4
    key = layout.shard_key(dataset.dataset_id, 1)
    store.write(key, store.read(key))
    GroupDataset(store, dataset)
    assert hashed[4:] == [key]


def test_a_large_data_set_is_not_hashed_at_open(store: Store, make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make_dataset(store)
    _damage(store, layout.shard_key(dataset.dataset_id, 2), "flipped")
    monkeypatch.setattr(module, "HASHED_AT_OPEN_BYTES", 1000)
    GroupDataset(store, dataset)
    monkeypatch.undo()
    with pytest.raises(ShardError, match=r"00002\.tar"):
        GroupDataset(store, dataset)


def _read_in_child(groups: GroupDataset, queue: Any) -> None:
    queue.put([groups.images(position, [0, 2]) for position in range(groups.num_groups)])


@pytest.mark.dist
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_may_share_a_data_set(any_store: Store, make_dataset: MakeDataset, method: str) -> None:
    groups = GroupDataset(any_store, make_dataset(any_store))
    expected = [groups.images(position, [0, 2]) for position in range(groups.num_groups)]
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    workers = [context.Process(target=_read_in_child, args=(groups, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert [queue.get(timeout=60) for _ in workers] == [expected] * 2
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_a_data_set_travels(store: Store, make_dataset: MakeDataset) -> None:
    groups = GroupDataset(store, make_dataset(store))
    copied = pickle.loads(pickle.dumps(groups))
    assert copied.images(3, [1]) == groups.images(3, [1])
