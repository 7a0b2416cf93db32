"""Intervals against the binomial distribution, pairing, label draws, and refusals."""

import numpy as np
import pytest
from scipy.stats import binom

from stablerep.errors import DataError
from stablerep.probes.bootstrap import accuracy_interval, paired_difference


def answers(share: float, num: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random((1, num)) < share).astype(np.bool_)


def test_interval_is_that_of_the_binomial() -> None:
    correct = answers(0.9, 2000)
    low, high = accuracy_interval(correct, 4000, seed=0)
    expected = binom.ppf([0.025, 0.975], 2000, correct.mean()) / 2000
    assert (low, high) == pytest.approx(tuple(expected), abs=0.001)


def test_no_doubt_no_width() -> None:
    assert accuracy_interval(np.ones((3, 50), dtype=np.bool_), 200, seed=0) == (1.0, 1.0)


def test_draws_that_differ_widen_the_interval() -> None:
    same, differ = np.repeat(answers(0.7, 500), 4, axis=0), np.concatenate([answers(share, 500, 1) for share in (0.5, 0.6, 0.8, 0.9)])
    widths = [high - low for low, high in (accuracy_interval(c, 2000, seed=0) for c in (same, differ))]
    assert widths[1] > 2 * widths[0]


def test_a_difference_is_paired_image_by_image() -> None:
    first = answers(0.8, 1000)
    second = first.copy()
    second[0, np.flatnonzero(first[0])[:20]] = False  # wrong on 20 more images, else equal
    mean, low, high = paired_difference(first, second, 2000, seed=0)
    assert mean == pytest.approx(0.02)
    assert 0.01 < low < 0.02 < high < 0.03  # unpaired it would be about -0.015 to 0.055
    assert paired_difference(first, first, 200, seed=0) == (0.0, 0.0, 0.0)


def test_equal_seeds_equal_intervals() -> None:
    correct = answers(0.6, 300)
    assert accuracy_interval(correct, 100, seed=5) == accuracy_interval(correct, 100, seed=5) != accuracy_interval(correct, 100, seed=6)


def test_different_test_images_cannot_be_compared() -> None:
    with pytest.raises(DataError, match="same test images, found 10 and 11 answers"):
        paired_difference(answers(0.5, 10), answers(0.5, 11), 10, seed=0)
