"""Intervals that include the generator: a mean over replicates, with the variance of everything that was drawn.

Accuracy of a method is the mean over replicates of the mean over training seeds. Two things were drawn independently: the replicates
(generator, captions, noise, and inside them the training seeds), and the test images with the draws of labels, which all replicates
share. So

    variance of the mean = S^2 / R + V

S^2 the variance of the R replicate means (which holds generator, captions and seeds), V the bootstrap variance of the answers
averaged over replicates and seeds, when test images and label draws are drawn anew. The interval is mean +- t sqrt(variance), t the
97.5 % point of Student's distribution with the degrees of freedom of Satterthwaite (Biometrics Bulletin 2, 1946); with three
replicates these are near 2, so the interval is wide, as it should be. Differences are taken inside each replicate and on the same
test images.

Dimension key: R replicates, D draws of labels, Q test images, B resamplings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

NUM_RESAMPLINGS = 500

Answers = Mapping[int, Sequence[np.ndarray]]  # replicate -> answers bool [D,Q] of each training seed


@dataclass(frozen=True)
class Spread:
    """A mean in [0, 1] (or a difference of means) with its 95 % interval, and where its variance comes from."""

    mean: float
    low: float
    high: float
    by_replicate: tuple[float, ...]
    num_seeds: tuple[int, ...]  # of each replicate
    sd_seeds: float  # pooled over replicates; 0 where each has one seed

    @property
    def has_interval(self) -> bool:
        """Whether the interval is finite: there is more than one replicate, or nothing that replicates would tell."""
        return self.high < float("inf")


def spread(answers: Answers, minus: Answers | None = None, *, is_fixed: bool = False, seed: int = 0) -> Spread:
    """The mean over replicates, or the difference of two methods over the replicates that both have.

    Args:
        answers: of a method.
        minus: of the method to compare with.
        is_fixed: nothing but test images and label draws was drawn (raw pixels), so one replicate has an interval.
        seed: of the resampling.

    Raises:
        ValueError: there is no replicate (that both have).
    """
    replicates = [k for k in answers if minus is None or k in minus]
    if not replicates:
        raise ValueError("expected at least one replicate that both methods have, found none")
    mean_RDQ = np.stack([np.mean(answers[k], axis=0) for k in replicates])
    if minus is not None:
        mean_RDQ = mean_RDQ - np.stack([np.mean(minus[k], axis=0) for k in replicates])
    mean_R = mean_RDQ.mean((1, 2))
    variance = image_variance(mean_RDQ.mean(0), seed)
    half = 1.96 * variance**0.5 if is_fixed else half_width(mean_R, variance, mean_RDQ.shape[2])
    seeds = [[float(np.mean(one)) for one in answers[k]] for k in replicates]
    mean = float(mean_R.mean())
    return Spread(mean, mean - half, mean + half, tuple(map(float, mean_R)), tuple(map(len, seeds)), _pooled_sd(seeds))


def half_width(mean_R: np.ndarray, variance: float, num_images: int) -> float:
    """Half of the interval; infinite with one replicate.

    Args:
        mean_R: replicate means.
        variance: of the mean by test images and label draws.
        num_images: Q.
    """
    if len(mean_R) < 2:
        return float("inf")
    of_replicates = float(mean_R.var(ddof=1)) / len(mean_R)
    total = of_replicates + variance
    if total == 0:
        return 0.0
    freedom = total**2 / (of_replicates**2 / (len(mean_R) - 1) + variance**2 / (num_images - 1))
    return float(stdtrit(freedom, 0.975)) * total**0.5


def image_variance(mean_DQ: np.ndarray, seed: int) -> float:
    """Variance of the mean when test images and label draws are drawn anew, with replacement."""
    num_draws, num_images = mean_DQ.shape
    rng = np.random.default_rng(seed)
    means_B = np.empty(NUM_RESAMPLINGS)
    for b in range(NUM_RESAMPLINGS):
        counts_Q = np.bincount(rng.integers(0, num_images, num_images), minlength=num_images)
        means_B[b] = (mean_DQ @ counts_Q)[rng.integers(0, num_draws, num_draws)].mean() / num_images
    return float(means_B.var(ddof=1))


def _pooled_sd(seeds: Sequence[Sequence[float]]) -> float:
    freedom = sum(len(values) - 1 for values in seeds)
    squares = sum(float(((np.array(values) - np.mean(values)) ** 2).sum()) for values in seeds)
    return (squares / freedom) ** 0.5 if freedom else 0.0
