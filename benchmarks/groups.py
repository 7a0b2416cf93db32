"""Committed data sets of image groups for benchmarks: as many captions as asked for, few different pictures, the same bytes every time."""

import hashlib
import io
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
from PIL import Image

from stablerep.records import Caption, DatasetRef, GeneratorRef, PromptSet
from stablerep.shards.dataset import commit_shard, write_manifest, write_spec
from stablerep.shards.group import ImageGroup
from stablerep.store import Store

GENERATOR = GeneratorRef("generator-benchmark", "file:///nowhere", "SmoothNoise", "0" * 64, "1", "CC0-1.0", 32)


def pictures(num: int, size_px: int, image_format: str, *, is_grey: bool) -> list[bytes]:
    """Smooth random pictures with a little grain, encoded; seed 0."""
    random = np.random.default_rng(0)
    encoded: list[bytes] = []
    for _ in range(num):
        coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((size_px, size_px), Image.Resampling.BICUBIC)
        grain = random.integers(-6, 7, (size_px, size_px, 3))
        image = Image.fromarray((np.asarray(coarse).astype(int) + grain).clip(0, 255).astype(np.uint8))
        stream = io.BytesIO()
        (image.convert("L") if is_grey else image).save(stream, image_format, quality=90)
        encoded.append(stream.getvalue())
    return encoded


def caption_of(number: int) -> Caption:
    """A made-up caption."""
    text = f"picture {number}"
    return Caption(hashlib.sha256(text.encode()).hexdigest()[:16], text)


def commit_groups(
    store: Store,
    num_groups: int,
    images_per_caption: int,
    groups_per_shard: int,
    encoded: Sequence[bytes],
    image_format: str,
    num_workers: int = 0,
) -> DatasetRef:
    """Write shards and manifest; group g has the pictures from g * images_per_caption on, over and over again.

    With `num_workers` processes write the shards.
    """
    num_shards = -(-num_groups // groups_per_shard)
    prompt_set = PromptSet(
        "prompts-benchmark", store.uri_of("captions/prompts-benchmark"), "1" * 64, num_groups, num_shards, 1, {"kept": num_groups}
    )
    spec = {"images_per_caption": images_per_caption, "num_groups": num_groups, "image_format": image_format}
    identity = write_spec(store, prompt_set, GENERATOR, spec)
    work = partial(_commit, store.uri, identity, num_groups, images_per_caption, groups_per_shard, list(encoded), image_format)
    if num_workers:
        with ProcessPoolExecutor(num_workers, multiprocessing.get_context("forkserver")) as pool:
            list(pool.map(work, range(num_shards), chunksize=8))
    else:
        list(map(work, range(num_shards)))
    return write_manifest(store, identity, prompt_set, GENERATOR, images_per_caption, {"group_purity": 1.0})


def _commit(
    uri: str,
    identity: str,
    num_groups: int,
    images_per_caption: int,
    groups_per_shard: int,
    encoded: list[bytes],
    image_format: str,
    shard: int,
) -> None:
    numbers = range(shard * groups_per_shard, min((shard + 1) * groups_per_shard, num_groups))
    groups = [_group(number, images_per_caption, encoded, image_format) for number in numbers]
    counts = {"good": len(groups) * images_per_caption}
    commit_shard(Store(uri), identity, shard, groups, counts=counts, producer={"host": "benchmark"})


def _group(number: int, images_per_caption: int, encoded: Sequence[bytes], image_format: str) -> ImageGroup:
    images = tuple(encoded[(number * images_per_caption + index) % len(encoded)] for index in range(images_per_caption))
    return ImageGroup(caption_of(number), images, image_format)
