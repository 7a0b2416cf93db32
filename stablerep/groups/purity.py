"""Whether the images of a group show one thing, and whether they differ: purity and diversity, with bootstrap intervals over groups.

Multi-positive learning makes an encoder blind to whatever varies inside a group, so a group that mixes things teaches the wrong lesson.
With class labels from a judge, the purity of a group is the share of its most frequent class. Without labels it is the share of images that
agree with the rest of their group: an image agrees when it is nearer to the leave-one-out centroid of its own group than to every reference
group, or when the nearest reference of both is the same. References are groups that lie far apart (greedy farthest point), so that they
stand for different things. Diversity is the mean distance of two images of a group over that of two images of different groups.

Dimension key: G groups, N images of all of them, F features, R references.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

NUM_REFERENCES = 12
NUM_BOOTSTRAP = 1000


@dataclass(frozen=True)
class Estimate:
    """A mean over groups with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def labelled_purity(labels_N: Sequence[int] | IntArray, group_N: IntArray) -> FloatArray:
    """Share of the most frequent class in each group: [G].

    Args:
        labels_N: class of every image, by a judge.
        group_N: its group, from 0, in any order.
    """
    labels, purity = np.asarray(labels_N), np.empty(int(group_N.max()) + 1)
    for group in range(len(purity)):
        members = labels[group_N == group].tolist()
        purity[group] = Counter(members).most_common(1)[0][1] / len(members)
    return purity


def unlabelled_purity(row_NF: FloatArray, group_N: IntArray) -> FloatArray:
    """Share of images that agree with the rest of their group, for each group: [G].

    Args:
        row_NF: features of every image, on one scale.
        group_N: its group, from 0; groups have 2 images or more.
    """
    centroid_GF, sizes_G = _centroids(row_NF, group_N)
    reference_RF = centroid_GF[_far_apart(centroid_GF, min(NUM_REFERENCES, len(centroid_GF)))]
    others_NF = _without(row_NF, centroid_GF[group_N], sizes_G[group_N])
    to_reference_NR = _distances(row_NF, reference_RF)
    to_own_N = np.linalg.norm(row_NF - others_NF, axis=1)
    is_same_N = to_reference_NR.argmin(1) == _distances(others_NF, reference_RF).argmin(1)
    agrees_N = is_same_N | (to_own_N < to_reference_NR.min(1))
    return np.bincount(group_N, weights=agrees_N) / sizes_G


def diversity(row_NF: FloatArray, group_N: IntArray) -> FloatArray:
    """Mean distance of two images of a group over the mean distance of two images of different groups, for each group: [G].

    Args:
        row_NF: features of every image.
        group_N: its group, from 0; groups have 2 images or more.
    """
    distance_NN = _distances(row_NF, row_NF)
    is_same_NN = group_N[:, None] == group_N
    between = float(distance_NN[~is_same_NN].mean()) if not is_same_NN.all() else 1.0
    sizes_G = np.bincount(group_N)
    inside_G = np.bincount(group_N, weights=(distance_NN * is_same_NN).sum(1)) / (sizes_G * np.maximum(sizes_G - 1, 1))
    return inside_G / max(between, 1e-12)


def estimate(values_G: FloatArray, seed: int = 0) -> Estimate:
    """Mean over groups, and the interval that resampled groups give."""
    rng = np.random.default_rng(seed)
    means = [float(values_G[rng.integers(0, len(values_G), len(values_G))].mean()) for _ in range(NUM_BOOTSTRAP)]
    low, high = np.quantile(means, (0.025, 0.975))
    return Estimate(*(round(float(value), 4) for value in (values_G.mean(), low, high)))


def _centroids(row_NF: FloatArray, group_N: IntArray) -> tuple[FloatArray, IntArray]:
    sizes_G = np.bincount(group_N)
    sum_GF = np.zeros((len(sizes_G), row_NF.shape[1]))
    np.add.at(sum_GF, group_N, row_NF)
    return sum_GF / sizes_G[:, None], sizes_G


def _without(row_NF: FloatArray, centroid_NF: FloatArray, sizes_N: IntArray) -> FloatArray:
    """Centroid of each image's group without the image."""
    return (centroid_NF * sizes_N[:, None] - row_NF) / (sizes_N[:, None] - 1)


def _far_apart(centroid_GF: FloatArray, count: int) -> list[int]:
    """Greedy farthest points, from the one that is farthest from the mean of all."""
    chosen = [int(np.linalg.norm(centroid_GF - centroid_GF.mean(0), axis=1).argmax())]
    nearest_G = np.linalg.norm(centroid_GF - centroid_GF[chosen[0]], axis=1)
    while len(chosen) < count:
        chosen.append(int(nearest_G.argmax()))
        nearest_G = np.minimum(nearest_G, np.linalg.norm(centroid_GF - centroid_GF[chosen[-1]], axis=1))
    return chosen


def _distances(first_NF: FloatArray, second_RF: FloatArray) -> FloatArray:
    squared_NR = (first_NF**2).sum(1)[:, None] + (second_RF**2).sum(1) - 2 * first_NF @ second_RF.T
    return np.sqrt(np.maximum(squared_NR, 0))
