"""Whether a faster sampler setting is equal to another: k-NN accuracy and diversity within groups, with 95 % intervals, and the verdict.

Equal is a claim about both: the accuracy of an encoder trained on its images falls by at most half a point, and the mean distance inside
a group is at least 0.95 of the other's. It is made only where the whole interval says so; denied only where a whole interval denies it.

Dimension key: G groups, M images of a group, F features, D training seeds, Q test images.
"""

# pyright: reportUnknownMemberType=false
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from stablerep.errors import DataError
from stablerep.probes.bootstrap import LEVEL, paired_difference
from stablerep.probes.protocol import BoolArray

MAX_DROP_POINTS, MIN_DIVERSITY_RATIO = 0.5, 0.95

FloatArray = npt.NDArray[np.float64]
Verdict = Literal["equal", "not equal", "not known"]


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


def knn_drop_points(correct_a_DQ: BoolArray, correct_b_DQ: BoolArray, num_bootstrap: int, seed: int) -> Interval:
    """Accuracy of A minus that of B in points, above 0 where B is worse; test images and training seeds are drawn, the same for both."""
    return Interval(*(100 * value for value in paired_difference(correct_a_DQ, correct_b_DQ, num_bootstrap, seed)))


def group_distance(points_MF: FloatArray) -> float:
    """Mean Euclidean distance of all pairs of images of a group.

    Raises:
        DataError: fewer than 2 images.
    """
    if len(points_MF) < 2:
        raise DataError(f"expected a group of 2 images or more, found {len(points_MF)}")
    first, second = np.triu_indices(len(points_MF), 1)
    return float(np.linalg.norm(points_MF[first] - points_MF[second], axis=1).mean())


def diversity_ratio(distance_a_G: FloatArray, distance_b_G: FloatArray, num_bootstrap: int, seed: int) -> Interval:
    """Mean distance inside groups, B over A; groups of the same captions in the same order are drawn together.

    Raises:
        DataError: not the same number of groups, none, or groups of A whose images are all the same.
    """
    num_groups = len(distance_a_G)
    if num_groups != len(distance_b_G) or not num_groups or distance_a_G.min() <= 0:
        raise DataError(
            f"expected groups of the same captions with images that differ, found {num_groups} and {len(distance_b_G)} groups"
            + (f", least distance {distance_a_G.min():g}" if num_groups else "")
        )
    drawn_BG = np.random.default_rng(seed).integers(0, num_groups, (num_bootstrap, num_groups))
    ratio_B = distance_b_G[drawn_BG].mean(1) / distance_a_G[drawn_BG].mean(1)
    low, high = np.quantile(ratio_B, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(float(distance_b_G.mean() / distance_a_G.mean()), float(low), float(high))


def verdict(drop: Interval, diversity: Interval) -> Verdict:
    """What may be said of B.

    Args:
        drop: of k-NN, in points.
        diversity: ratio, B over A.
    """
    if drop.low > MAX_DROP_POINTS or diversity.high < MIN_DIVERSITY_RATIO:
        return "not equal"
    if drop.high <= MAX_DROP_POINTS and diversity.low >= MIN_DIVERSITY_RATIO:
        return "equal"
    return "not known"
