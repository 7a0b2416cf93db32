"""Percentile bootstrap of accuracies and of differences of accuracies on the same test images (Efron 1979), numpy only.

Test images are drawn with replacement, and so are the label draws where there are several. Equal seeds draw the same images, so a
difference is paired image by image: what makes an image hard for both encoders cancels.

Dimension key: D draws of labels, N test images.
"""

from typing import cast

import numpy as np
import numpy.typing as npt

from stablerep.errors import DataError
from stablerep.probes.protocol import BoolArray, Int64Array

LEVEL = 0.95


def accuracy_interval(correct_DN: BoolArray, num_bootstrap: int, seed: int) -> tuple[float, float]:
    """The 95 % interval of the mean of `correct_DN`.

    Args:
        correct_DN: whether each test image was answered right, per draw of labels.
        num_bootstrap: resamplings.
        seed: of the resamplings.
    """
    return _percentiles(_resampled(correct_DN, num_bootstrap, seed))


def paired_difference(first_DN: BoolArray, second_DN: BoolArray, num_bootstrap: int, seed: int) -> tuple[float, float, float]:
    """Accuracy of the first minus that of the second on the same test images: mean, low, high.

    Raises:
        DataError: the two were not measured on equally many test images.
    """
    if first_DN.shape[1] != second_DN.shape[1]:
        raise DataError(f"expected answers to the same test images, found {first_DN.shape[1]} and {second_DN.shape[1]} answers")
    difference_B = _resampled(first_DN, num_bootstrap, seed) - _resampled(second_DN, num_bootstrap, seed)
    return float(first_DN.mean() - second_DN.mean()), *_percentiles(difference_B)


def _resampled(correct_DN: BoolArray, num_bootstrap: int, seed: int) -> npt.NDArray[np.float64]:
    num_draws, num_images = correct_DN.shape
    image_rng, draw_rng = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    means_B = np.empty(num_bootstrap)
    for b in range(num_bootstrap):
        drawn_N = cast("Int64Array", image_rng.integers(0, num_images, num_images))  # pyright: ignore[reportUnknownMemberType]
        counts_N = np.bincount(drawn_N, minlength=num_images)
        accuracy_D = correct_DN @ counts_N / num_images
        means_B[b] = accuracy_D[draw_rng.integers(0, num_draws, num_draws)].mean()
    return means_B


def _percentiles(values_B: npt.NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(values_B, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)
