"""The prompt set: identity by the texts in order, the same bytes again, damage noticed, work cut evenly."""

import itertools
from dataclasses import replace
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from stablerep.captions import prompt_set as module
from stablerep.captions.clean import clean_captions
from stablerep.captions.prompt_set import lane_shards, read_prompt_set, shard_captions, write_prompt_set
from stablerep.errors import ConfigError, DataError
from stablerep.records import Caption, PromptSet
from stablerep.store import Store


def _captions(count: int, source: str = "a.txt") -> list[Caption]:
    rows = [(f"caption {i} ü", {"source": source, "line": i}) for i in range(count)]
    return clean_captions(rows, max_words=60, num_captions=0, seed=0)[0]


def _write(store: Store, captions: list[Caption], per_shard: int = 4, num_lanes: int = 2) -> PromptSet:
    return write_prompt_set(store, captions, {"read": len(captions)}, captions_per_shard=per_shard, num_lanes=num_lanes)


def test_what_was_written_is_read_back(store: Store) -> None:
    captions = _captions(10)
    written = _write(store, captions)
    assert (written.num_captions, written.num_shards, written.num_lanes, written.counts) == (10, 3, 2, {"read": 10})
    assert written.uri == store.uri_of(f"captions/{written.prompt_set_id}")
    assert read_prompt_set(store, PromptSet.from_json(written.to_json())) == captions


def test_the_id_is_of_the_texts_in_order_and_of_nothing_else(store: Store, tmp_path: Path) -> None:
    captions = _captions(10)
    first = _write(store, captions)
    same = _write(Store(str(tmp_path / "other")), _captions(10, source="b.csv"), per_shard=7, num_lanes=5)
    assert (same.prompt_set_id, same.sha256) == (first.prompt_set_id, first.sha256)
    for other in (captions[::-1], captions[:9], [replace(captions[0], text="x"), *captions[1:]]):
        assert _write(store, other).prompt_set_id != first.prompt_set_id
    joined = [Caption("0" * 16, "ab"), Caption("1" * 16, "c")]
    apart = [Caption("0" * 16, "a"), Caption("1" * 16, "bc")]
    assert _write(store, joined).prompt_set_id != _write(store, apart).prompt_set_id


def test_equal_captions_give_equal_files(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CAPTIONS_PER_PART", 4)
    other = Store(str(tmp_path / "other"))
    for each in (store, other):
        _write(each, _captions(10))
    assert len(store.list()) == 4
    assert {key: store.read(key) for key in store.list()} == {key: other.read(key) for key in other.list()}
    assert [caption.text for caption in read_prompt_set(store, _write(store, _captions(10)))] == [f"caption {i} ü" for i in range(10)]


def test_the_parts_are_plain_parquet(store: Store) -> None:
    _write(store, _captions(3))
    key = next(key for key in store.list() if key.endswith(".parquet"))
    path = store.local_path(key)
    assert path is not None
    table = parquet.read_table(path)
    assert table.column_names == ["caption_id", "text", "metadata"]
    assert table.column("metadata").to_pylist()[2] == '{"line":2,"source":"a.txt"}'
    assert parquet.ParquetFile(path).metadata.metadata is None
    assert parquet.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"
    assert pyarrow.types.is_string(table.schema.field("text").type)


def test_a_second_writer_finds_the_work_done(store: Store) -> None:
    written = _write(store, _captions(10))
    before = {key: store.local_path(key).stat().st_mtime_ns for key in store.list()}  # type: ignore[union-attr]
    assert _write(store, _captions(10)) == written
    _write(store, _captions(10, source="elsewhere.txt"))
    assert {key: store.local_path(key).stat().st_mtime_ns for key in store.list()} == before  # type: ignore[union-attr]
    assert read_prompt_set(store, written)[0].metadata["source"] == "a.txt"


def test_what_a_killed_writer_left_is_completed(store: Store) -> None:
    written = _write(store, _captions(10))
    manifest, part = sorted(store.list())
    for lost in (manifest, part):
        content = store.read(lost)
        store.delete(lost)
        with pytest.raises(DataError, match=r"cannot be read: .*no such object.*; delete file://.* and run prepare again"):
            read_prompt_set(store, written)
        assert _write(store, _captions(10)) == written
        assert store.read(lost) == content


def test_damage_is_noticed_and_the_remedy_works(store: Store) -> None:
    written = _write(store, _captions(10))
    key = next(key for key in store.list() if key.endswith(".parquet"))
    content = bytearray(store.read(key))
    content[len(content) // 2] ^= 1
    store.write(key, bytes(content))
    with pytest.raises(DataError, match=r"expected \d+ bytes with sha256 .* found .*; delete .* and run prepare again"):
        read_prompt_set(store, written)
    store.delete(f"captions/{written.prompt_set_id}")
    assert read_prompt_set(store, _write(store, _captions(10))) == _captions(10)
    with pytest.raises(DataError, match=r"expected texts with sha256 0000, found"):
        read_prompt_set(store, replace(written, sha256="0000"))


def test_no_captions_are_no_prompt_set(store: Store) -> None:
    with pytest.raises(DataError, match="expected at least one caption for a prompt set, found none"):
        _write(store, [])


@pytest.mark.parametrize(("count", "per_shard"), [(1, 1), (1, 50), (10, 4), (100, 7), (64, 64), (65, 64)])
def test_shards_are_equal_to_within_one_and_hold_every_caption_once(store: Store, count: int, per_shard: int) -> None:
    captions = _captions(count)
    num_shards = _write(store, captions, per_shard).num_shards
    shards = [shard_captions(captions, num_shards, index) for index in range(num_shards)]
    assert list(itertools.chain.from_iterable(shards)) == captions
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1
    assert max(sizes) <= per_shard


@pytest.mark.parametrize(("num_shards", "num_lanes"), [(1, 1), (3, 5), (16, 2), (17, 4)])
def test_lanes_share_the_shards(num_shards: int, num_lanes: int) -> None:
    lanes = [lane_shards(num_shards, num_lanes, lane) for lane in range(num_lanes)]
    assert sorted(itertools.chain.from_iterable(lanes)) == list(range(num_shards))
    assert max(map(len, lanes)) - min(map(len, lanes)) <= 1


def test_work_that_does_not_exist_is_refused() -> None:
    with pytest.raises(DataError, match="expected a shard from 0 to 2, found 3"):
        shard_captions(_captions(5), 3, 3)
    with pytest.raises(ConfigError, match="expected a lane from 0 to 1, found -1"):
        lane_shards(4, 2, -1)
