"""A small committed data set of image groups for tests: coloured blobs whose place depends on the caption, a little different each time."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
from PIL import Image

from stablerep.captions.prompt_set import write_prompt_set
from stablerep.records import Caption, DatasetRef, GeneratorRef, PromptSet
from stablerep.shards.dataset import commit_shard, write_manifest, write_spec
from stablerep.shards.group import ImageGroup
from stablerep.store import Store

GENERATOR = GeneratorRef("generator-tiny", "file:///nowhere", "BlobPainter", "0" * 64, "1", "CC0-1.0", 16)
CLASSES = ("redder", "greener", "bluer")
_WORDS = ("red", "green", "blue", "small", "large", "round", "far", "near")


def tiny_dataset(
    store: Store, *, num_groups: int = 12, images_per_caption: int = 4, size_px: int = 16, num_shards: int = 2, has_classes: bool = False
) -> DatasetRef:
    """Commit `num_groups` groups in `num_shards` shards; the same arguments give the same bytes.

    With `has_classes` the captions are kept too, each with the name of its blob's strongest colour; else they are kept elsewhere.
    """
    prompt_set = PromptSet("prompts-tiny", store.uri_of("captions/prompts-tiny"), "1" * 64, num_groups, num_shards, 1, {"kept": num_groups})
    spec = {"images_per_caption": images_per_caption, "size_px": size_px, "num_groups": num_groups}
    groups = [_group(number, images_per_caption, size_px) for number in range(num_groups)]
    if has_classes:
        labels = [CLASSES[int(_look(number, size_px)[1].argmax())] for number in range(num_groups)]
        captions = [replace(group.caption, metadata={"label": label}) for group, label in zip(groups, labels, strict=True)]
        prompt_set = write_prompt_set(store, captions, {}, captions_per_shard=-(-num_groups // num_shards), num_lanes=1)
    identity = write_spec(store, prompt_set, GENERATOR, spec)
    for shard in range(num_shards):
        mine = groups[shard * num_groups // num_shards : (shard + 1) * num_groups // num_shards]
        counts = {"good": sum(len(group.images) for group in mine)}
        commit_shard(store, identity, shard, mine, counts=counts, producer={"host": "test"})
    return write_manifest(store, identity, prompt_set, GENERATOR, images_per_caption, {"group_purity": 1.0})


def weighted_tiny(store: Store, weight: float) -> DatasetRef:
    """Groups whose first image counts `weight`."""
    groups = [replace(_group(number, 3, 16), metadata={"weights": [weight, 1.0, 1.0]}) for number in range(12)]
    return commit_tiny(store, groups, {"weighted_disagreeing": 12})


def commit_tiny(store: Store, groups: Sequence[ImageGroup], counts: Mapping[str, int] = MappingProxyType({})) -> DatasetRef:
    """Commit these groups, in one shard; `counts` besides those of all images."""
    prompt_set = PromptSet("prompts-tiny", store.uri_of("captions/prompts-tiny"), "1" * 64, len(groups), 1, 1, {"kept": len(groups)})
    identity = write_spec(store, prompt_set, GENERATOR, {"num_groups": len(groups), "image_format": groups[0].image_format})
    counts = {"good": sum(len(group.images) for group in groups), **counts}
    commit_shard(store, identity, 0, groups, counts=counts, producer={"host": "test"})
    return write_manifest(store, identity, prompt_set, GENERATOR, len(groups[0].images), {"group_purity": 1.0})


def _group(number: int, num_images: int, size_px: int) -> ImageGroup:
    text = f"{_WORDS[number % len(_WORDS)]} blob number {number}"
    caption = Caption(hashlib.sha256(text.encode()).hexdigest()[:16], text)
    middle, colour = _look(number, size_px)
    return ImageGroup(caption, tuple(_png(middle, colour, size_px, number * 100 + image) for image in range(num_images)), "png")


def _look(number: int, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Middle and colour of a caption's blobs."""
    generator = np.random.default_rng(number)
    return generator.uniform(0.2, 0.8, size=2) * size_px, generator.uniform(80, 255, size=3)


def _png(middle: np.ndarray, colour: np.ndarray, size_px: int, seed: int) -> bytes:
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:size_px, :size_px]
    moved = middle + generator.normal(0, size_px / 16, size=2)
    blob = np.exp(-((x - moved[0]) ** 2 + (y - moved[1]) ** 2) / (size_px / 6) ** 2)
    pixels = blob[:, :, None] * colour + generator.normal(20, 6, size=(size_px, size_px, 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()
