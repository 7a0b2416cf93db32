"""Random access to the groups of a committed data set: m of n images are m ranges, on a local folder and on an object store.

What is trusted follows from the record that later stages get: it holds the digest of the manifest, the manifest holds the digests of
shards and indexes, an index holds the digest of every image. Every read is checked against it, so damage is noticed where it is read,
without a pass over all data. On a local store small data sets are hashed whole when they are opened, so that a run fails before it
starts. No file stays open: a `GroupDataset` can be copied to workers by fork or by pickling.

Dimension key: M images of a caption. Images stay encoded; decoding is the business of batches.
"""

import json
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, groupby, islice
from operator import itemgetter
from typing import Any

from stablerep.errors import DataError, ShardError, StoreError
from stablerep.identity import sha256_bytes
from stablerep.records import Caption, DatasetRef
from stablerep.shards import layout
from stablerep.shards.curated import CuratedManifest, kept_positions, parse_curated
from stablerep.shards.group import ImageGroup
from stablerep.shards.index import Member, ShardIndex
from stablerep.shards.manifest import WEIGHTED, Manifest
from stablerep.shards.verify import check_digests, check_sizes, damaged
from stablerep.store import Store

HASHED_AT_OPEN_BYTES = 4 << 30
_METADATA_AT_ONCE = 1000


class GroupDataset:
    """The groups of a data set, by position from 0 to `num_groups` - 1.

    Args:
        store: where the data set is.
        dataset: which data set, with the digest of its manifest.
        verify: also compare sizes, and digests of a local data set of up to 4 GiB, before anything is read. Reads are checked anyway.

    Raises:
        DataError: there is no such data set, or its manifest is not the one the record names.
        ShardError: a shard is missing, truncated or damaged; names it and the remedy.
    """

    def __init__(self, store: Store, dataset: DatasetRef, *, verify: bool = True) -> None:
        self._store = store
        self._manifest, self._manifest_sha256, curated = _read_manifests(store, dataset)
        manifest = self._manifest
        self._ends = list(accumulate(shard.num_groups for shard in manifest.shards))
        self._indexes: dict[int, ShardIndex] = {}
        self._kept = kept_positions(curated, manifest.num_groups) if curated else None
        self.excluded = curated.excluded if curated else ()
        self.num_groups = curated.num_groups if curated else manifest.num_groups
        self.images_per_caption = manifest.images_per_caption
        self.total_images = curated.num_images if curated else manifest.num_images
        self.image_format = manifest.image_format
        if verify:
            check_sizes(store, manifest)
            if store.is_local and sum(shard.size_bytes for shard in manifest.shards) <= HASHED_AT_OPEN_BYTES:
                check_digests(store, manifest)

    def caption(self, position: int) -> Caption:
        """The caption of a group; its provenance is in the prompt set, not here.

        Raises:
            DataError: there is no such position.
            ShardError: the index of the shard is missing or damaged.
        """
        index, place = self._locate(position)[1:]
        return Caption(index.caption_id(place), index.text(place))

    def num_images(self, position: int) -> int:
        """M of a group; Raises as for `caption`."""
        index, place = self._locate(position)[1:]
        return index.num_images(place)

    def images(self, position: int, indices: Sequence[int]) -> list[bytes]:
        """The encoded images of a group at the given places, in that order.

        Raises:
            DataError: there is no such position or image.
            ShardError: the bytes are not those that were packed.
        """
        shard, index, place = self._locate(position)
        num_images = index.num_images(place)
        if wrong := [image_index for image_index in indices if not 0 <= image_index < num_images]:
            raise DataError(f"group {position} of {self._manifest.dataset_id}: expected images 0 to {num_images - 1}, found {wrong}")
        return self._read(shard, index.caption_id(place), [index.image(place, image_index) for image_index in indices])

    def metadata(self, position: int) -> dict[str, Any]:
        """What the generator wrote down about a group; Raises as for `images`."""
        shard, index, place = self._locate(position)
        (content,) = self._read(shard, index.caption_id(place), [index.facts(place)])
        return json.loads(content)["metadata"]

    @property
    def is_weighted(self) -> bool:
        """Whether some images count less than others in a loss."""
        return any(number for name, number in self._manifest.counts.items() if name.startswith(WEIGHTED))

    def image_weights(self, position: int) -> list[float]:
        """What each image of a group counts in a loss, 1 where nothing is written down; Raises as for `images`."""
        return self.metadata(position).get("weights") or [1.0] * self.num_images(position)

    def all_metadata(self) -> Iterator[dict[str, Any]]:
        """The metadata of every group in order, many groups of a shard at a time; Raises as for `images`."""
        located = map(self._locate, range(self.num_groups))
        for shard, places in groupby(((shard, place) for shard, _, place in located), key=itemgetter(0)):
            index = self._index(shard)
            while chosen := [place for _, place in islice(places, _METADATA_AT_ONCE)]:
                contents = self._read(shard, index.caption_id(chosen[0]), [index.facts(place) for place in chosen])
                yield from (json.loads(content)["metadata"] for content in contents)

    def group(self, position: int) -> ImageGroup:
        """A whole group; Raises as for `images`."""
        images = self.images(position, range(self.num_images(position)))
        return ImageGroup(self.caption(position), tuple(images), self.image_format, self.metadata(position))

    @property
    def shards_of(self) -> tuple[str, str]:
        """The data set whose shards are read, and the digest of its manifest; another one's where this one is curated."""
        return self._manifest.dataset_id, self._manifest_sha256

    def shard_position(self, position: int) -> int:
        """The position of a group in the data set whose shards are read.

        Raises:
            DataError: there is no such position.
        """
        if not 0 <= position < self.num_groups:
            raise DataError(f"data set {self._manifest.dataset_id}: expected a group from 0 to {self.num_groups - 1}, found {position}")
        return position if self._kept is None else self._kept[position]

    def shard_name(self, position: int) -> str:
        """File name of the shard a group is in."""
        return self._manifest.shards[bisect_right(self._ends, self.shard_position(position))].name

    def _locate(self, position: int) -> tuple[int, ShardIndex, int]:
        """Shard, its index, and the place of the group in it."""
        there = self.shard_position(position)
        shard = bisect_right(self._ends, there)
        return shard, self._index(shard), there - (self._ends[shard] - self._manifest.shards[shard].num_groups)

    def _index(self, shard: int) -> ShardIndex:
        if (index := self._indexes.get(shard)) is None:
            index = self._indexes[shard] = self._read_index(shard)
        return index

    def _read_index(self, shard: int) -> ShardIndex:
        entry, dataset_id = self._manifest.shards[shard], self._manifest.dataset_id
        with self._naming(shard):
            content = self._store.read(layout.index_key(dataset_id, entry.index))
        if (found := sha256_bytes(content)) != entry.index_sha256:
            raise ShardError(damaged(self._store, dataset_id, entry.index, f"index sha256 {entry.index_sha256}", f"index sha256 {found}"))
        return ShardIndex.from_json(content)

    def _read(self, shard: int, caption_id: str, members: list[Member]) -> list[bytes]:
        entry, dataset_id = self._manifest.shards[shard], self._manifest.dataset_id
        ranges = [(member.offset, member.offset + member.size_bytes) for member in members]
        with self._naming(shard):
            contents = self._store.read_ranges(layout.shard_key(dataset_id, entry.index), ranges)
        for member, content in zip(members, contents, strict=True):
            if not member.is_content(content):
                expected = f"{member.size_bytes} bytes at {member.offset} of group {caption_id} as they were packed"
                found = f"{len(content)} bytes" if len(content) != member.size_bytes else "other bytes"
                raise ShardError(damaged(self._store, dataset_id, entry.index, expected, found))
        return list(contents)

    @contextmanager
    def _naming(self, shard: int) -> Generator[None]:
        """An object that is gone is a damaged shard; a store that does not answer stays a StoreError."""
        try:
            yield
        except StoreError:
            raise
        except DataError as error:
            entry, dataset_id = self._manifest.shards[shard], self._manifest.dataset_id
            raise ShardError(damaged(self._store, dataset_id, entry.index, f"{entry.size_bytes} bytes", str(error))) from error


def _read_manifests(store: Store, dataset: DatasetRef) -> tuple[Manifest, str, CuratedManifest | None]:
    """The manifest with the shards, its digest, and what is left out of them where the data set is a curated one."""
    text = _read_manifest(store, dataset.dataset_id, dataset.manifest_sha256)
    curated = parse_curated(text)
    if curated is None:
        return Manifest.from_json(text), dataset.manifest_sha256, None
    return Manifest.from_json(_read_manifest(store, curated.curated_of, curated.curated_sha256)), curated.curated_sha256, curated


def _read_manifest(store: Store, dataset_id: str, sha256: str) -> str:
    key = layout.manifest_key(dataset_id)
    content = store.read(key)
    if (found := sha256_bytes(content)) != sha256:
        raise DataError(
            f"manifest {store.uri_of(key)}: expected sha256 {sha256}, found {found}; "
            "it was changed after the data set was committed: delete it and run commit again"
        )
    return content.decode("utf-8")
