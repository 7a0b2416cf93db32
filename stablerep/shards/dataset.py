"""A data set of image groups as it grows in the store: spec, shards with commit records, manifest last.

Everything is named by what decides its content, so a re-run finds finished shards, two workers on one shard write the same bytes, and
lanes, batch sizes and devices leave no trace in any digest. A shard is done if and only if its record exists and matches.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from stablerep.errors import DataError, ShardError, StoreError
from stablerep.identity import canonical_json, content_id, sha256_bytes
from stablerep.records import DatasetRef, GeneratorRef, PromptSet, ShardRecord
from stablerep.shards import layout
from stablerep.shards.curated import parse_curated
from stablerep.shards.group import ImageGroup
from stablerep.shards.index import index_of
from stablerep.shards.manifest import Manifest, manifest_of
from stablerep.shards.verify import check_shards
from stablerep.shards.write import pack_shard
from stablerep.store import Store

FORMAT = 1  # of the tar and what is in it; another number gives every data set another id
_NEVER_IN_A_SPEC = ("lane", "num_lanes", "batch_size", "device")


def full_spec(prompt_set: PromptSet, generator: GeneratorRef, spec: dict[str, Any]) -> dict[str, Any]:
    """Everything that decides the content of a data set.

    Args:
        prompt_set: the captions; their split into shards counts, their lanes do not.
        generator: the model, by the digest of its weights.
        spec: sampler settings and what is stored: images_per_caption, noise_seed, scheduler, num_inference_steps, guidance,
            negative_prompt, dtype, image size, format and quality.

    Raises:
        DataError: the spec holds something that must not decide content.
    """
    if found := [key for key in _NEVER_IN_A_SPEC if key in spec]:
        raise DataError(f"expected a spec of what decides the images, found {', '.join(found)}; leave out how the work is done")
    return {
        "format": FORMAT,
        "prompt_set_id": prompt_set.prompt_set_id,
        "num_shards": prompt_set.num_shards,
        "generator_sha256": generator.sha256,
        "sampler": spec,
        **({"lora_sha256": generator.lora_sha256} if generator.lora_sha256 else {}),
    }


def dataset_id(prompt_set: PromptSet, generator: GeneratorRef, spec: dict[str, Any]) -> str:
    """The content id of a data set; arguments and Raises as for `full_spec`."""
    return content_id("groups", full_spec(prompt_set, generator, spec))


def write_spec(store: Store, prompt_set: PromptSet, generator: GeneratorRef, spec: dict[str, Any]) -> str:
    """Keep `spec.json` and return the dataset id; arguments and Raises as for `full_spec`."""
    identity = dataset_id(prompt_set, generator, spec)
    if not store.exists(layout.spec_key(identity)):
        store.write(layout.spec_key(identity), canonical_json(full_spec(prompt_set, generator, spec)))
    return identity


def read_spec(store: Store, dataset_id: str) -> dict[str, Any]:
    """The full spec of a data set.

    Raises:
        DataError: there is none, or it is not the one that gave the data set its id.
    """
    key = layout.spec_key(dataset_id)
    try:
        spec = json.loads(store.read_text(key))
    except ValueError as error:
        raise DataError(f"{store.uri_of(key)}: expected JSON, found something else ({error}); delete it and run generate again") from error
    if content_id("groups", spec) != dataset_id:
        found = content_id("groups", spec)
        raise DataError(f"{store.uri_of(key)}: expected the spec of {dataset_id}, found that of {found}; delete it and run generate again")
    return spec


def find_shard(store: Store, dataset_id: str, index: int, *, verify: bool = False) -> ShardRecord | None:
    """The record of a finished shard, or None when the shard is still to be made.

    Args:
        store: where the data set is.
        dataset_id: which data set.
        index: which shard.
        verify: read the whole shard and compare its digest, instead of comparing its size only.

    Raises:
        StoreError: the store does not answer.
    """
    key = layout.shard_key(dataset_id, index)
    try:
        record = ShardRecord.from_json(store.read_text(layout.record_key(dataset_id, index)))
    except StoreError:
        raise
    except DataError:  # no record, or one that cannot be read: the shard does not count
        return None
    if record.index != index or store.size(key) != record.size_bytes:
        return None
    return record if not verify or store.sha256(key) == record.sha256 else None


def commit_shard(
    store: Store,
    dataset_id: str,
    index: int,
    groups: Sequence[ImageGroup],
    *,
    counts: dict[str, int],
    producer: dict[str, str],
) -> ShardRecord:
    """Write a shard: the tar, then its index, then, where there is none yet, the record that makes it count.

    Args:
        store: where the data set is.
        dataset_id: which data set.
        index: which shard.
        groups: its groups in the order of the prompt set.
        counts: images by quality verdict; `good` are stored, `missing` were wanted and are left out, all others were made again.
        producer: who made it; kept in the record and in no digest.

    Raises:
        ShardError: the groups cannot be packed.
        StoreError: the store is full, read-only or out of reach; the shard then does not count.
    """
    packed = pack_shard(groups)
    sha256 = sha256_bytes(packed)
    record = ShardRecord(
        index=index,
        name=layout.shard_name(index),
        sha256=sha256,
        size_bytes=len(packed),
        num_groups=len(groups),
        num_images=sum(len(group.images) for group in groups),
        counts=counts,
        producer=producer,
    )
    store.write(layout.shard_key(dataset_id, index), packed)
    store.write(layout.index_key(dataset_id, index), index_of(packed).to_json(sha256))
    return _commit(store, dataset_id, record)


def _commit(store: Store, dataset_id: str, record: ShardRecord) -> ShardRecord:
    """Write the record where there is none: of several workers on a shard one commits it. A record that does not match is replaced."""
    key = layout.record_key(dataset_id, record.index)
    if store.write_new(key, record.to_json()):
        return record
    found = find_shard(store, dataset_id, record.index)
    if found is not None and found.sha256 == record.sha256:
        return found
    store.write(key, record.to_json())
    return record


def write_manifest(
    store: Store,
    dataset_id: str,
    prompt_set: PromptSet,
    generator: GeneratorRef,
    images_per_caption: int,
    quality: dict[str, float],
    *,
    on_shard: Callable[[ShardRecord], None] | None = None,
) -> DatasetRef:
    """Check every shard whole, then write `manifest.json`: from then on the data set exists.

    Args:
        store: where the data set is.
        dataset_id: which data set.
        prompt_set: its captions.
        generator: its model.
        images_per_caption: M.
        quality: what was measured over all groups; shares of good and missing images are added from the shards' counts.
        on_shard: called after each checked shard, for progress.

    Raises:
        ShardError: shards are missing, truncated or damaged; the message names them and the remedy.
    """
    missing = [index for index in range(prompt_set.num_shards) if not store.exists(layout.record_key(dataset_id, index))]
    if missing:
        names = ", ".join(layout.shard_name(index) for index in missing[:8]) + (" ..." if len(missing) > 8 else "")
        raise ShardError(
            f"data set {dataset_id}: expected {prompt_set.num_shards} shards, found {prompt_set.num_shards - len(missing)}; "
            f"missing: {names}; run generate again for every lane, then commit"
        )
    checked = check_shards(store, dataset_id, prompt_set.num_shards, on_shard)
    manifest = manifest_of(dataset_id, prompt_set, generator, images_per_caption, quality, checked)
    store.write(layout.manifest_key(dataset_id), manifest.to_json())
    return manifest.reference(store)


def find_dataset(store: Store, dataset_id: str) -> DatasetRef | None:
    """The committed data set, or None when its manifest is not there yet.

    Raises:
        DataError: the manifest is not readable.
    """
    key = layout.manifest_key(dataset_id)
    if not store.exists(key):
        return None
    text = store.read_text(key)
    return (parse_curated(text) or Manifest.from_json(text)).reference(store)
