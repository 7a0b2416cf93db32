"""Batches from real shards, prepared by a thread and by processes."""

import hashlib
import io

import numpy as np
import pytest
import torch
from PIL import Image

from stablerep.batches import GroupLoader, GroupSource
from stablerep.batches.tokenize import build_tokenizer
from stablerep.config.recipes import RECIPES
from stablerep.errors import DataError
from stablerep.records import Caption, GeneratorRef, PromptSet
from stablerep.shards.dataset import commit_shard, dataset_id, write_manifest
from stablerep.shards.group import ImageGroup
from stablerep.shards.read import GroupDataset
from stablerep.store import Store

PRETRAIN = RECIPES["quickstart"].pretrain
NUM_SHARDS, GROUPS_PER_SHARD = 3, 6


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def group(number: int, *, bad_image: int = -1) -> ImageGroup:
    random = np.random.default_rng(number)
    text = f"handwriting of the number {number}"
    images = [png(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(4)]
    if bad_image >= 0:
        images[bad_image] = images[bad_image][:50]
    return ImageGroup(Caption(hashlib.sha256(text.encode()).hexdigest()[:16], text), tuple(images), "png")


def committed(store: Store, *, bad_group: int = -1) -> GroupDataset:
    prompt_set = PromptSet("prompts-0", "", "0" * 64, NUM_SHARDS * GROUPS_PER_SHARD, NUM_SHARDS, 1, {})
    generator = GeneratorRef("generator-0", "", "", "1" * 64, "", "", 32)
    identity = dataset_id(prompt_set, generator, {"images_per_caption": 4})
    for shard in range(NUM_SHARDS):
        numbers = range(shard * GROUPS_PER_SHARD, (shard + 1) * GROUPS_PER_SHARD)
        groups = [group(number, bad_image=1 if number == bad_group else -1) for number in numbers]
        commit_shard(store, identity, shard, groups, counts={}, producer={})
    return GroupDataset(store, write_manifest(store, identity, prompt_set, generator, 4, {}))


def loader(dataset: GroupSource, num_workers: int, **changes: int) -> GroupLoader:
    texts = [dataset.caption(position).text for position in range(dataset.num_groups)]
    return GroupLoader(
        dataset,
        build_tokenizer(texts, vocabulary="captions", vocabulary_size=300, context_length=12),
        captions_per_batch=6,
        rank=0,
        world_size=2,
        seed=0,
        augment=PRETRAIN.augment,
        size_px=32,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        num_workers=num_workers,
        **{"images_per_caption": 3, **changes},
    )


@pytest.mark.dist
@pytest.mark.slow
def test_worker_processes_give_the_same_batches_as_the_thread(store: Store) -> None:
    dataset = committed(store)
    by_thread = list(loader(dataset, 0).batches(2, 5))
    before = torch.random.get_rng_state()
    by_workers = list(loader(dataset, 2).batches(2, 5))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [batch.step for batch in by_workers] == [2, 3, 4, 5, 6]
    for one, other in zip(by_thread, by_workers, strict=True):
        assert one.caption_ids == other.caption_ids
        assert torch.equal(one.views_MNCHW, other.views_MNCHW)
        assert torch.equal(one.tokens_NT, other.tokens_NT)
        assert torch.equal(one.labels_N, other.labels_N)


@pytest.mark.dist
@pytest.mark.slow
def test_a_worker_reports_an_undecodable_image_in_the_same_words(store: Store) -> None:
    dataset = committed(store, bad_group=7)
    message = rf"^shard 00001.tar, caption {group(7).caption.caption_id}, image 1: cannot decode an image of 50 bytes"
    for num_workers in (0, 1):
        with pytest.raises(DataError, match=message):
            list(loader(dataset, num_workers, images_per_caption=4).batches(0, 12))


def test_shards_are_read_as_they_were_packed(store: Store) -> None:
    dataset = committed(store)
    positions = {dataset.caption(position).caption_id: position for position in range(dataset.num_groups)}
    for batch in loader(dataset, 0).batches(0, 3):
        assert set(batch.caption_ids) <= set(positions)
        assert batch.views_MNCHW.shape == (3, 3, 3, 32, 32)
