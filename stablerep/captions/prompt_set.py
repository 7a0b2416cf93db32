"""The prompt set: the captions of a data set as Parquet, under an id made of the texts in their order, and of their classes if any.

Neither the source nor the lanes have a part in the id. Parts are named by their digest and the manifest is written last, so that two
writers with different provenance for the same texts cannot mix: who finishes first is kept. Work units (shards) are cut here too.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from stablerep.errors import ConfigError, DataError, StoreError
from stablerep.identity import canonical_json, content_id, digest, sha256_bytes
from stablerep.records import Caption, PromptSet, Record
from stablerep.store import Store

CAPTIONS_PER_PART = 250_000
LABEL = "label"  # key of a caption's class in its metadata


@dataclass(frozen=True)
class Part(Record):
    """One Parquet file with the columns caption_id, text, and metadata (JSON)."""

    name: str
    sha256: str
    size_bytes: int
    num_captions: int


@dataclass(frozen=True)
class PromptManifest(Record):
    """What is stored under a prompt set id; `counts` are those of the first writer."""

    prompt_set_id: str
    sha256: str
    num_captions: int
    counts: dict[str, int]
    parts: tuple[Part, ...]


def write_prompt_set(
    store: Store, captions: Sequence[Caption], counts: dict[str, int], *, captions_per_shard: int, num_lanes: int
) -> PromptSet:
    """Keep captions under their content id; what is there and whole already is not written again.

    Args:
        store: where to.
        captions: unique captions in order.
        counts: what became of all rows of the source.
        captions_per_shard: at most this many captions in a shard; shards are equal to within one caption.
        num_lanes: workers that share the shards.

    Raises:
        DataError: there are no captions.
        StoreError: the store is full, read-only or out of reach.
    """
    if not captions:
        raise DataError("expected at least one caption for a prompt set, found none; check captions.source")
    sha256 = texts_sha256(captions)
    prompt_set_id = content_id("prompts", {"texts_sha256": sha256} | _labels_digest(captions))
    if not _is_whole(store, prompt_set_id, sha256):
        parts = tuple(_write_parts(store, prompt_set_id, captions))
        manifest = PromptManifest(prompt_set_id, sha256, len(captions), counts, parts)
        store.write(_manifest_key(prompt_set_id), manifest.to_json())
    return PromptSet(
        prompt_set_id=prompt_set_id,
        uri=store.uri_of(_folder(prompt_set_id)),
        sha256=sha256,
        num_captions=len(captions),
        num_shards=-(-len(captions) // captions_per_shard),
        num_lanes=num_lanes,
        counts=counts,
    )


def read_prompt_set(store: Store, prompt_set: PromptSet) -> list[Caption]:
    """The captions in order, checked against the digests of the manifest and of the record.

    Raises:
        DataError: parts are missing or damaged, or the texts are not those of the record.
    """
    where = store.uri_of(_folder(prompt_set.prompt_set_id))
    remedy = f"delete {where} and run prepare again"
    try:
        manifest = PromptManifest.from_json(store.read_text(_manifest_key(prompt_set.prompt_set_id)))
        captions = [caption for part in manifest.parts for caption in _read_part(store, prompt_set.prompt_set_id, part)]
    except StoreError:
        raise
    except DataError as error:
        raise DataError(f"prompt set {where} cannot be read: {error}; {remedy}") from error
    if (found := texts_sha256(captions)) != prompt_set.sha256:
        raise DataError(f"prompt set {where}: expected texts with sha256 {prompt_set.sha256}, found {found}; {remedy}")
    return captions


def read_labels(store: Store, prompt_set_id: str) -> dict[str, str]:
    """The class of each caption that has one, by caption id; empty where captions name none, or are kept elsewhere.

    Raises:
        DataError: parts are missing or damaged.
    """
    if not store.exists(_manifest_key(prompt_set_id)):
        return {}
    manifest = PromptManifest.from_json(store.read_text(_manifest_key(prompt_set_id)))
    captions = (caption for part in manifest.parts for caption in _read_part(store, prompt_set_id, part))
    return {caption.caption_id: str(caption.metadata[LABEL]) for caption in captions if LABEL in caption.metadata}


def texts_sha256(captions: Iterable[Caption]) -> str:
    """SHA-256 over the texts in order, each with its length before it."""
    sha = hashlib.sha256()
    for caption in captions:
        text = caption.text.encode("utf-8")
        sha.update(len(text).to_bytes(8, "big") + text)
    return sha.hexdigest()


def shard_captions(captions: Sequence[Caption], num_shards: int, index: int) -> list[Caption]:
    """The captions of one shard: consecutive, and equally many in each shard to within one.

    Raises:
        DataError: there is no such shard.
    """
    if not 0 <= index < num_shards:
        raise DataError(f"expected a shard from 0 to {num_shards - 1}, found {index}")
    return list(captions[index * len(captions) // num_shards : (index + 1) * len(captions) // num_shards])


def lane_shards(num_shards: int, num_lanes: int, lane: int) -> list[int]:
    """The shards of one lane: every `num_lanes`-th.

    Raises:
        ConfigError: there is no such lane.
    """
    if not 0 <= lane < num_lanes:
        raise ConfigError(f"expected a lane from 0 to {num_lanes - 1}, found {lane}")
    return list(range(lane, num_shards, num_lanes))


def _labels_digest(captions: Sequence[Caption]) -> dict[str, str]:
    """Part of the id where captions name classes: the same texts in other classes are another prompt set."""
    labels = [caption.metadata.get(LABEL) for caption in captions]
    return {"labels_sha256": digest(labels)} if any(label is not None for label in labels) else {}


def _is_whole(store: Store, prompt_set_id: str, sha256: str) -> bool:
    try:
        manifest = PromptManifest.from_json(store.read_text(_manifest_key(prompt_set_id)))
    except StoreError:
        raise
    except DataError:
        return False
    sizes = store.sizes(_folder(prompt_set_id))
    return manifest.sha256 == sha256 and all(sizes.get(_part_key(prompt_set_id, part.name)) == part.size_bytes for part in manifest.parts)


def _write_parts(store: Store, prompt_set_id: str, captions: Sequence[Caption]) -> Iterator[Part]:
    for number, start in enumerate(range(0, len(captions), CAPTIONS_PER_PART)):
        chosen = captions[start : start + CAPTIONS_PER_PART]
        content = _parquet(chosen)
        sha256 = sha256_bytes(content)
        name = f"part-{number:05d}-{sha256[:8]}.parquet"
        store.write(_part_key(prompt_set_id, name), content)
        yield Part(name, sha256, len(content), len(chosen))


def _parquet(captions: Sequence[Caption]) -> bytes:
    """Equal captions give equal bytes: fixed format and compression, no schema copy, nothing about the writer's time or machine."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = {
        "caption_id": pa.array([caption.caption_id for caption in captions], pa.string()),
        "text": pa.array([caption.text for caption in captions], pa.string()),
        "metadata": pa.array([canonical_json(caption.metadata) for caption in captions], pa.string()),
    }
    packed = io.BytesIO()
    parquet.write_table(
        pa.table(columns),
        packed,
        compression="zstd",
        compression_level=3,
        version="2.6",
        data_page_version="1.0",
        row_group_size=65_536,
        use_dictionary=False,
        write_statistics=False,
        store_schema=False,
    )
    return packed.getvalue()


def _read_part(store: Store, prompt_set_id: str, part: Part) -> Iterator[Caption]:
    from pyarrow import parquet

    content = store.read(_part_key(prompt_set_id, part.name))
    if (found := sha256_bytes(content)) != part.sha256:
        raise DataError(f"{part.name}: expected {part.size_bytes} bytes with sha256 {part.sha256}, found {len(content)} bytes with {found}")
    table: Any = parquet.read_table(io.BytesIO(content))
    columns = (table.column(name).to_pylist() for name in ("caption_id", "text", "metadata"))
    for caption_id, text, metadata in cast("Iterable[tuple[str, str, str]]", zip(*columns, strict=True)):
        yield Caption(caption_id, text, json.loads(metadata))


def _folder(prompt_set_id: str) -> str:
    return f"captions/{prompt_set_id}"


def _manifest_key(prompt_set_id: str) -> str:
    return f"{_folder(prompt_set_id)}/manifest.json"


def _part_key(prompt_set_id: str, name: str) -> str:
    return f"{_folder(prompt_set_id)}/{name}"
