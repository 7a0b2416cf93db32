"""Every verdict, on both sides of its threshold."""

import numpy as np
import pytest

from stablerep.groups.quality import BLACK_MAX, CONSTANT_STD, DUPLICATE_DIFFERENCE, difference, judge
from stablerep.groups.sampler import ImageHW3


def _picture(seed: int = 0) -> ImageHW3:
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3)).astype(np.uint8)


def _striped(base: int, amplitude: int) -> ImageHW3:
    """Half of the rows above and half below `base`: the standard deviation is the amplitude."""
    image = np.full((32, 32, 3), base, np.uint8)
    image[::2] += np.uint8(amplitude)
    image[1::2] -= np.uint8(amplitude)
    return image


def test_a_picture_is_good() -> None:
    assert judge(_picture()) == "good"
    assert judge(_picture(0), [_picture(1), _picture(2)]) == "good"


def test_no_image_is_nonfinite() -> None:
    assert judge(None) == "nonfinite"


def test_black() -> None:
    noisy_black = np.random.default_rng(0).integers(0, BLACK_MAX + 1, (32, 32, 3)).astype(np.uint8)
    assert judge(noisy_black) == "black"
    assert judge(np.zeros((32, 32, 3), np.uint8)) == "black"
    stroke = np.zeros((32, 32, 3), np.uint8)
    stroke[:, 15] = 200
    assert judge(stroke) == "good", "a thin line on black is a picture"


@pytest.mark.parametrize("colour", [(128, 128, 128), (255, 0, 0), (255, 255, 255)])
def test_constant(colour: tuple[int, int, int]) -> None:
    assert judge(np.full((32, 32, 3), colour, np.uint8)) == "constant"


def test_constant_threshold() -> None:
    assert CONSTANT_STD == 2.0
    assert judge(_striped(128, 1)) == "constant"
    assert judge(_striped(128, 2)) == "good"
    one_channel = np.full((32, 32, 3), 90, np.uint8)
    one_channel[:, :, 2] = _striped(90, 20)[:, :, 2]
    assert judge(one_channel) == "good"


def test_duplicates_exact_and_near() -> None:
    picture = _picture()
    assert judge(picture, [_picture(1), picture.copy()]) == "duplicate"
    near = picture.copy()
    near[:8] ^= 1  # a quarter of the pixels by one level
    assert 0 < difference(picture, near) < DUPLICATE_DIFFERENCE
    assert judge(near, [picture]) == "duplicate"
    other = np.clip(picture.astype(int) + 2, 0, 255).astype(np.uint8)
    assert difference(picture, other) > DUPLICATE_DIFFERENCE
    assert judge(other, [picture]) == "good"


def test_difference_does_not_wrap_around() -> None:
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    assert difference(black, white) == difference(white, black) == 255.0
