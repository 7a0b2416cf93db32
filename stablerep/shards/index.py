"""What is where in a shard: caption ids, texts, and offset, size and digest of every member.

The index follows from the bytes of the tar alone, so it can be remade and compared at any time. It makes m of n images a read of m
ranges, and its digests let every read be checked without reading the whole shard. In memory it takes about 100 + 20 M bytes a group.

Dimension key: M images of a caption.
"""

import hashlib
import io
import json
import tarfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, cast

from stablerep.errors import ShardError
from stablerep.identity import canonical_json, sha256_bytes
from stablerep.shards.group import FORMATS

DIGEST_BYTES = 8
_MEMBERS_BEFORE_IMAGES = 2  # .json and .txt


@dataclass(frozen=True)
class Member:
    """Where one file of a shard is: bytes [offset, offset + size_bytes), and the first bytes of its SHA-256."""

    offset: int
    size_bytes: int
    digest: bytes

    def is_content(self, content: bytes) -> bool:
        """Whether these are the bytes that were packed."""
        return len(content) == self.size_bytes and member_digest(content) == self.digest


class ShardIndex:
    """The index of one shard; positions count groups from 0."""

    def __init__(self, image_format: str = "") -> None:
        self.image_format = image_format
        self._caption_ids: list[str] = []
        self._texts: list[str] = []
        self._starts = array("Q", [0])
        self._offsets, self._sizes, self._digests = array("Q"), array("Q"), bytearray()

    def __len__(self) -> int:
        return len(self._caption_ids)

    def add(self, caption_id: str, text: str, members: "list[Member]") -> None:
        """Append a group; `members` are .json, .txt, then the images in order."""
        self._caption_ids.append(caption_id)
        self._texts.append(text)
        for member in members:
            self._offsets.append(member.offset)
            self._sizes.append(member.size_bytes)
            self._digests += member.digest
        self._starts.append(len(self._offsets))

    def caption_id(self, position: int) -> str:
        """The caption id of a group."""
        return self._caption_ids[position]

    def text(self, position: int) -> str:
        """The caption of a group."""
        return self._texts[position]

    def num_images(self, position: int) -> int:
        """M of a group."""
        return self._starts[position + 1] - self._starts[position] - _MEMBERS_BEFORE_IMAGES

    def total_images(self) -> int:
        """Images of all groups together."""
        return len(self._offsets) - _MEMBERS_BEFORE_IMAGES * len(self)

    def facts(self, position: int) -> Member:
        """The `.json` of a group."""
        return self._member(self._starts[position])

    def image(self, position: int, image_index: int) -> Member:
        """An image of a group."""
        return self._member(self._starts[position] + _MEMBERS_BEFORE_IMAGES + image_index)

    def to_json(self, shard_sha256: str) -> str:
        """Canonical JSON; names the shard it belongs to by digest."""
        groups = [
            [caption_id, self._texts[i], [self._plain(place) for place in range(self._starts[i], self._starts[i + 1])]]
            for i, caption_id in enumerate(self._caption_ids)
        ]
        return canonical_json({"shard_sha256": shard_sha256, "image_format": self.image_format, "groups": groups})

    @classmethod
    def from_json(cls, text: str | bytes) -> "ShardIndex":
        """Read an index back.

        Raises:
            ShardError: the text is not an index.
        """
        try:
            plain = cast("dict[str, Any]", json.loads(text))
            index = cls(str(plain["image_format"]))
            for caption_id, caption, members in plain["groups"]:
                index.add(caption_id, caption, [Member(offset, size, bytes.fromhex(digest)) for offset, size, digest in members])
        except (ValueError, TypeError, KeyError) as error:
            raise ShardError(f"expected a shard index, found {text[:60]!r} ({type(error).__name__}: {error})") from error
        return index

    def _member(self, place: int) -> Member:
        digest = bytes(self._digests[place * DIGEST_BYTES : (place + 1) * DIGEST_BYTES])
        return Member(self._offsets[place], self._sizes[place], digest)

    def _plain(self, place: int) -> list[int | str]:
        member = self._member(place)
        return [member.offset, member.size_bytes, member.digest.hex()]


def index_of(packed: bytes) -> ShardIndex:
    """The index of a shard, from the bytes of its tar.

    Raises:
        ShardError: the bytes are not a whole tar of groups.
    """
    try:
        files = list(_files(packed))
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise ShardError(f"expected a whole tar of image groups, found {len(packed)} bytes that are not ({error})") from error
    index = ShardIndex()
    for caption_id, members in groupby(files, key=lambda file: file[0].partition(".")[0]):
        _add_group(index, caption_id, list(members), packed)
    return index


def member_digest(content: bytes) -> bytes:
    """The first bytes of the SHA-256: enough to notice damage, small enough to keep for every image."""
    return hashlib.sha256(content).digest()[:DIGEST_BYTES]


def index_sha256(text: str) -> str:
    """SHA-256 of an index file."""
    return sha256_bytes(text.encode("utf-8"))


def _files(packed: bytes) -> Iterator[tuple[str, Member]]:
    view, end = memoryview(packed), 0
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:") as tar:
        for info in tar:
            content = view[info.offset_data : info.offset_data + info.size]
            if len(content) != info.size:
                raise ValueError(f"{info.name} is cut short")
            end = info.offset_data + -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            yield info.name, Member(info.offset_data, info.size, hashlib.sha256(content).digest()[:DIGEST_BYTES])
    if len(packed) - end < 2 * tarfile.BLOCKSIZE or any(view[end:]):  # tarfile takes a cut between files for the end
        raise ValueError("the mark at its end is missing")


def _add_group(index: ShardIndex, caption_id: str, files: list[tuple[str, Member]], packed: bytes) -> None:
    suffixes = [name.partition(".")[2] for name, _ in files]
    extension = suffixes[-1].rpartition(".")[2]
    expected = ["json", "txt", *(f"{i}.{extension}" for i in range(len(files) - _MEMBERS_BEFORE_IMAGES))]
    if len(files) <= _MEMBERS_BEFORE_IMAGES or suffixes != expected or extension not in FORMATS:
        raise ShardError(f"group {caption_id}: expected .json, .txt and numbered images in order, found {', '.join(suffixes)}")
    if index.image_format not in ("", FORMATS[extension]):
        raise ShardError(f"group {caption_id}: expected {index.image_format} images as before it, found {FORMATS[extension]}")
    text = files[1][1]
    index.image_format = FORMATS[extension]
    index.add(caption_id, packed[text.offset : text.offset + text.size_bytes].decode("utf-8"), [member for _, member in files])
