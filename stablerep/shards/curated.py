"""A data set that is another one without some groups: a manifest that names the shards of the other and what is left out.

No shard is copied, read or changed. The id is a hash of the other's manifest and of the groups left out, so two queries that leave the
same groups out give the same data set, on any machine. A curated data set of a curated one names the shards' own data set directly.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stablerep.errors import DataError
from stablerep.identity import content_id
from stablerep.records import DatasetRef, Record
from stablerep.shards import layout
from stablerep.shards.manifest import dataset_ref
from stablerep.store import Store

if TYPE_CHECKING:
    from stablerep.shards.read import GroupDataset

_MARK = '"curated_of"'


@dataclass(frozen=True)
class CuratedManifest(Record):
    """What a curated data set is; `excluded` are positions in the data set `curated_of`, rising."""

    dataset_id: str
    curated_of: str
    curated_sha256: str  # of the manifest of curated_of
    prompt_set_id: str
    generator_id: str
    num_shards: int
    num_groups: int
    num_images: int
    images_per_caption: int
    excluded: tuple[int, ...]

    def reference(self, store: Store) -> DatasetRef:
        """The record that later stages get."""
        return dataset_ref(self, {}, store)


def parse_curated(text: str) -> CuratedManifest | None:
    """The manifest in a text, or None where it is that of a data set with shards of its own.

    Raises:
        DataError: it is neither.
    """
    return CuratedManifest.from_json(text) if _MARK in text and "curated_of" in json.loads(text) else None


def kept_positions(manifest: CuratedManifest, num_groups: int) -> list[int]:
    """Positions in the data set the shards belong to of the groups that stay, in order.

    Raises:
        DataError: what is left out does not fit that data set.
    """
    excluded = set(manifest.excluded)
    kept = [position for position in range(num_groups) if position not in excluded]
    if len(kept) != manifest.num_groups or len(excluded) != len(manifest.excluded):
        raise DataError(
            f"curated data set {manifest.dataset_id}: expected {manifest.num_groups} of {num_groups} groups to stay, found {len(kept)}; "
            "curate again"
        )
    return kept


def write_curated(store: Store, dataset: DatasetRef, groups: "GroupDataset", excluded: Sequence[int]) -> DatasetRef:
    """Write the manifest of a data set without some of its groups.

    Args:
        store: where the data set is.
        dataset: which.
        groups: the same, opened.
        excluded: positions in it.

    Raises:
        DataError: no group would be left out, or none would stay.
    """
    left_out = sorted(set(excluded))
    if not left_out or len(left_out) >= groups.num_groups:
        raise DataError(
            f"curating {dataset.dataset_id}: expected some of its {groups.num_groups} groups to be left out and some to stay, found "
            f"{len(left_out)} to leave out; change the query"
        )
    num_images = groups.total_images - sum(groups.num_images(position) for position in left_out)
    shards_id, shards_sha256 = groups.shards_of
    of_shards = sorted({*groups.excluded, *(groups.shard_position(position) for position in left_out)})
    decisive = {"curated_of": shards_id, "curated_sha256": shards_sha256, "excluded": of_shards}
    manifest = CuratedManifest(
        dataset_id=content_id("groups", decisive),
        curated_of=shards_id,
        curated_sha256=shards_sha256,
        prompt_set_id=dataset.prompt_set_id,
        generator_id=dataset.generator_id,
        num_shards=dataset.num_shards,
        num_groups=groups.num_groups - len(left_out),
        num_images=num_images,
        images_per_caption=dataset.images_per_caption,
        excluded=tuple(of_shards),
    )
    store.write(layout.manifest_key(manifest.dataset_id), manifest.to_json())
    return manifest.reference(store)
