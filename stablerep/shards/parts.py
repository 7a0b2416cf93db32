"""Groups of a shard that is not finished: each an object of its own, so that a killed worker loses only what it had in hand.

groups/<dataset_id>/parts/<shard>/<position>.part is a line of JSON (digest, images by verdict) and the tar of one group, empty where the
group was dropped. A part is written only where there is none: of two workers who made the same group one is first, and both go on with
its bytes. So a shard is put together from the same bytes whoever does it. A part that is cut short, as after a power cut, does not count.
They are removed when the shard has its commit record.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from stablerep.errors import DataError, ShardError, StoreError
from stablerep.identity import canonical_json, sha256_bytes
from stablerep.records import Caption
from stablerep.shards import layout
from stablerep.shards.group import ImageGroup
from stablerep.shards.index import Member, index_of
from stablerep.shards.write import pack_shard
from stablerep.store import Store


@dataclass(frozen=True)
class Part:
    """A group as it was made, or None where it was dropped; `counts` are its images by verdict."""

    group: ImageGroup | None
    counts: dict[str, int] = field(default_factory=dict[str, int])


class Parts:
    """The parts of one shard.

    Args:
        store: where the data set is.
        dataset_id: which data set.
        index: which shard.
        captions: of the shard, in order.
        on_kept: called with every group that is written here, by whichever thread writes it.
    """

    def __init__(
        self,
        store: Store,
        dataset_id: str,
        index: int,
        captions: Sequence[Caption],
        on_kept: Callable[[ImageGroup], None] = lambda _: None,
    ) -> None:
        self._store, self._captions, self._on_kept = store, captions, on_kept
        self._folder = layout.parts_folder(dataset_id, index)

    def positions(self) -> set[int]:
        """Positions of which there is a part, whole or not."""
        return {int(name.removesuffix(".part")) for key in self._store.list(self._folder) if (name := key.rpartition("/")[2])[:1].isdigit()}

    def read(self, position: int) -> Part | None:
        """A part, or None where there is none that is whole.

        Raises:
            StoreError: the store does not answer.
        """
        try:
            return self._decoded(position, self._store.read(self._key(position)))
        except StoreError:
            raise
        except (DataError, ValueError, KeyError, TypeError):
            return None

    def keep(self, position: int, part: Part) -> tuple[Part, bool]:
        """Write a part, unless another worker was first.

        Returns:
            The part that counts, and whether it is the one that was given.

        Raises:
            ShardError: the group cannot be packed.
            StoreError: the store is full, read-only or out of reach.
        """
        packed = pack_shard([part.group]) if part.group else b""
        head = {"sha256": sha256_bytes(packed), "counts": part.counts}
        content = canonical_json(head).encode("utf-8") + b"\n" + packed
        if not self._store.write_new(self._key(position), content):
            if (first := self.read(position)) is not None:
                return first, False
            self._store.write(self._key(position), content)
        if part.group:
            self._on_kept(part.group)
        return part, True

    def delete(self) -> None:
        """Remove all parts; the shard is committed."""
        self._store.delete(self._folder)

    def _decoded(self, position: int, content: bytes) -> Part:
        line, _, packed = content.partition(b"\n")
        head: dict[str, Any] = json.loads(line)
        if sha256_bytes(packed) != head["sha256"]:
            raise ShardError(f"part {position}: expected sha256 {head['sha256']}, found other bytes")
        counts = cast("dict[str, int]", head["counts"])
        return Part(_group(packed, self._captions[position]) if packed else None, counts)

    def _key(self, position: int) -> str:
        return f"{self._folder}/{position:05d}.part"


def remove_leftover_parts(store: Store, dataset_id: str, is_done: Callable[[int], bool]) -> None:
    """Remove the parts of committed shards whose workers were killed before they could."""
    folder = layout.parts_folder(dataset_id)
    indices = {int(key.removeprefix(f"{folder}/").partition("/")[0]) for key in store.list(folder)}
    for index in sorted(indices):
        if is_done(index):
            store.delete(layout.parts_folder(dataset_id, index))


def _group(packed: bytes, caption: Caption) -> ImageGroup:
    """The only group of a tar.

    Raises:
        ShardError: it is of another caption.
    """
    index = index_of(packed)
    if index.caption_id(0) != caption.caption_id:
        raise ShardError(f"expected a part of caption {caption.caption_id}, found {index.caption_id(0)}")
    images = tuple(_bytes(packed, index.image(0, number)) for number in range(index.num_images(0)))
    metadata = json.loads(_bytes(packed, index.facts(0)))["metadata"]
    return ImageGroup(caption, images, index.image_format, metadata)


def _bytes(packed: bytes, member: Member) -> bytes:
    return packed[member.offset : member.offset + member.size_bytes]
