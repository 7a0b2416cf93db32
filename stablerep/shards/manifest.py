"""The manifest of a data set: its shards in order, totals, and one digest over all content.

Its bytes depend on the content only: who made a shard, and when, stays in the commit records.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stablerep.errors import DataError
from stablerep.identity import digest, sha256_bytes
from stablerep.records import DatasetRef, GeneratorRef, PromptSet, Record, ShardRecord
from stablerep.shards import layout
from stablerep.store import Store

if TYPE_CHECKING:
    from stablerep.shards.curated import CuratedManifest

KEPT, WEIGHTED = "kept_", "weighted_"  # before why an image that is stored was found wanting: as it is, or with a lower weight
_NOT_MADE = ("missing", "dropped_groups")


@dataclass(frozen=True)
class ManifestShard(Record):
    """One shard as the manifest knows it."""

    index: int
    name: str
    sha256: str
    size_bytes: int
    num_groups: int
    num_images: int
    index_sha256: str
    index_size_bytes: int


@dataclass(frozen=True)
class CheckedShard:
    """A shard that was read whole and found to match its record."""

    record: ShardRecord
    image_format: str
    index_sha256: str
    index_size_bytes: int


@dataclass(frozen=True)
class Manifest(Record):
    """What a data set holds; `digest` covers the shards' digests in order."""

    dataset_id: str
    prompt_set_id: str
    generator_id: str
    images_per_caption: int
    image_format: str
    num_shards: int
    num_groups: int
    num_images: int
    digest: str
    counts: dict[str, int]
    quality: dict[str, float]
    shards: tuple[ManifestShard, ...]

    def reference(self, store: Store) -> DatasetRef:
        """The record that later stages get."""
        return dataset_ref(self, self.quality, store)


def dataset_ref(manifest: "Manifest | CuratedManifest", quality: dict[str, float], store: Store) -> DatasetRef:
    """The record of a data set, with the digest of its manifest."""
    return DatasetRef(
        dataset_id=manifest.dataset_id,
        uri=store.uri_of(layout.folder(manifest.dataset_id)),
        manifest_sha256=sha256_bytes(manifest.to_json().encode("utf-8")),
        prompt_set_id=manifest.prompt_set_id,
        generator_id=manifest.generator_id,
        num_shards=manifest.num_shards,
        num_groups=manifest.num_groups,
        num_images=manifest.num_images,
        images_per_caption=manifest.images_per_caption,
        quality=quality,
    )


def manifest_of(
    dataset_id: str,
    prompt_set: PromptSet,
    generator: GeneratorRef,
    images_per_caption: int,
    quality: dict[str, float],
    checked: Sequence[CheckedShard],
) -> Manifest:
    """The manifest of checked shards, given in order.

    Raises:
        DataError: there are no groups at all, or shards hold different image formats.
    """
    formats = sorted({shard.image_format for shard in checked if shard.image_format})
    if len(formats) != 1:
        found = f"formats {', '.join(formats)}" if formats else "no groups at all"
        raise DataError(f"data set {dataset_id}: expected groups of one image format, found {found}; check generate's counts")
    records = [shard.record for shard in checked]
    counts = sum((Counter(record.counts) for record in records), Counter[str]())
    return Manifest(
        dataset_id=dataset_id,
        prompt_set_id=prompt_set.prompt_set_id,
        generator_id=generator.generator_id,
        images_per_caption=images_per_caption,
        image_format=formats[0],
        num_shards=len(records),
        num_groups=sum(record.num_groups for record in records),
        num_images=sum(record.num_images for record in records),
        digest=digest([[record.name, record.sha256] for record in records]),
        counts=dict(counts),
        quality=_ratios(counts) | {name: float(value) for name, value in quality.items()},
        shards=tuple(_manifest_shard(shard) for shard in checked),
    )


def num_made(counts: Mapping[str, int]) -> int:
    """How many images counts by verdict stand for."""
    return sum(number for verdict, number in counts.items() if verdict not in _NOT_MADE and not verdict.startswith((KEPT, WEIGHTED)))


def _ratios(counts: Counter[str]) -> dict[str, float]:
    """What can be said of the verdicts: the share of images that were good, and of those wanted that are missing.

    `kept_*` and `weighted_*` are among the good ones, and what a dropped group lacks is missing: no images that were made beside them.
    """
    made = num_made(counts)
    if not made:
        return {}
    wanted = counts["good"] + counts["missing"]
    return {"good_ratio": round(counts["good"] / made, 6), "missing_ratio": round(counts["missing"] / max(wanted, 1), 6)}


def _manifest_shard(shard: CheckedShard) -> ManifestShard:
    record = shard.record
    return ManifestShard(
        index=record.index,
        name=record.name,
        sha256=record.sha256,
        size_bytes=record.size_bytes,
        num_groups=record.num_groups,
        num_images=record.num_images,
        index_sha256=shard.index_sha256,
        index_size_bytes=shard.index_size_bytes,
    )
