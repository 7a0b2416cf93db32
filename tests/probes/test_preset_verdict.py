"""When a faster setting may be called equal: closed forms, intervals against normal theory, every side of both limits."""

import numpy as np
import pytest

from stablerep.errors import DataError
from stablerep.probes.preset_verdict import Interval, diversity_ratio, group_distance, knn_drop_points, verdict

GOOD_DROP, GOOD_RATIO = Interval(0.0, -0.4, 0.4), Interval(1.0, 0.97, 1.03)


@pytest.mark.parametrize(
    ("drop", "diversity", "expected"),
    [
        (GOOD_DROP, GOOD_RATIO, "equal"),
        (Interval(-3.0, -4.0, -2.0), Interval(1.2, 1.1, 1.3), "equal"),  # better is no reason to refuse
        (Interval(0.3, 0.1, 0.5), Interval(0.97, 0.95, 0.99), "equal"),  # at the limits
        (Interval(0.3, 0.1, 0.51), GOOD_RATIO, "not known"),
        (Interval(0.6, 0.5, 0.7), GOOD_RATIO, "not known"),
        (Interval(0.6, 0.51, 0.7), GOOD_RATIO, "not equal"),
        (GOOD_DROP, Interval(0.96, 0.949, 0.97), "not known"),
        (GOOD_DROP, Interval(0.94, 0.93, 0.95), "not known"),
        (GOOD_DROP, Interval(0.94, 0.93, 0.949), "not equal"),
        (Interval(0.4, -2.0, 3.0), Interval(0.9, 0.89, 0.91), "not equal"),  # one denial is enough
        (Interval(2.0, 1.0, 3.0), Interval(0.95, 0.9, 1.0), "not equal"),
    ],
)
def test_verdict(drop: Interval, diversity: Interval, expected: str) -> None:
    assert verdict(drop, diversity) == expected


def test_drop_is_positive_where_the_second_is_worse_and_paired() -> None:
    rng = np.random.default_rng(0)
    right = rng.random((1, 1000)) < 0.8
    worse = right.copy()
    worse[0, np.flatnonzero(right[0])[:40]] = False
    drop = knn_drop_points(right, worse, 1000, 0)
    assert drop.value == pytest.approx(4.0)
    # of 1,000 differences 40 are 1: a standard error of 0.62 points; unpaired it would be 1.8
    assert drop.high - drop.low == pytest.approx(2 * 1.96 * 0.62, rel=0.15)
    assert knn_drop_points(worse, right, 1000, 0).value == pytest.approx(-4.0)


def test_distance_is_the_mean_of_all_pairs() -> None:
    assert group_distance(np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 4.0]])) == pytest.approx((5 + 4 + 3) / 3)
    with pytest.raises(DataError, match="2 images or more, found 1"):
        group_distance(np.zeros((1, 4)))


def test_ratio_is_of_means_second_over_first_and_paired() -> None:
    first = np.random.default_rng(1).uniform(1, 9, 200)
    exact = diversity_ratio(first, 0.9 * first, 500, 0)
    assert (exact.value, exact.low, exact.high) == pytest.approx((0.9, 0.9, 0.9))  # groups are drawn together
    two = diversity_ratio(np.array([1.0, 3.0]), np.array([3.0, 3.0]), 500, 0)
    assert two.value == pytest.approx(1.5)  # not the mean of the ratios 3 and 1
    assert (two.low, two.high) == pytest.approx((1.0, 3.0))
    many = diversity_ratio(np.repeat([1.0, 3.0], 50), np.full(100, 3.0), 500, 0)
    assert many.low < 1.5 < many.high < 1.75  # ratios averaged would be around 2


@pytest.mark.parametrize(("first", "second"), [([1.0, 2.0], [1.0]), ([], []), ([0.0, 1.0], [1.0, 1.0])])
def test_groups_that_cannot_be_compared(first: list[float], second: list[float]) -> None:
    with pytest.raises(DataError, match="groups of the same captions"):
        diversity_ratio(np.array(first), np.array(second), 10, 0)
