"""A shard is made of captions alone: retries, missing images, encoding, order. The sampler is a fake that can be told to fail."""

import hashlib
import io
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from stablerep.config.schema import GenerateConfig
from stablerep.errors import DataError
from stablerep.groups.make import encode_image, make_shard, spec
from stablerep.groups.quality import difference
from stablerep.groups.sampler import ImageHW3, ImageRequest
from stablerep.records import Caption
from stablerep.shards.group import ImageGroup
from stablerep.shards.write import pack_shard

CAPTIONS = [Caption(f"caption{number}", f"text {number}") for number in range(5)]
SIZE_PX = 16

Failures = dict[tuple[str, int], str]


class FakeSampler:
    """Random pixels, a function of caption and index; `failures` says which images go wrong and how."""

    size_px = SIZE_PX

    def __init__(self, failures: Failures | None = None) -> None:
        self.failures = failures or {}
        self.calls: list[list[ImageRequest]] = []

    def sample(self, requests: Sequence[ImageRequest]) -> list[ImageHW3 | None]:
        self.calls.append(list(requests))
        return [self.image(request.caption_id, request.image_index) for request in requests]

    def image(self, caption_id: str, image_index: int) -> ImageHW3 | None:
        failure = self.failures.get((caption_id, image_index), "")
        if failure == "nonfinite":
            return None
        if failure == "black":
            return np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8)
        if failure == "constant":
            return np.full((SIZE_PX, SIZE_PX, 3), 99, np.uint8)
        if failure == "duplicate":
            return self.image(caption_id, 0)
        seed = int.from_bytes(hashlib.sha256(f"{caption_id}/{image_index}".encode()).digest()[:4], "big")
        return np.random.default_rng(seed).integers(0, 256, (SIZE_PX, SIZE_PX, 3)).astype(np.uint8)


def _make(
    sampler: FakeSampler, captions: Sequence[Caption] = CAPTIONS, *, num_images: int = 3, batch_size: int = 4, max_retries: int = 2
) -> tuple[list[ImageGroup], dict[str, int]]:
    return make_shard(
        sampler,
        captions,
        images_per_caption=num_images,
        batch_size=batch_size,
        image_format="png",
        image_quality=90,
        max_retries=max_retries,
    )


def _pixels(data: bytes) -> ImageHW3:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _expect(group: ImageGroup, indices: list[int]) -> None:
    """The group holds the images of these noise indices, in this order."""
    assert group.metadata == {"noise_indices": indices}
    made = [FakeSampler().image(group.caption.caption_id, index) for index in indices]
    assert len(group.images) == len(indices)
    assert all(image is not None and np.array_equal(_pixels(data), image) for data, image in zip(group.images, made, strict=True))


def test_every_caption_gets_its_images_in_order() -> None:
    groups, counts = _make(FakeSampler())
    assert [group.caption for group in groups] == CAPTIONS
    assert counts == {"good": 15}
    for group in groups:
        _expect(group, [0, 1, 2])


@pytest.mark.parametrize("batch_size", [1, 2, 4, 15, 64])
def test_every_call_is_of_the_batch_size_and_the_bytes_do_not_depend_on_it(batch_size: int) -> None:
    failures: Failures = {("caption1", 1): "black", ("caption3", 1): "duplicate", ("caption3", 2): "nonfinite", ("caption3", 3): "constant"}
    sampler = FakeSampler(failures)
    groups, counts = _make(sampler, batch_size=batch_size)
    assert {len(call) for call in sampler.calls} == {batch_size}
    assert pack_shard(groups) == pack_shard(_make(FakeSampler(failures), batch_size=7)[0])
    assert counts == {"good": 15, "black": 1, "duplicate": 1, "nonfinite": 1, "constant": 1}
    num_wanted = 15 + 3 + 1
    assert sum(len(call) for call in sampler.calls) < num_wanted + 3 * batch_size, "three rounds, each filled up once at most"


def test_a_caption_alone_gives_the_same_group() -> None:
    failures: Failures = {("caption1", 1): "black", ("caption2", 0): "constant"}
    together, _ = _make(FakeSampler(failures))
    for number, caption in enumerate(CAPTIONS):
        assert _make(FakeSampler(failures), [caption])[0] == [together[number]]


@pytest.mark.parametrize("failure", ["nonfinite", "black", "constant", "duplicate"])
def test_a_bad_image_is_replaced_by_the_next_noise(failure: str) -> None:
    groups, counts = _make(FakeSampler({("caption2", 1): failure}))
    _expect(groups[2], [0, 3, 2])
    assert counts == {"good": 15, failure: 1}


def test_retries_take_indices_nobody_used() -> None:
    failures: Failures = {("caption0", 0): "black", ("caption0", 2): "black", ("caption0", 3): "constant"}
    groups, counts = _make(FakeSampler(failures))
    _expect(groups[0], [5, 1, 4])
    assert counts == {"good": 15, "black": 2, "constant": 1}


def test_images_that_stay_bad_are_left_out_and_counted() -> None:
    failures: Failures = {("caption4", index): "nonfinite" for index in (1, 3, 4)}
    groups, counts = _make(FakeSampler(failures))
    _expect(groups[4], [0, 2])
    _expect(groups[3], [0, 1, 2])
    assert counts == {"good": 14, "nonfinite": 3, "missing": 1}


def test_a_group_with_fewer_than_two_images_is_an_error() -> None:
    failures: Failures = {("caption1", index): "black" if index % 2 else "nonfinite" for index in range(1, 10)}
    with pytest.raises(DataError, match=r"caption caption1 \('text 1'\): expected 2 good images or more, found 1 after 2 retries of each "):
        _make(FakeSampler(failures))
    with pytest.raises(DataError, match=r"\(3 black, 3 nonfinite\); try dtype fp32"):
        _make(FakeSampler(failures))


def test_no_retries() -> None:
    groups, counts = _make(FakeSampler({("caption0", 0): "black"}), max_retries=0)
    _expect(groups[0], [1, 2])
    assert counts == {"good": 14, "black": 1, "missing": 1}


def test_on_images_sees_every_verdict_and_can_stop_the_work() -> None:
    seen: list[dict[str, int]] = []
    failures: Failures = {("caption0", 1): "black"}

    def on_images(verdicts: dict[str, int]) -> None:
        seen.append(verdicts)
        if len(seen) == 3:
            raise InterruptedError

    sampler = FakeSampler(failures)
    with pytest.raises(InterruptedError):
        make_shard(
            sampler,
            CAPTIONS,
            images_per_caption=3,
            batch_size=5,
            image_format="png",
            image_quality=90,
            max_retries=2,
            on_images=on_images,
        )
    assert seen == [{"good": 4, "black": 1}, {"good": 5}, {"good": 5}]
    assert len(sampler.calls) == 3


@pytest.mark.parametrize(("image_format", "kind"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_encoding_is_deterministic_and_close(image_format: str, kind: str) -> None:
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    image = np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[:, None], (1, 64)), np.full((64, 64), 90, np.uint8)], 2)
    first, second = (encode_image(image, image_format, 90) for _ in range(2))
    assert first == second
    assert Image.open(io.BytesIO(first)).format == kind
    assert difference(_pixels(first), image) <= (0 if image_format == "png" else 3)
    if image_format != "png":
        assert len(encode_image(image, image_format, 30)) < len(first)


def test_the_spec_names_what_decides_the_images() -> None:
    import dataclasses

    settings = dataclasses.asdict(GenerateConfig())
    base = spec(settings)
    how = {"batch_size": 9, "device": "cuda:3", "is_compiled": True, "is_vae_sliced": True}
    assert spec({**settings, **how}) == base
    changed = {
        "images_per_caption": 4,
        "scheduler": "dpm++",
        "num_inference_steps": 8,
        "num_base_steps": 1,
        "guidance": 3.0,
        "negative_prompt": "blurry",
        "noise_seed": 1,
        "dtype": "fp32",
        "stored_size_px": 128,
        "image_format": "webp",
        "image_quality": 80,
        "max_retries_per_image": 5,
    }
    assert set(changed) | set(how) == set(settings), "a new setting must be put on one side or the other"
    specs = [spec({**settings, name: value}) for name, value in changed.items()]
    assert all(x != base for x in specs)
    assert spec({**settings, "image_format": "png", "image_quality": 1}) == spec({**settings, "image_format": "png"})
    assert base["quality"] == {"black_max": 10, "constant_std": 2.0, "duplicate_difference": 1.0}
