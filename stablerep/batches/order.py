"""Which groups, and which of their images, make up the batch of a step: a pure function of (seed, step).

An epoch is a permutation of the groups keyed by (seed, epoch); the batch of a step is the next `captions_per_batch` groups of it and an
epoch's incomplete last batch is dropped, so no caption occurs twice in a batch or in an epoch. The permutation is computed position by
position (a Feistel network on a square that covers the groups, walked until it lands inside: Black and Rogaway, Ciphers with arbitrary
finite domains, 2002), so resuming at any step costs nothing and memory does not grow with the data set.

Dimension key: P positions, C captions of a batch over all ranks, N captions of a rank, M images drawn per caption.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stablerep.batches.counter import below, fold, words
from stablerep.errors import ConfigError

_NUM_ROUNDS = 8
_EPOCH_KEY, _DRAW_KEY = 1, 2  # what a number is for, so that equal (seed, epoch) do not share numbers
_LAST = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class GroupOrder:
    """The order of `num_groups` groups in batches of `captions_per_batch`, the same for every rank.

    Raises:
        ConfigError: there are fewer groups than captions in a batch.
    """

    num_groups: int
    captions_per_batch: int
    seed: int

    def __post_init__(self) -> None:
        """Check that one batch can be made."""
        if self.captions_per_batch > self.num_groups:
            raise ConfigError(
                f"pretrain.captions_per_batch: expected at most the {self.num_groups} usable groups of the data set, found "
                f"{self.captions_per_batch}; lower captions_per_batch or generate groups for more captions"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch; the up to captions_per_batch - 1 groups left over differ from epoch to epoch."""
        return self.num_groups // self.captions_per_batch

    def epoch(self, step: int) -> int:
        """The epoch that a step belongs to."""
        return step // self.steps_per_epoch

    def groups(self, step: int, rank: int = 0, world_size: int = 1) -> Tensor:
        """Numbers of the groups in a rank's contiguous part of the batch of `step`: int64 [N], N = C / world_size."""
        num = self.captions_per_batch // world_size
        start = (step % self.steps_per_epoch) * self.captions_per_batch + rank * num
        return permute(torch.arange(start, start + num), self.num_groups, int(fold(_EPOCH_KEY, self.seed, self.epoch(step))))

    def draw(self, step: int, labels_N: Tensor, num_images_N: Tensor, num_drawn: int) -> Tensor:
        """Places of the images drawn from each group, without replacement: int64 [N, M], keyed by (seed, epoch, caption).

        Args:
            step: decides the epoch; every epoch draws anew.
            labels_N: labels of the captions.
            num_images_N: images in each group, each at least `num_drawn`.
            num_drawn: M.
        """
        key_N = fold(_DRAW_KEY, self.seed, self.epoch(step), labels_N)
        num_most = int(num_images_N.max())
        word_NI = words(key_N, num_most).masked_fill(torch.arange(num_most) >= num_images_N[:, None], _LAST)
        return word_NI.argsort(dim=1, stable=True)[:, :num_drawn]


def permute(position_P: Tensor, num: int, key: int) -> Tensor:
    """The keyed permutation of 0..num-1 at some positions: int64 [P]; other keys give unrelated permutations."""
    side = math.isqrt(num - 1) + 1
    found_P = _scramble(position_P, side, key)
    while bool((is_outside_P := found_P >= num).any()):
        found_P[is_outside_P] = _scramble(found_P[is_outside_P], side, key)
    return found_P


def _scramble(position_P: Tensor, side: int, key: int) -> Tensor:
    """A keyed permutation of 0..side*side-1: each round adds a hash of one coordinate to the other, which can be undone."""
    left_P, right_P = position_P // side, position_P % side
    for number in range(_NUM_ROUNDS):
        left_P, right_P = right_P, (left_P + below(fold(key, number, right_P), side)) % side
    return left_P * side + right_P
