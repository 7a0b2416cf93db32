import hashlib
import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_groups import commit_tiny

from stablerep.batches import Batch, GroupLoader
from stablerep.batches.batch import caption_label
from stablerep.batches.decode import decode_image
from stablerep.batches.tokenize import CaptionTokenizer, build_tokenizer
from stablerep.config.recipes import RECIPES
from stablerep.config.schema import AugmentConfig, SynClrConfig
from stablerep.errors import CheckpointError, ConfigError, DataError
from stablerep.groups.make import encode_image
from stablerep.records import Caption
from stablerep.shards.group import ImageGroup
from stablerep.shards.read import GroupDataset
from stablerep.store import Store

PLAIN = AugmentConfig(
    crop_scale_min=1.0, is_flipped=False, jitter=0.0, hue=0.0, jitter_probability=0.0, grey_probability=0.0, blur_probability=0.0
)
QUICKSTART = RECIPES["quickstart"].pretrain.augment


@pytest.fixture(scope="module")
def tokenizer() -> CaptionTokenizer:
    texts = [f"a photo of thing number {i}" for i in range(50)]
    return build_tokenizer(texts, vocabulary="captions", vocabulary_size=300, context_length=10)


def loader(dataset: Any, tokenizer: CaptionTokenizer | None = None, **changes: Any) -> GroupLoader:
    settings: dict[str, Any] = {
        "captions_per_batch": 8,
        "images_per_caption": 3,
        "rank": 0,
        "world_size": 1,
        "seed": 0,
        "augment": QUICKSTART,
        "size_px": 16,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "num_workers": 0,
    }
    return GroupLoader(dataset, tokenizer, **{**settings, **changes})


def assert_equal(one: Batch, other: Batch) -> None:
    assert one.step == other.step
    assert one.caption_ids == other.caption_ids
    assert torch.equal(one.labels_N, other.labels_N)
    assert torch.equal(one.tokens_NT, other.tokens_NT)
    assert torch.equal(one.views_MNCHW, other.views_MNCHW)


def test_a_batch_has_the_shapes_and_types_of_the_contract(memory_groups: Callable[..., Any], tokenizer: CaptionTokenizer) -> None:
    (batch,) = loader(memory_groups([5] * 20), tokenizer).batches(7, 1)
    assert batch.views_MNCHW.shape == (3, 8, 3, 16, 16)
    assert batch.views_MNCHW.dtype == torch.float32
    assert batch.tokens_NT.shape == (8, 10)
    assert batch.tokens_NT.dtype == torch.int64
    assert batch.labels_N.dtype == torch.int64
    assert int(batch.labels_N.min()) >= 0
    assert batch.step == 7


def test_two_views_of_an_image_are_two_crops_of_it(memory_groups: Callable[..., Any]) -> None:
    """All images' first view, then all images' second; the first is what one view alone would be."""
    dataset = memory_groups([5] * 20)
    (single,), (plain,) = loader(dataset).batches(3, 1), loader(dataset, augment=PLAIN, views_per_image=2).batches(3, 1)
    (double,) = loader(dataset, views_per_image=2).batches(3, 1)
    assert double.views_MNCHW.shape == (6, 8, 3, 16, 16)
    assert torch.equal(double.views_MNCHW[:3], single.views_MNCHW)
    distances = (double.views_MNCHW[3:] - single.views_MNCHW).abs().amax(dim=(2, 3, 4))
    assert distances.min() > 0.1, "every second view is another view"
    assert torch.equal(plain.views_MNCHW[:3], plain.views_MNCHW[3:]), "of the same image"
    parts = [next(iter(loader(dataset, views_per_image=2, rank=rank, world_size=2).batches(3, 1))).views_MNCHW for rank in range(2)]
    assert torch.equal(torch.cat(parts, dim=1), double.views_MNCHW)


def test_views_tokens_and_labels_belong_to_the_same_caption(memory_groups: Callable[..., Any], tokenizer: CaptionTokenizer) -> None:
    """Trap 7: view-major; view m of caption n is one of caption n's images, and the M views are different images."""
    dataset = memory_groups([5] * 20)
    by_id = {dataset.caption(i).caption_id: i for i in range(20)}
    for batch in loader(dataset, tokenizer, augment=PLAIN, mean=(0, 0, 0), std=(1, 1, 1)).batches(0, 4):
        for n, caption_id in enumerate(batch.caption_ids):
            position = by_id[caption_id]
            stored = torch.stack([decode_image(data) for data in dataset.images(position, range(5))]) / 255
            distances = (batch.views_MNCHW[:, n, None] - stored[None]).abs().amax(dim=(2, 3, 4))
            assert (distances < 1e-3).sum(dim=1).tolist() == [1, 1, 1]
            assert len(distances.argmin(dim=1).unique()) == 3
            assert int(batch.labels_N[n]) == caption_label(caption_id)
            assert torch.equal(batch.tokens_NT[n], tokenizer.encode([dataset.caption(position).text])[0])


def test_labels_are_of_the_caption_and_not_of_the_place_in_the_batch(memory_groups: Callable[..., Any]) -> None:
    """Trap 2: equal captions have equal labels in every batch, on every rank and in every data set; others differ."""
    seen: dict[str, set[int]] = {}
    for rank, seed, num_groups in ((0, 0, 20), (1, 0, 20), (1, 5, 37)):
        for batch in loader(memory_groups([3] * num_groups), world_size=2, rank=rank, seed=seed).batches(0, 24):
            for caption_id, label in zip(batch.caption_ids, batch.labels_N.tolist(), strict=True):
                seen.setdefault(caption_id, set()).add(label)
    assert all(len(labels) == 1 for labels in seen.values())
    assert len(set.union(*seen.values())) == len(seen) > 30
    assert caption_label("ffffffffffffffff") == 2**63 - 1
    assert caption_label("0000000000000003") == 1


@pytest.mark.parametrize("caption_id", ["", "abc", "g" * 16])
def test_an_id_that_is_no_hash_is_refused(caption_id: str) -> None:
    with pytest.raises(DataError, match="expected 16 hexadecimal digits"):
        caption_label(caption_id)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_see_the_batches_of_one_process(
    memory_groups: Callable[..., Any], tokenizer: CaptionTokenizer, world_size: int
) -> None:
    dataset = memory_groups([4] * 21)
    whole = list(loader(dataset, tokenizer).batches(0, 5))
    parts = [list(loader(dataset, tokenizer, rank=rank, world_size=world_size).batches(0, 5)) for rank in range(world_size)]
    for step, batch in enumerate(whole):
        assert sum((part[step].caption_ids for part in parts), ()) == batch.caption_ids
        assert torch.equal(torch.cat([part[step].views_MNCHW for part in parts], dim=1), batch.views_MNCHW)
        assert torch.equal(torch.cat([part[step].tokens_NT for part in parts]), batch.tokens_NT)
        assert torch.equal(torch.cat([part[step].labels_N for part in parts]), batch.labels_N)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_group_comes_once_an_epoch_over_all_ranks(memory_groups: Callable[..., Any], world_size: int) -> None:
    dataset = memory_groups([3] * 24)
    loaders = [loader(dataset, rank=rank, world_size=world_size) for rank in range(world_size)]
    for epoch in range(2):
        counts = Counter(caption_id for one in loaders for batch in one.batches(3 * epoch, 3) for caption_id in batch.caption_ids)
        assert len(counts) == 24
        assert set(counts.values()) == {1}


def test_no_caption_twice_in_a_batch_across_epochs(memory_groups: Callable[..., Any]) -> None:
    for batch in loader(memory_groups([3] * 11), images_per_caption=2).batches(0, 12):
        assert len(set(batch.caption_ids)) == 8


@pytest.mark.parametrize("start", [1, 4, 9])
def test_resuming_equals_continuing(memory_groups: Callable[..., Any], tokenizer: CaptionTokenizer, start: int) -> None:
    """T7: batch for batch and bit for bit, in a new process's loader and with what was kept in memory by an old one."""
    dataset = memory_groups([4] * 21)
    running = loader(dataset, tokenizer)
    whole = list(running.batches(0, 11))
    for resumed in (loader(dataset, tokenizer), running):
        tail = list(resumed.batches(start, 11 - start))
        assert len(tail) == 11 - start
        for one, other in zip(whole[start:], tail, strict=True):
            assert_equal(one, other)


def test_epochs_draw_other_images_and_other_views(memory_groups: Callable[..., Any]) -> None:
    """Trap 18: nothing is repeated when a group comes again."""
    dataset = memory_groups([6] * 8)
    first, second = loader(dataset, augment=QUICKSTART).batches(0, 2)
    place = [second.caption_ids.index(caption_id) for caption_id in first.caption_ids]
    differences = (first.views_MNCHW[:, :, None] - second.views_MNCHW[:, place].transpose(0, 1)[None]).abs().amax(dim=(-1, -2, -3))
    assert float(differences.min()) > 0.05


def test_no_two_views_of_a_batch_are_the_same(memory_groups: Callable[..., Any]) -> None:
    (batch,) = loader(memory_groups([3] * 20)).batches(0, 1)
    flat = batch.views_MNCHW.flatten(0, 1).flatten(1)
    assert float((torch.cdist(flat, flat) + 1e9 * torch.eye(len(flat))).min()) > 1


def test_another_seed_is_another_run(memory_groups: Callable[..., Any]) -> None:
    dataset = memory_groups([4] * 20)
    (one,), (other,) = (loader(dataset, seed=seed).batches(0, 1) for seed in (0, 1))
    assert one.caption_ids != other.caption_ids


def test_groups_with_too_few_images_are_left_out_and_counted(memory_groups: Callable[..., Any]) -> None:
    """Trap 19: a group that lost images to the filters shortens the epoch; it does not kill the run."""
    dataset = memory_groups([2, 5, 3, 1, 3, 4, 3, 2, 6, 3, 5])
    short = {dataset.caption(i).caption_id for i in (0, 3, 7)}
    found = loader(dataset, captions_per_batch=4)
    assert found.num_skipped_groups == 3
    assert found.steps_per_epoch == 2
    seen = [caption_id for batch in found.batches(0, 2) for caption_id in batch.caption_ids]
    assert len(set(seen)) == 8
    assert not short & set(seen)


def test_complete_groups_are_not_counted_one_by_one(memory_groups: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = memory_groups([4] * 20)
    asked: list[int] = []
    monkeypatch.setattr(dataset, "num_images", lambda position: asked.append(position) or 4)
    complete = list(loader(dataset).batches(0, 3))
    assert asked == []
    monkeypatch.setattr(type(dataset), "images_per_caption", property(lambda self: 5))  # 20 groups of 5 would have 100 images
    for one, other in zip(complete, loader(dataset).batches(0, 3), strict=True):
        assert_equal(one, other)
    assert asked == list(range(20))


def test_more_captions_than_groups_is_refused_with_the_numbers(memory_groups: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"captions_per_batch: expected at most the 7 usable groups of the data set, found 8; lower"):
        loader(memory_groups([3] * 7))


def test_too_few_complete_groups_is_refused_with_the_count(memory_groups: Callable[..., Any]) -> None:
    message = r"the 7 usable groups .*, found 8; .*\(2 of 9 groups have fewer than pretrain.images_per_caption=3 images and were left out\)"
    with pytest.raises(ConfigError, match=message):
        loader(memory_groups([3] * 7 + [2, 2]))
    with pytest.raises(ConfigError, match=r"the 0 usable groups .*9 of 9 groups have fewer"):
        loader(memory_groups([2] * 9))


@pytest.mark.parametrize("changes", [{"world_size": 3}, {"rank": 2, "world_size": 2}, {"rank": -1, "world_size": 2}])
def test_batches_must_divide_over_the_ranks(memory_groups: Callable[..., Any], changes: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"captions_per_batch: expected a multiple of the number of processes and a rank below it, found"):
        loader(memory_groups([3] * 9), **changes)


def test_an_undecodable_image_is_named(memory_groups: Callable[..., Any]) -> None:
    """Trap 19: shard, caption and image are in the message, and the thread that met it does not hang the run."""
    dataset = memory_groups([3] * 16)
    dataset.replace(13, 2, b"\x89PNG\r\n\x1a\nbroken")
    caption_id = dataset.caption(13).caption_id
    found = loader(dataset)
    with pytest.raises(DataError, match=rf"shard shards/00001.tar, caption {caption_id}, image 2: cannot decode an image of 14 bytes"):
        list(found.batches(0, 2))
    assert not [thread for thread in threading.enumerate() if thread.name == "stablerep-batches"]


def test_an_undecodable_first_image_is_named_when_the_loader_is_made(memory_groups: Callable[..., Any]) -> None:
    dataset = memory_groups([3] * 16)
    dataset.replace(0, 0, b"")
    with pytest.raises(DataError, match=r"shard shards/00000.tar, caption \w+, image 0: .*found 0 bytes"):
        loader(dataset)


def test_images_are_decoded_once_where_they_fit_in_memory(memory_groups: Callable[..., Any]) -> None:
    kept, unkept = memory_groups([3] * 8), memory_groups([3] * 8)
    fits = 24 * 3 * 16 * 16
    with_memory, without = loader(kept, cache_bytes=fits), loader(unkept, cache_bytes=fits - 1)
    before = kept.reads
    for one, other in zip(with_memory.batches(0, 5), without.batches(0, 5), strict=True):
        assert_equal(one, other)
    assert kept.reads - before == 24
    assert unkept.reads - before == 5 * 24


def test_large_stored_images_are_shrunk_to_a_little_over_the_view(memory_groups: Callable[..., Any]) -> None:
    dataset = memory_groups([3] * 8, size_px=64)
    (batch,) = loader(dataset, augment=PLAIN, size_px=14, mean=(0, 0, 0), std=(1, 1, 1)).batches(0, 1)
    position = next(i for i in range(8) if dataset.caption(i).caption_id == batch.caption_ids[0])
    shrunk = torch.stack([decode_image(data, 16) for data in dataset.images(position, range(3))]) / 255
    expected = torch.nn.functional.interpolate(shrunk, (14, 14), mode="bilinear")
    distances = (batch.views_MNCHW[:, 0, None] - expected[None]).abs().amax(dim=(2, 3, 4))
    assert float(distances.amin(dim=1).max()) < 1e-3


def test_without_a_tokenizer_there_are_no_tokens(memory_groups: Callable[..., Any]) -> None:
    (batch,) = loader(memory_groups([3] * 8)).batches(0, 1)
    assert batch.tokens_NT.shape == (8, 0)
    assert batch.tokens_NT.dtype == torch.int64


def test_waiting_for_the_first_batch_is_measured(memory_groups: Callable[..., Any]) -> None:
    found = loader(memory_groups([3] * 20))
    assert found.data_wait_seconds == 0
    batches = found.batches(0, 3)
    next(batches)
    first = found.data_wait_seconds
    assert first > 0
    list(batches)
    assert found.data_wait_seconds > first


def test_stopping_early_stops_the_thread(memory_groups: Callable[..., Any]) -> None:
    batches = loader(memory_groups([3] * 20)).batches(0, 10**9)
    for _ in itertools.islice(batches, 2):
        assert [thread for thread in threading.enumerate() if thread.name == "stablerep-batches"]
    batches.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert not [thread for thread in threading.enumerate() if thread.name == "stablerep-batches"]


def test_no_steps_no_batches(memory_groups: Callable[..., Any]) -> None:
    assert list(loader(memory_groups([3] * 8)).batches(5, 0)) == []
    assert list(loader(memory_groups([3] * 8), num_workers=2).batches(5, 0)) == []


def test_a_device_makes_the_views_that_workers_make(memory_groups: Callable[..., Any]) -> None:
    """The way a GPU takes, on the CPU: images travel as uint8 and a whole batch is augmented where the consumer is."""
    dataset = memory_groups([3] * 20)
    for changes in ({}, {"small_crops": SynClrConfig(num_local_crops=2, local_size_px=8)}):
        ahead, late = (list(loader(dataset, augment_in=place, **changes).batches(0, 3)) for place in ("workers", "device"))
        for one, other in zip(ahead, late, strict=True):
            assert_equal(one, other)
            assert bool(changes) == (one.local_LNCHW is not None and torch.equal(one.local_LNCHW, other.local_LNCHW))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_small_crops_belong_to_their_images_on_any_number_of_ranks(memory_groups: Callable[..., Any], world_size: int) -> None:
    dataset, crops = memory_groups([3] * 20), SynClrConfig(num_local_crops=2, local_size_px=16, local_scale_min=1.0, local_scale_max=1.0)
    changes = {"augment": PLAIN, "small_crops": crops, "world_size": world_size}
    parts = [next(loader(dataset, rank=rank, **changes).batches(4, 1)) for rank in range(world_size)]
    local, views = (torch.cat([getattr(part, name) for part in parts], 1) for name in ("local_LNCHW", "views_MNCHW"))
    assert local.shape == (6, 8, 3, 16, 16)
    assert torch.equal(local, views.repeat(2, 1, 1, 1, 1))  # nothing is changed: crop-major, all images' first crop first
    keys = torch.cat([part.view_key_MN for part in parts], 1)
    assert torch.equal(keys, next(loader(dataset, **changes | {"world_size": 1}).batches(4, 1)).view_key_MN)
    assert keys.unique().numel() == 24
    changed = next(loader(dataset, small_crops=crops).batches(4, 1)).local_LNCHW
    assert not torch.allclose(changed[:3], changed[3:], atol=0.05)


@pytest.mark.parametrize(("image_format", "error"), [("png", 0.0), ("jpeg", 0.06), ("webp", 0.06)])
def test_stored_formats_give_one_order_and_nearly_one_picture(store: Store, image_format: str, error: float) -> None:
    """Shards of every format that a recipe can ask for, read by one, two and four ranks."""
    y, x = torch.meshgrid(torch.linspace(0, 255, 32), torch.linspace(0, 255, 32), indexing="ij")
    images = {}
    groups = []
    for number in range(8):
        caption = Caption(hashlib.sha256(f"{number}".encode()).hexdigest()[:16], f"{number}")
        pixels = [torch.stack([y, x, torch.full_like(x, 20.0 * number + 5 * index)], 2).to(torch.uint8).numpy() for index in range(3)]
        images[caption.caption_id] = torch.stack([torch.from_numpy(each).permute(2, 0, 1) for each in pixels])
        groups.append(ImageGroup(caption, tuple(encode_image(each, image_format, 95) for each in pixels), image_format))
    dataset = GroupDataset(store, commit_tiny(store, groups))
    changes = {"augment": PLAIN, "size_px": 32, "mean": (0, 0, 0), "std": (1, 1, 1)}
    (whole,) = loader(dataset, **changes).batches(2, 1)
    for number, caption_id in enumerate(whole.caption_ids):
        found = whole.views_MNCHW[:, number].sort(0).values
        assert float((found - images[caption_id].sort(0).values / 255).abs().max()) <= error + 1e-4
    for world_size in (2, 4):
        parts = [next(loader(dataset, **changes, rank=rank, world_size=world_size).batches(2, 1)) for rank in range(world_size)]
        assert sum((part.caption_ids for part in parts), ()) == whole.caption_ids
        assert torch.equal(torch.cat([part.views_MNCHW for part in parts], 1), whole.views_MNCHW)


def test_the_position_is_small_and_says_where_the_run_is(memory_groups: Callable[..., Any]) -> None:
    found = loader(memory_groups([3] * 27), seed=4)  # 3 steps an epoch
    position = found.position(7)
    assert position["epoch"] == 2
    assert position["batch_of_epoch"] == 1
    assert len(json.dumps(position)) < 300
    found.check_position(json.loads(json.dumps(position)))


def test_a_position_does_not_depend_on_ranks(memory_groups: Callable[..., Any]) -> None:
    dataset = memory_groups([3] * 27)
    loader(dataset, rank=1, world_size=4).check_position(loader(dataset).position(5))


def test_another_order_is_refused(memory_groups: Callable[..., Any]) -> None:
    found = loader(memory_groups([3] * 27))
    with pytest.raises(CheckpointError, match=r"same order of groups, found: seed was 1 and is 0; num_groups was 30 and is 27; continue"):
        found.check_position(loader(memory_groups([3] * 30), seed=1).position(2))
    with pytest.raises(CheckpointError, match="images_per_caption was 2 and is 3"):
        found.check_position(loader(memory_groups([3] * 27), images_per_caption=2).position(2))
    with pytest.raises(CheckpointError, match="captions_per_batch was None"):
        found.check_position({"step": 3})


def test_global_random_state_is_left_alone(memory_groups: Callable[..., Any]) -> None:
    before = torch.random.get_rng_state()
    list(loader(memory_groups([3] * 8), augment=replace(QUICKSTART, hue=0.1)).batches(0, 2))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("augment_in", ["workers", "device"])
@pytest.mark.parametrize("views_per_image", [1, 2])
def test_weights_are_those_of_the_drawn_images(memory_groups: Callable[..., Any], augment_in: str, views_per_image: int) -> None:
    groups = memory_groups([5] * 10)
    for position, index in itertools.product(range(10), range(5)):
        pixels = np.full((16, 16, 3), 20 * position + index, dtype=np.uint8)
        groups.replace(position, index, encode_image(pixels, "png", 0))
    settings = {"augment": PLAIN, "mean": (0.0,) * 3, "std": (1.0,) * 3, "augment_in": augment_in, "views_per_image": views_per_image}
    weighted = loader(groups, image_weights=lambda position: [20.0 * position + index for index in range(5)], **settings)
    for batch, plain in zip(weighted.batches(0, 3), loader(groups, **settings).batches(0, 3), strict=True):
        assert plain.weights_MN is None
        assert plain.extras() == {}
        assert torch.equal(batch.views_MNCHW, plain.views_MNCHW)
        assert batch.weights_MN is not None
        torch.testing.assert_close(batch.weights_MN, batch.views_MNCHW.mean((2, 3, 4)) * 255, rtol=0, atol=0.1)
        assert batch.extras()["weights_MN"] is batch.weights_MN
