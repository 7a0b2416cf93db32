"""A group is judged by its own images and caption alone, and what is judged unfit is kept, dropped, weighed down or made again."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from stablerep.errors import DataError
from stablerep.groups.inspection import GroupScores, Inspector, Thresholds, score_group
from stablerep.groups.make import make_shard
from stablerep.groups.sampler import ImageHW3, ImageRequest
from stablerep.records import Caption
from stablerep.shards.group import ImageGroup
from stablerep.shards.write import pack_shard

SIZE_PX = 8
CAPTIONS = [Caption(f"caption{number}", f"text {number}") for number in range(4)]

Wrong = dict[tuple[str, int], str]


class MarkedSampler:
    """Noise whose first pixel says whether the image is as it should be (255), of something else (0), or odd in its group (128)."""

    size_px = SIZE_PX

    def __init__(self, wrong: Wrong | None = None) -> None:
        self.wrong = wrong or {}
        self.num_made = 0

    def sample(self, requests: Sequence[ImageRequest]) -> list[ImageHW3 | None]:
        self.num_made += len(requests)
        return [self._image(request) for request in requests]

    def _image(self, request: ImageRequest) -> ImageHW3 | None:
        what = self.wrong.get((request.caption_id, request.image_index), "")
        if what == "nonfinite":
            return None
        seed = hashlib.sha256(f"{request.caption_id}/{request.image_index}".encode()).digest()[0]
        image = np.random.default_rng(seed).integers(1, 255, (SIZE_PX, SIZE_PX, 3)).astype(np.uint8)
        image[0, 0] = {"": 255, "other": 0, "odd": 128}[what]
        return image


class MarkReader:
    """An agreement model that reads the mark: right images agree fully, odd ones somewhat, others not at all."""

    identity = "marks"

    def __init__(self) -> None:
        self.calls: list[int] = []

    def embed_images(self, images: Sequence[ImageHW3]) -> Any:
        self.calls.append(len(images))
        rows = {255: (1.0, 0.0, 0.0), 0: (0.0, 1.0, 0.0), 128: (0.6, 0.0, 0.8)}
        return np.array([rows[int(image[0, 0, 0])] for image in images])

    def embed_text(self, text: str) -> Any:
        return np.array([1.0, 0.0, 0.0])


def _make(wrong: Wrong, captions: Sequence[Caption] = CAPTIONS, **changes: Any) -> tuple[list[ImageGroup], dict[str, int], MarkedSampler]:
    arguments = {"batch_size": 5, "max_retries": 2, "num_images": 4} | {
        k: changes.pop(k) for k in list(changes) if k in ("batch_size", "max_retries", "num_images")
    }
    sampler = MarkedSampler(wrong)
    groups, counts = make_shard(
        sampler,
        captions,
        images_per_caption=arguments["num_images"],
        batch_size=arguments["batch_size"],
        image_format="png",
        image_quality=90,
        max_retries=arguments["max_retries"],
        inspector=Inspector(MarkReader(), Thresholds(**({"min_agreement": 0.5} | changes))),
    )
    return groups, counts, sampler


def _indices(group: ImageGroup) -> list[int]:
    return group.metadata["noise_indices"]


def test_scores_are_the_cosines_written_out() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(5, 7))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    text = rows[0]
    scores = score_group(rows, text)
    for place, row in enumerate(rows):
        centroid = np.mean([other for i, other in enumerate(rows) if i != place], axis=0)
        cosine = row @ centroid / np.linalg.norm(centroid)
        assert scores.agreement[place] == pytest.approx(row @ text, abs=5.1e-5)
        assert scores.centroid_distance[place] == pytest.approx(1 - cosine, abs=5.1e-5)
    assert score_group(rows[:1], text) == GroupScores((1.0,), ())


def test_keep_stores_every_image_with_its_scores_and_counts_those_that_fail() -> None:
    groups, counts, sampler = _make({("caption1", 2): "other"}, policy="keep")
    assert counts == {"good": 16, "kept_disagreeing": 1}
    assert sampler.num_made == 20, "four batches of five hold sixteen images"
    assert groups[1].metadata["noise_indices"] == [0, 1, 2, 3]
    assert groups[1].metadata["flags"] == ["", "", "disagreeing", ""]
    assert groups[1].metadata["scores"]["agreement"] == [1.0, 1.0, 0.0, 1.0]
    assert groups[0].metadata == {"noise_indices": [0, 1, 2, 3], "scores": {"agreement": [1.0] * 4, "centroid_distance": [0.0] * 4}}


def test_drop_leaves_an_image_out_and_does_not_make_it_again() -> None:
    groups, counts, sampler = _make({("caption1", 2): "other"}, policy="drop")
    assert counts == {"good": 15, "disagreeing": 1, "missing": 1}
    assert _indices(groups[1]) == [0, 1, 3]
    assert groups[1].metadata["scores"] == {"agreement": [1.0] * 3, "centroid_distance": [0.0] * 3}, "of what is stored"
    assert sampler.num_made == 20


def test_regenerate_takes_the_next_noise_and_is_bounded() -> None:
    groups, counts, _ = _make({("caption1", 2): "other", ("caption1", 4): "other"}, policy="regenerate")
    assert counts == {"good": 16, "disagreeing": 2}
    assert _indices(groups[1]) == [0, 1, 5, 3]
    always: Wrong = {("caption1", index): "other" for index in (2, 4, 5)}
    groups, counts, _ = _make(always, policy="regenerate")
    assert counts == {"good": 15, "disagreeing": 3, "missing": 1}
    assert _indices(groups[1]) == [0, 1, 3]


def test_down_weight_keeps_the_image_with_its_weight() -> None:
    groups, counts, _ = _make({("caption1", 2): "other"}, policy="down_weight", down_weight=0.1)
    assert counts == {"good": 16, "weighted_disagreeing": 1}
    assert groups[1].metadata["weights"] == [1.0, 1.0, 0.1, 1.0]
    assert "weights" not in groups[0].metadata


@pytest.mark.parametrize(("policy", "failed"), [("drop", 3), ("regenerate", 9)])
def test_a_group_that_is_left_with_one_image_is_dropped_and_counted(policy: str, failed: int) -> None:
    wrong: Wrong = {("caption2", index): "other" for index in range(1, 20)}
    groups, counts, _ = _make(wrong, policy=policy)
    assert [group.caption for group in groups] == [CAPTIONS[0], CAPTIONS[1], CAPTIONS[3]]
    assert counts == {"good": 12, "disagreeing": failed, "missing": 4, "dropped_groups": 1}


def test_a_sampler_that_fails_is_still_an_error() -> None:
    wrong: Wrong = {("caption2", index): "nonfinite" for index in range(20)}
    with pytest.raises(DataError, match=r"caption2 .* expected 2 good images or more, found 0 after 2 retries"):
        _make(wrong, policy="drop")


def test_the_mean_of_a_group_counts_where_single_images_pass() -> None:
    wrong: Wrong = {("caption0", index): "odd" for index in (0, 1, 2)}  # mean .7
    kept, _, _ = _make(wrong, policy="drop", min_group_agreement=0.69)
    assert len(kept) == 4
    left, counts, _ = _make(wrong, policy="drop", min_group_agreement=0.71)
    assert [group.caption for group in left] == CAPTIONS[1:]
    assert counts["disagreeing"] == 4


def test_an_image_far_from_the_others_is_outlying() -> None:
    groups, counts, _ = _make({("caption3", 1): "odd"}, policy="regenerate", max_centroid_distance=0.3)
    assert counts == {"good": 16, "outlying": 1}
    assert _indices(groups[3]) == [0, 4, 2, 3]


@pytest.mark.parametrize("policy", ["keep", "drop", "down_weight", "regenerate"])
def test_the_bytes_are_a_function_of_the_caption_and_not_of_batches_or_neighbours(policy: str) -> None:
    wrong: Wrong = {
        ("caption1", 2): "other",
        ("caption1", 4): "other",
        ("caption3", 0): "nonfinite",
        ("caption3", 1): "odd",
        ("caption0", 3): "other",
    }
    settings: dict[str, Any] = {"policy": policy, "max_centroid_distance": 0.3}
    together, counts, _ = _make(wrong, **settings)
    for batch_size in (1, 3, 16):
        again, same, _ = _make(wrong, batch_size=batch_size, **settings)
        assert pack_shard(again) == pack_shard(together)
        assert same == counts
    for number, caption in enumerate(CAPTIONS):
        assert _make(wrong, [caption], **settings)[0] == [together[number]]


def test_no_inspector_keeps_nothing() -> None:
    groups, _ = make_shard(
        MarkedSampler(), CAPTIONS, images_per_caption=2, batch_size=4, image_format="png", image_quality=90, max_retries=0
    )
    assert groups[0].metadata == {"noise_indices": [0, 1]}
