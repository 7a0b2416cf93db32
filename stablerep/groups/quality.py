"""What is wrong with an image, judged without a model: failures of the sampler, not of taste.

A black or constant image is what half precision leaves of an overflow; a duplicate inside a group is a positive pair that teaches
nothing (and a sign of repeated noise). Agreement with the caption is not judged here.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from stablerep.groups.sampler import ImageHW3

Verdict = Literal["good", "nonfinite", "black", "constant", "duplicate"]

BLACK_MAX = 10  # grey levels: nothing is brighter
CONSTANT_STD = 2.0  # grey levels: no channel varies more over the image
DUPLICATE_DIFFERENCE = 1.0  # grey levels: mean absolute difference to another image of the group is below


def judge(image: ImageHW3 | None, others: Sequence[ImageHW3] = ()) -> Verdict:
    """The verdict on one image.

    Args:
        image: uint8 [H,W,3], or None where the model's numbers were not finite.
        others: the good images of the same group so far.
    """
    if image is None:
        return "nonfinite"
    if int(image.max()) <= BLACK_MAX:
        return "black"
    if float(image.std(axis=(0, 1)).max()) < CONSTANT_STD:
        return "constant"
    if any(difference(image, other) < DUPLICATE_DIFFERENCE for other in others):
        return "duplicate"
    return "good"


def difference(first: ImageHW3, second: ImageHW3) -> float:
    """Mean absolute difference of two images in grey levels, 0 to 255."""
    return float(np.abs(first.astype(np.int16) - second.astype(np.int16)).mean())
