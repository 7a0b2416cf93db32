"""A data set in the store: identity, shards that count or do not, races, interruptions, a manifest only when all is well."""

import itertools
import json
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_groups import GENERATOR, SPEC, prompt_set_of, random_groups

from stablerep.errors import DataError, ShardError
from stablerep.identity import sha256_bytes
from stablerep.records import DatasetRef, PromptSet, ShardRecord
from stablerep.shards import layout
from stablerep.shards.dataset import commit_shard, dataset_id, find_dataset, find_shard, read_spec, write_manifest, write_spec
from stablerep.shards.manifest import Manifest
from stablerep.store import Store

MakeDataset = Callable[..., DatasetRef]


def _commit(store: Store, index: int = 0, seed: int = 0, producer: str = "lane-0") -> ShardRecord:
    return commit_shard(store, "groups-x", index, random_groups(seed, 5), counts={"good": 15}, producer={"name": producer})


def _flip(store: Store, key: str, place: float = 0.5) -> None:
    content = bytearray(store.read(key))
    content[int(len(content) * place)] ^= 0x10
    store.write(key, bytes(content))


def test_the_id_is_of_what_decides_the_content(prompt_set: PromptSet) -> None:
    first = dataset_id(prompt_set, GENERATOR, SPEC)
    assert dataset_id(replace(prompt_set, num_lanes=7, uri="s3://elsewhere", counts={"read": 9}), GENERATOR, SPEC) == first
    assert dataset_id(prompt_set, replace(GENERATOR, uri="s3://elsewhere", licence="mit"), SPEC) == first
    assert dataset_id(prompt_set, GENERATOR, dict(reversed(SPEC.items()))) == first
    others = [
        dataset_id(replace(prompt_set, prompt_set_id="prompts-9"), GENERATOR, SPEC),
        dataset_id(replace(prompt_set, num_shards=5), GENERATOR, SPEC),
        dataset_id(prompt_set, replace(GENERATOR, sha256="00" * 32), SPEC),
        *(dataset_id(prompt_set, GENERATOR, {**SPEC, key: "other"}) for key in SPEC),
    ]
    assert len({first, *others}) == len(others) + 1


@pytest.mark.parametrize("key", ["lane", "num_lanes", "batch_size", "device"])
def test_how_the_work_is_done_is_no_part_of_a_spec(prompt_set: PromptSet, key: str) -> None:
    with pytest.raises(DataError, match=rf"expected a spec of what decides the images, found {key}; leave out"):
        dataset_id(prompt_set, GENERATOR, {**SPEC, key: 1})


def test_the_spec_is_kept_and_proves_the_id(store: Store, prompt_set: PromptSet) -> None:
    identity = write_spec(store, prompt_set, GENERATOR, SPEC)
    assert identity == dataset_id(prompt_set, GENERATOR, SPEC)
    spec = read_spec(store, identity)
    assert (spec["sampler"], spec["prompt_set_id"], spec["generator_sha256"]) == (SPEC, "prompts-0123", "ab" * 32)
    store.write(layout.spec_key(identity), json.dumps({**spec, "num_shards": 9}))
    with pytest.raises(DataError, match=rf"expected the spec of {identity}, found that of groups-.*; delete it and run generate again"):
        read_spec(store, identity)
    store.write(layout.spec_key(identity), "{")
    with pytest.raises(DataError, match="expected JSON, found something else"):
        read_spec(store, identity)
    with pytest.raises(DataError, match="no such object"):
        read_spec(store, "groups-unknown")


def test_a_committed_shard_is_found(store: Store) -> None:
    record = _commit(store)
    assert find_shard(store, "groups-x", 0) == find_shard(store, "groups-x", 0, verify=True) == record
    assert (record.name, record.num_groups, record.num_images, record.counts) == ("00000.tar", 5, 15, {"good": 15})
    packed = store.read("groups/groups-x/shards/00000.tar")
    assert (record.size_bytes, record.sha256) == (len(packed), sha256_bytes(packed))
    assert find_shard(store, "groups-x", 1) is None


def test_a_shard_without_record_or_with_other_bytes_is_not_done(store: Store) -> None:
    record = _commit(store)
    tar, record_key = layout.shard_key("groups-x", 0), layout.record_key("groups-x", 0)
    packed, text = store.read(tar), store.read_text(record_key)

    def found(verify: bool = False) -> bool:
        return find_shard(store, "groups-x", 0, verify=verify) is not None

    store.delete(record_key)
    assert not found()
    for broken in ("", "{", json.dumps({"index": 0}), replace(record, index=3).to_json()):
        store.write(record_key, broken)
        assert not found()
    store.write(record_key, text)
    assert found()
    store.write(tar, packed[:-1])
    assert not found()
    store.delete(tar)
    assert not found()
    store.write(tar, packed)
    _flip(store, tar)
    assert found()  # by size only
    assert not found(verify=True)
    _commit(store)
    assert found(verify=True)


def test_an_interrupted_commit_does_not_count_and_leaves_no_temporary_files(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for allowed in range(3):
        calls = itertools.count()

        def interrupted(name: str, calls: Any = calls, allowed: int = allowed) -> Any:
            whole = getattr(Store, name)

            def write(self: Store, key: str, data: bytes | str) -> Any:
                if next(calls) == allowed:
                    raise KeyboardInterrupt
                return whole(self, key, data)

            return write

        with monkeypatch.context() as patch:
            for name in ("write", "write_new"):
                patch.setattr(Store, name, interrupted(name))
            with pytest.raises(KeyboardInterrupt):
                _commit(store)
        assert find_shard(store, "groups-x", 0) is None
    record = _commit(store)
    assert find_shard(store, "groups-x", 0, verify=True) == record
    folder = store.local_path("groups/groups-x/shards")
    assert folder is not None
    assert sorted(path.name for path in folder.iterdir()) == ["00000.index.json", "00000.json", "00000.tar"]


def _commit_often(uri: str, lane: int) -> None:
    for _ in range(15):
        _commit(Store(uri), producer=f"lane-{lane}")


@pytest.mark.dist
def test_two_workers_on_one_shard_are_harmless(store: Store) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_commit_often, args=(store.uri, lane)) for lane in range(2)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        record = find_shard(store, "groups-x", 0, verify=True)
        assert record is None or record.num_groups == 5
    assert [worker.exitcode for worker in workers] == [0, 0]
    found = find_shard(store, "groups-x", 0, verify=True)
    assert found is not None
    assert found.producer["name"] in ("lane-0", "lane-1")


def test_the_manifest_says_what_there_is(store: Store, make_dataset: MakeDataset) -> None:
    dataset = make_dataset(store)
    assert (dataset.num_shards, dataset.num_groups, dataset.num_images, dataset.images_per_caption) == (4, 20, 60, 3)
    assert dataset.uri == store.uri_of(f"groups/{dataset.dataset_id}")
    content = store.read(layout.manifest_key(dataset.dataset_id))
    assert dataset.manifest_sha256 == sha256_bytes(content)
    manifest = Manifest.from_json(content.decode())
    assert [shard.name for shard in manifest.shards] == ["00000.tar", "00001.tar", "00002.tar", "00003.tar"]
    assert manifest.counts == {"good": 60, "black": 0 + 1 + 2 + 3}
    assert dataset.quality == {"purity": 1.0, "good_ratio": round(60 / 66, 6), "missing_ratio": 0.0}
    assert b"lane" not in content
    assert find_dataset(store, dataset.dataset_id) == dataset
    assert find_dataset(store, "groups-unknown") is None


def test_missing_images_are_told_from_bad_ones(store: Store) -> None:
    commit_shard(store, "groups-x", 0, random_groups(0, 5), counts={"good": 15, "black": 5, "missing": 5}, producer={})
    manifest = write_manifest(store, "groups-x", prompt_set_of(1, 5), GENERATOR, 4, {})
    assert manifest.quality == {"good_ratio": 0.75, "missing_ratio": 0.25}


def test_lanes_and_their_order_leave_no_trace(tmp_path: Path, make_dataset: MakeDataset) -> None:
    made = [
        make_dataset(Store(str(tmp_path / str(number))), order, producer)
        for number, (order, producer) in enumerate([((0, 1, 2, 3), "a"), ((3, 1, 0, 2), "b"), ((2, 2, 0, 1, 3, 1), "c")])
    ]
    assert len({(dataset.dataset_id, dataset.manifest_sha256) for dataset in made}) == 1
    assert len({dataset.uri for dataset in made}) == 3


def test_one_changed_byte_changes_the_manifest(tmp_path: Path, prompt_set: PromptSet) -> None:
    digests = set[str]()
    for number in range(2):
        store = Store(str(tmp_path / str(number)))
        groups = random_groups(0, 2)
        changed = replace(
            groups[1], images=(*groups[1].images[:-1], groups[1].images[-1][:-1] + bytes([groups[1].images[-1][-1] ^ number]))
        )
        commit_shard(store, "groups-x", 0, [groups[0], changed], counts={}, producer={})
        digests.add(write_manifest(store, "groups-x", prompt_set_of(1, 2), GENERATOR, 3, {}).manifest_sha256)
    assert len(digests) == 2


def test_missing_shards_are_named(store: Store, prompt_set: PromptSet) -> None:
    for index in (0, 2):
        _commit(store, index, index)
    expected = (
        r"data set groups-x: expected 4 shards, found 2; missing: 00001.tar, 00003.tar; run generate again for every lane, then commit"
    )
    with pytest.raises(ShardError, match=expected):
        write_manifest(store, "groups-x", prompt_set, GENERATOR, 3, {})
    assert not store.exists(layout.manifest_key("groups-x"))


def _cut(store: Store) -> None:
    store.write(layout.shard_key("groups-x", 1), store.read(layout.shard_key("groups-x", 1))[:-512])


def _swap(store: Store) -> None:
    record = ShardRecord.from_json(store.read_text(layout.record_key("groups-x", 1)))
    store.write(layout.record_key("groups-x", 1), replace(record, num_groups=4).to_json())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda store: _flip(store, layout.shard_key("groups-x", 1)), r"expected sha256 [0-9a-f]{64}, found sha256 [0-9a-f]{64}"),
        (_cut, r"expected \d+ bytes, found \d+ bytes \(cut short\)"),
        (lambda store: store.delete(layout.shard_key("groups-x", 1)), r"expected \d+ bytes, found no such object"),
        (
            lambda store: store.write(layout.record_key("groups-x", 1), "{"),
            r"expected a commit record 00001.json, found none that can be read",
        ),
        (_swap, r"expected shard 1 with 4 groups and 15 images, found shard 1 with 5 groups and 15 images"),
    ],
)
def test_damage_is_refused_with_a_remedy_that_works(store: Store, damage: Callable[[Store], None], message: str) -> None:
    for index in range(2):
        _commit(store, index, index)
    damage(store)
    remedy = rf"shard file://.*/shards/00001.tar: {message}.*; delete file://.*/shards/00001.json and run generate again"
    with pytest.raises(ShardError, match=remedy):
        write_manifest(store, "groups-x", prompt_set_of(2, 10), GENERATOR, 3, {})
    assert not store.exists(layout.manifest_key("groups-x"))
    store.delete(layout.record_key("groups-x", 1))
    assert find_shard(store, "groups-x", 0) is not None
    assert find_shard(store, "groups-x", 1) is None
    _commit(store, 1, 1)
    assert write_manifest(store, "groups-x", prompt_set_of(2, 10), GENERATOR, 3, {}).num_groups == 10


def test_every_damaged_shard_is_named(store: Store) -> None:
    for index in range(3):
        _commit(store, index, index)
    for index in (0, 2):
        _flip(store, layout.shard_key("groups-x", index))
    with pytest.raises(ShardError, match=r"(?s)00000.tar: expected sha256.*00002.tar: expected sha256"):
        write_manifest(store, "groups-x", prompt_set_of(3, 15), GENERATOR, 3, {})


@pytest.mark.parametrize("content", [b"", b"{", None])
def test_a_lost_or_damaged_index_is_remade_from_the_tar(store: Store, content: bytes | None) -> None:
    _commit(store)
    key = layout.index_key("groups-x", 0)
    whole = store.read(key)
    store.delete(key) if content is None else store.write(key, content)
    write_manifest(store, "groups-x", prompt_set_of(1, 5), GENERATOR, 3, {})
    assert store.read(key) == whole


def test_progress_is_told_shard_by_shard(store: Store) -> None:
    for index in range(3):
        _commit(store, index, index)
    told: list[int] = []
    write_manifest(store, "groups-x", prompt_set_of(3, 15), GENERATOR, 3, {}, on_shard=lambda record: told.append(record.index))
    assert told == [0, 1, 2]


def test_a_data_set_has_groups_of_one_format(store: Store) -> None:
    commit_shard(store, "groups-x", 0, [], counts={}, producer={})
    with pytest.raises(DataError, match="expected groups of one image format, found no groups at all"):
        write_manifest(store, "groups-x", prompt_set_of(1, 1), GENERATOR, 3, {})
    commit_shard(store, "groups-x", 1, random_groups(1, 2, image_format="png"), counts={}, producer={})
    assert write_manifest(store, "groups-x", prompt_set_of(2, 2), GENERATOR, 3, {}).num_groups == 2
    commit_shard(store, "groups-x", 2, random_groups(2, 2, image_format="jpeg"), counts={}, producer={})
    with pytest.raises(DataError, match="expected groups of one image format, found formats jpeg, png"):
        write_manifest(store, "groups-x", prompt_set_of(3, 4), GENERATOR, 3, {})
