"""Learning rate by step."""

import itertools
import math

import pytest

from stablerep.training.schedule import learning_rate, peak_learning_rate


def test_peak_is_the_released_command_line() -> None:
    # 43 captions x 32 GPUs x 6 images, blr 2e-4: the released scripts print 3.2e-3.
    assert peak_learning_rate(0.0, 2e-4, 43 * 32 * 6) == pytest.approx(3.225e-3)
    assert peak_learning_rate(4e-3, 2e-4, 1) == 4e-3


def test_rises_then_falls_to_nothing() -> None:
    rates = [learning_rate(step, peak=1.0, num_steps=100, warmup_steps=10) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == 1.0
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[10:]))
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[99] < 1e-3


@pytest.mark.parametrize("num_steps", [1, 2, 5, 100])
@pytest.mark.parametrize("warmup_steps", [0, 1, 4, 5, 99, 100, 1000])
def test_finite_and_never_zero_before_the_end(num_steps: int, warmup_steps: int) -> None:
    rates = [learning_rate(step, peak=0.5, num_steps=num_steps, warmup_steps=warmup_steps) for step in range(num_steps)]
    assert all(math.isfinite(rate) and 0 < rate <= 0.5 for rate in rates)
    rising = rates[: min(warmup_steps, num_steps)]
    assert rising == sorted(rising)
