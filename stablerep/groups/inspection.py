"""What a group's images score, and what a recipe makes of it: keep, drop, weigh down, or make again.

Agreement is the cosine of an image and its caption in a two-tower model; the distance to the leave-one-out centroid is 1 minus the cosine
of an image and the mean of the other images of its group. Both, and the decision, are a function of one group's images and caption:
neighbours, batches, lanes and restarts do not appear. No model is loaded here, only arithmetic on embeddings.

Dimension key: M images of a caption, D embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from stablerep.groups.sampler import ImageHW3

FloatArray = npt.NDArray[np.float64]
Policy = Literal["keep", "drop", "down_weight", "regenerate"]
Flag = Literal["", "disagreeing", "outlying"]
FLAGS = ("disagreeing", "outlying")

DIGITS = 4  # scores are kept, and compared, with so many: finer ones are noise of the arithmetic


class AgreementModel(Protocol):
    """Two towers that put images and captions in one space."""

    @property
    def identity(self) -> str:
        """Digest of what decides its embeddings."""
        ...

    def embed_images(self, images: Sequence[ImageHW3]) -> FloatArray:
        """Rows of length 1: [M,D]."""
        ...

    def embed_text(self, text: str) -> FloatArray:
        """A row of length 1: [D]."""
        ...


@dataclass(frozen=True)
class GroupScores:
    """Of every image of a group: agreement with the caption, and distance to the centroid of the others (none for a single image)."""

    agreement: tuple[float, ...]
    centroid_distance: tuple[float, ...]

    @property
    def mean_agreement(self) -> float:
        """Of the group."""
        return float(np.mean(self.agreement))


@dataclass(frozen=True)
class Thresholds:
    """What a recipe says of scores.

    Attributes:
        policy: what becomes of an image that fails.
        min_agreement: an image below fails.
        min_group_agreement: all images of a group whose mean agreement is below fail: one score is noisy, the mean of M is not.
        max_centroid_distance: an image above fails.
        down_weight: weight in the loss of an image that fails and is weighed down.
    """

    policy: Policy = "keep"
    min_agreement: float = -1.0
    min_group_agreement: float = -1.0
    max_centroid_distance: float = 2.0
    down_weight: float = 0.25

    def flags(self, scores: GroupScores) -> tuple[Flag, ...]:
        """Why each image fails; empty where it does not."""
        if scores.mean_agreement < self.min_group_agreement:
            return ("disagreeing",) * len(scores.agreement)
        distances = scores.centroid_distance or (0.0,) * len(scores.agreement)
        return tuple(self._flag(agreement, distance) for agreement, distance in zip(scores.agreement, distances, strict=True))

    def _flag(self, agreement: float, distance: float) -> Flag:
        if agreement < self.min_agreement:
            return "disagreeing"
        return "outlying" if distance > self.max_centroid_distance else ""


class Inspector:
    """Scores groups by a model and judges them by a recipe.

    Args:
        model: gives the embeddings.
        thresholds: of the recipe.
    """

    def __init__(self, model: AgreementModel, thresholds: Thresholds) -> None:
        self._model, self.thresholds = model, thresholds

    @property
    def removes(self) -> bool:
        """Whether images that fail are taken out of their group."""
        return self.thresholds.policy in ("drop", "regenerate")

    @property
    def retries(self) -> bool:
        """Whether images that fail are made again, with the next noise index."""
        return self.thresholds.policy == "regenerate"

    def scores(self, text: str, images: Sequence[ImageHW3]) -> GroupScores:
        """The scores of one group's images."""
        return score_group(self._model.embed_images(images), self._model.embed_text(text))

    def flags(self, scores: GroupScores) -> tuple[Flag, ...]:
        """Why each image of a group fails; empty where it does not."""
        return self.thresholds.flags(scores)

    def facts(self, scores: GroupScores) -> dict[str, Any]:
        """What is kept with the group, as plain JSON: scores, flags where an image that stays has one, weights where they are not all 1."""
        kept: dict[str, Any] = {"scores": {"agreement": list(scores.agreement), "centroid_distance": list(scores.centroid_distance)}}
        flags = self.flags(scores)
        if any(flags) and not self.removes:
            kept["flags"] = list(flags)
            if self.thresholds.policy == "down_weight":
                kept["weights"] = [self.thresholds.down_weight if flag else 1.0 for flag in flags]
        return kept


def score_group(image_MD: FloatArray, text_D: FloatArray) -> GroupScores:
    """The scores of a group from rows of length 1."""
    agreement_M = image_MD @ text_D
    distance_M: FloatArray = np.zeros(0)
    if len(image_MD) > 1:
        others_MD = image_MD.sum(0) - image_MD  # a mean has the direction of its sum
        lengths_M = np.maximum(np.linalg.norm(others_MD, axis=1), 1e-12)
        distance_M = 1 - (image_MD * others_MD).sum(1) / lengths_M
    return GroupScores(_rounded(agreement_M), _rounded(distance_M))


def _rounded(values: FloatArray) -> tuple[float, ...]:
    return tuple(round(float(value), DIGITS) + 0.0 for value in values)  # + 0.0: no negative zero
