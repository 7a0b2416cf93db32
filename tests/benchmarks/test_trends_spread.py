"""Intervals over replicates: what they hold, and how often they hold the truth."""

import numpy as np
import pytest
from trends.spread import half_width, image_variance, spread


def _answers(accuracy: float, num_images: int = 400, num_draws: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((num_draws, num_images)) < accuracy


def test_mean_is_over_seeds_then_replicates() -> None:
    yes, no = np.ones((1, 4), bool), np.zeros((1, 4), bool)
    found = spread({0: [yes, yes, yes, no], 7: [no]})
    assert found.mean == pytest.approx(0.375)
    assert found.by_replicate == (0.75, 0.0)
    assert found.num_seeds == (4, 1)
    assert found.sd_seeds == pytest.approx(0.5)  # of 1, 1, 1, 0


def test_replicates_alone_give_students_interval() -> None:
    """Without variance of images: mean +- t(2 degrees of freedom) S / sqrt(3), by hand."""
    values = np.array([0.7, 0.8, 0.75])
    assert half_width(values, 0.0, 2000) == pytest.approx(4.302653 * 0.05 / 3**0.5, rel=1e-5)


def test_images_alone_give_a_normal_interval() -> None:
    values = np.array([0.8, 0.8, 0.8])
    assert half_width(values, 0.01**2, 2000) == pytest.approx(1.96 * 0.01, rel=2e-3)


def test_degrees_of_freedom_between_the_two() -> None:
    """Satterthwaite by hand: a = S^2/R = 1e-4, V = 1e-4, freedom = (2e-4)^2 / (1e-8/2 + 1e-8/1999)."""
    values = np.array([0.5 - 0.03**0.5 / 10, 0.5, 0.5 + 0.03**0.5 / 10])
    freedom = 4e-8 / (1e-8 / 2 + 1e-8 / 1999)
    assert 7.9 < freedom < 8.1
    assert half_width(values, 1e-4, 2000) == pytest.approx(2.306 * 2e-4**0.5, rel=2e-3)


def test_image_variance_is_binomial() -> None:
    answers = _answers(0.8, num_images=2000)
    assert image_variance(answers, seed=1) == pytest.approx(0.8 * 0.2 / 2000, rel=0.2)


def test_label_draws_count() -> None:
    """Draws that disagree as a whole add variance that images alone do not have."""
    answers = np.stack([np.full(500, draw % 2 == 0) for draw in range(4)])
    assert image_variance(answers, seed=0) == pytest.approx(0.25 / 4, rel=0.2)


def test_difference_is_paired_inside_replicates() -> None:
    """Replicates that differ by far, but the methods inside each by the same little."""
    first = {k: [_answers(0.3 + 0.3 * k, seed=k)] for k in range(3)}
    second = {k: [answers.copy() for answers in first[k]] for k in first}
    for k, column in ((0, 5), (1, 6), (2, 7)):
        second[k][0][0, column : column + 40] = False
    apart, paired = spread(first), spread(first, second)
    assert apart.high - apart.low > 0.9
    assert 0 < paired.mean < 0.1
    assert paired.high - paired.low < 0.2
    assert spread(second, first).mean == pytest.approx(-paired.mean)


def test_only_replicates_that_both_have() -> None:
    yes, no = np.ones((1, 8), bool), np.zeros((1, 8), bool)
    found = spread({0: [yes], 1: [yes], 2: [no]}, {0: [no], 1: [yes]})
    assert found.by_replicate == (1.0, 0.0)
    with pytest.raises(ValueError, match="expected at least one replicate that both methods have, found none"):
        spread({0: [yes]}, {1: [yes]})


def test_one_replicate_has_no_interval_unless_nothing_was_drawn() -> None:
    answers = {0: [_answers(0.6, num_images=1000)]}
    assert not spread(answers).has_interval
    fixed = spread(answers, is_fixed=True)
    assert fixed.has_interval
    assert fixed.high - fixed.low == pytest.approx(2 * 1.96 * (0.6 * 0.4 / 1000) ** 0.5, rel=0.25)


def test_intervals_hold_the_truth_nineteen_times_in_twenty() -> None:
    """Replicates differ (sd 5 points), seeds inside them (sd 2 points), 200 test images are drawn: coverage is near 95 %."""
    rng, truth, held = np.random.default_rng(0), 0.7, 0
    for trial in range(60):
        hardness = rng.normal(0, 0.1, 200)
        answers = {
            k: [(rng.random((1, 200)) < np.clip(centre + rng.normal(0, 0.02) + hardness, 0, 1)) for _ in range(2)]
            for k, centre in enumerate(truth + rng.normal(0, 0.05, 3))
        }
        found = spread(answers, seed=trial)
        held += found.low <= truth <= found.high
    assert held / 60 > 0.88
