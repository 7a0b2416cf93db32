"""Packing: the same bytes for the same groups, a plain USTAR tar, and an index that says where every byte is."""

import io
import re
import subprocess
import sys
import tarfile
import textwrap
from dataclasses import replace
from typing import Any

import pytest

from stablerep.errors import DataError, ShardError
from stablerep.identity import sha256_bytes
from stablerep.records import Caption
from stablerep.shards.group import ImageGroup
from stablerep.shards.index import ShardIndex, index_of
from stablerep.shards.write import pack_shard

SEEDS = range(6)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_the_index_finds_every_byte_that_was_packed(make_groups: Any, seed: int, image_format: str) -> None:
    groups = make_groups(seed, 7, None, image_format)
    packed = pack_shard(groups)
    index = ShardIndex.from_json(index_of(packed).to_json(sha256_bytes(packed)))
    assert len(index) == 7
    assert index.image_format == image_format
    assert index.total_images() == sum(len(group.images) for group in groups)
    for place, group in enumerate(groups):
        assert (index.caption_id(place), index.text(place)) == (group.caption.caption_id, group.caption.text)
        assert index.num_images(place) == len(group.images)
        for image_index, image in enumerate(group.images):
            member = index.image(place, image_index)
            assert packed[member.offset : member.offset + member.size_bytes] == image
            assert member.is_content(image)
            assert not member.is_content(image[:-1])
            assert not member.is_content(bytes([image[0] ^ 1]) + image[1:])


@pytest.mark.parametrize("seed", SEEDS)
def test_equal_groups_give_equal_bytes(make_groups: Any, seed: int) -> None:
    groups = make_groups(seed, 5, None)
    packed = pack_shard(groups)
    assert pack_shard(make_groups(seed, 5, None)) == packed
    elsewhere = [replace(group, caption=replace(group.caption, metadata={"source": "another file"})) for group in groups]
    assert pack_shard(elsewhere) == packed
    reordered = [replace(group, metadata=dict(reversed(group.metadata.items()))) for group in groups]
    assert pack_shard(reordered) == packed
    for other in (groups[::-1], groups[1:], [replace(groups[0], metadata={}), *groups[1:]]):
        assert pack_shard(other) != packed


def test_the_bytes_do_not_depend_on_the_process() -> None:
    program = """
        import hashlib, os, time
        from stablerep.records import Caption
        from stablerep.shards.group import ImageGroup
        from stablerep.shards.write import pack_shard
        group = ImageGroup(Caption("0123456789abcdef", "a dog"), (b"one", b"two"), "png", {"noise_keys": [1, 2]})
        print(hashlib.sha256(pack_shard([group])).hexdigest())
    """
    outputs = [
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": seed, "TZ": zone},
        ).stdout
        for seed, zone in (("1", "UTC"), ("2", "Asia/Tokyo"))
    ]
    assert outputs == ["5e3842b0bf80efad6bf7359254a8b7674cd2ba4fc3dcd0b3877913fddbe9c540\n"] * 2


def test_the_tar_is_plain_ustar_without_traces(make_groups: Any) -> None:
    packed = pack_shard(make_groups(0, 3))
    assert packed[257:265] == b"ustar\x0000"
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        for member in tar:
            assert (member.uid, member.gid, member.uname, member.gname, member.mtime, member.mode) == (0, 0, "", "", 0, 0o644)
            assert member.isreg()
            assert member.pax_headers == {}


def _webdataset_samples(packed: bytes) -> list[dict[str, bytes]]:
    """Groups as the webdataset package makes them: consecutive files with the same name up to the first dot of the base name."""
    samples: list[dict[str, bytes]] = []
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r|*") as tar:
        for member in tar:
            matched = re.match(r"^((?:.*/|)[^.]+)[.]([^/]*)$", member.name)
            assert matched is not None
            key, suffix = matched.groups()
            if not samples or samples[-1]["__key__"] != key.encode():
                samples.append({"__key__": key.encode()})
            assert suffix not in samples[-1]
            samples[-1][suffix.lower()] = tar.extractfile(member).read()  # type: ignore[union-attr]
    return samples


def test_webdataset_readers_see_one_entry_a_group(make_groups: Any) -> None:
    groups = make_groups(2, 6, None, "jpeg")
    samples = _webdataset_samples(pack_shard(groups))
    assert len(samples) == 6
    for sample, group in zip(samples, groups, strict=True):
        assert list(sample) == ["__key__", "json", "txt", *(f"{i}.jpg" for i in range(len(group.images)))]
        assert sample["__key__"].decode() == group.caption.caption_id
        assert sample["txt"].decode() == group.caption.text
        assert tuple(sample[f"{i}.jpg"] for i in range(len(group.images))) == group.images


def test_an_empty_shard_is_a_shard() -> None:
    index = index_of(pack_shard([]))
    assert (len(index), index.total_images(), index.image_format) == (0, 0, "")


def test_groups_that_cannot_be_packed_are_refused(make_groups: Any) -> None:
    group = make_groups(0, 1)[0]
    with pytest.raises(ShardError, match=rf"expected every caption once in a shard, found {group.caption.caption_id} twice"):
        pack_shard([group, group])
    with pytest.raises(ShardError, match=r"expected one image format in a shard, found jpeg, png"):
        pack_shard([group, make_groups(1, 1, 3, "jpeg")[0]])
    for metadata in ({"score": float("nan")}, {"image": object()}):
        with pytest.raises(ShardError, match=rf"group {group.caption.caption_id}: expected metadata of plain JSON"):
            pack_shard([replace(group, metadata=metadata)])


@pytest.mark.parametrize(
    ("caption_id", "images", "image_format", "message"),
    [
        ("a/b", (b"1",), "png", "expected a caption id of letters, digits, - and _"),
        ("a.b", (b"1",), "png", "expected a caption id of letters, digits, - and _"),
        ("", (b"1",), "png", "expected a caption id of letters, digits, - and _"),
        ("ab", (b"1",), "gif", "group ab: expected image format png, jpeg, webp, found 'gif'"),
        ("ab", (), "png", r"group ab: expected one or more images with bytes, found \[\]"),
        ("ab", (b"1", b""), "png", r"group ab: expected one or more images with bytes, found \[1, 0\]"),
    ],
)
def test_what_is_no_group_is_refused(caption_id: str, images: tuple[bytes, ...], image_format: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ImageGroup(Caption(caption_id, "text"), images, image_format)


@pytest.mark.parametrize("rest", [0, 100])
def test_a_tar_cut_anywhere_has_no_index(make_groups: Any, rest: int) -> None:
    packed = pack_shard(make_groups(3, 3))
    size = len(packed.rstrip(b"\0"))
    for end in range(0, size, 512):
        with pytest.raises(ShardError, match="expected"):
            index_of(packed[: end + rest])


def test_what_is_no_tar_of_groups_has_no_index(make_groups: Any) -> None:
    with pytest.raises(ShardError, match="expected a whole tar of image groups, found 4096 bytes that are not"):
        index_of(b"\x01" * 4096)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in ("a.json", "a.0.png"):
            tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(ShardError, match=r"group a: expected .json, .txt and numbered images in order, found json, 0.png"):
        index_of(packed.getvalue())
    with pytest.raises(ShardError, match="expected a shard index"):
        ShardIndex.from_json('{"groups": 7}')
