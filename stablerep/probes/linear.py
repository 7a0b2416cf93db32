"""Linear probe on cached features: ten heads, one per learning rate, trained at once (paper, appendix; released main_linear.py).

SGD with momentum 0.9, no weight decay, cosine to zero, learning rate = base_lr x batch / 256, heads start at zero. All heads are one
batched product, and so are the folds of a small labelled set. The paper's code reports the head that is best on the test set; here the
learning rate is chosen inside the labelled images and the test set is scored once.

Features are centred and divided by one number (`linear`), which leaves the family of linear classifiers as it is and makes the ten
rates mean the same for every feature source, or standardised per dimension (`linear_bn`: the paper's affine-free batch norm, eps 1e-6,
with the statistics of the labelled images). Features are computed once, or, as the paper does it, anew for every epoch from new random
views (`EpochFeatures`); scaling, and the answers that choose a rate, come from images as they are.

Dimension key: P problems (folds or draws), N images, F features, H heads, K classes.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stablerep.errors import DivergenceError
from stablerep.probes.protocol import Int64Array

MOMENTUM = 0.9
EPSILON = 1e-6
HELD_OUT = 0.2
MAX_HELD_OUT_IMAGES = 10_000
MIN_HELD_OUT_ANSWERS = 200  # folds are drawn anew until so many held-out answers are averaged
MAX_REPEATS = 10
_CHUNK_IMAGES = 4096


EpochFeatures = Callable[[int], Tensor]  # epoch -> features [N,F] of new views of all images


@dataclass(frozen=True)
class LinearSettings:
    """How heads are trained; `is_standardised` makes it `linear_bn`."""

    num_classes: int
    base_lrs: tuple[float, ...]
    num_epochs: int
    batch_size: int
    is_standardised: bool
    seed: int


@dataclass(frozen=True)
class LinearHeads:
    """Trained heads of P problems: scaling [P,1,F], weight [P,F,H*K], bias [P,1,H*K]."""

    mean_P1F: Tensor
    scale_P1F: Tensor
    weight_PFO: Tensor
    bias_P1O: Tensor
    num_classes: int

    def logits(self, features_PNF: Tensor) -> Tensor:
        """Scores [P,N,H,K] of features [P,N,F]."""
        x_PNF = (features_PNF - self.mean_P1F) / self.scale_P1F
        out_PNO = torch.baddbmm(self.bias_P1O, x_PNF, self.weight_PFO)
        return out_PNO.unflatten(2, (-1, self.num_classes))


def fit_heads(
    features_PNF: Tensor,
    labels_PN: Tensor,
    lrs_PH: Tensor,
    settings: LinearSettings,
    views: Callable[[int], Tensor] | None = None,
) -> LinearHeads:
    """Train H heads on each of P labelled sets of equal size.

    Args:
        features_PNF: labelled features, float32.
        labels_PN: their classes, int64.
        lrs_PH: learning rates (already scaled by the batch), one per head.
        settings: epochs, batch and scaling; its `base_lrs` are not read.
        views: features [P,N,F] to learn from in each epoch, when they are not `features_PNF` in all.
    """
    num_problems, num_images, num_features = features_PNF.shape
    num_heads, num_classes = lrs_PH.shape[1], settings.num_classes
    mean_P1F, scale_P1F = _scaling(features_PNF, settings.is_standardised)
    weight_PFO = torch.zeros(num_problems, num_features, num_heads * num_classes)
    bias_P1O = torch.zeros(num_problems, 1, num_heads * num_classes)
    weight_velocity, bias_velocity = torch.zeros_like(weight_PFO), torch.zeros_like(bias_P1O)
    heads = LinearHeads(mean_P1F, scale_P1F, weight_PFO, bias_P1O, num_classes)
    lrs_P1O = lrs_PH.repeat_interleave(num_classes, 1).unsqueeze(1)
    generator = torch.Generator().manual_seed(settings.seed)
    batch_size = min(settings.batch_size, num_images)
    num_steps, step = settings.num_epochs * math.ceil(num_images / batch_size), 0
    for epoch in range(settings.num_epochs):
        seen_PNF = views(epoch) if views else features_PNF
        for chosen_B in torch.randperm(num_images, generator=generator).split(batch_size):
            x_PBF = (seen_PNF[:, chosen_B] - mean_P1F) / scale_P1F
            gradient_PBO = _logit_gradient(torch.baddbmm(bias_P1O, x_PBF, weight_PFO), labels_PN[:, chosen_B], num_classes)
            rate_P1O = lrs_P1O * (0.5 * (1 + math.cos(math.pi * step / num_steps)))
            weight_velocity.mul_(MOMENTUM).baddbmm_(x_PBF.transpose(1, 2), gradient_PBO)
            bias_velocity.mul_(MOMENTUM).add_(gradient_PBO.sum(1, keepdim=True))
            weight_PFO.sub_(weight_velocity * rate_P1O)
            bias_P1O.sub_(bias_velocity * rate_P1O)
            step += 1
    return heads


def choose_base_lr(
    features_NF: Tensor, labels_N: Tensor, settings: LinearSettings, is_balanced: bool, augmented: EpochFeatures | None = None
) -> float:
    """The base learning rate whose head answers best on held-out labelled images.

    A class-balanced labelled set is cut in leave-out folds, redrawn until at least 200 held-out answers count; otherwise a fifth of
    every class (at most 10,000 images in all) is held out once. Most right answers win, ties go to the lower cross-entropy.

    Args:
        features_NF: features of the labelled images.
        labels_N: their classes.
        settings: the candidates are `settings.base_lrs`.
        is_balanced: every class has equally many labelled images.
        augmented: features of new views of the labelled images in each epoch, which heads then learn from.

    Raises:
        DivergenceError: no head has finite scores.
    """
    kept_PA, held_PB = _folds(labels_N.numpy(), settings.seed) if is_balanced else one_split(labels_N.numpy(), settings.seed)
    lrs_PH = _scaled(settings.base_lrs, len(labels_N), settings).expand(len(kept_PA), -1)
    heads = fit_heads(features_NF[kept_PA], labels_N[kept_PA], lrs_PH, settings, _picked(augmented, kept_PA))
    num_heads = len(settings.base_lrs)
    num_right_H, cross_entropy_H = torch.zeros(num_heads), torch.zeros(num_heads)
    for chunk_PB in held_PB.split(_CHUNK_IMAGES, 1):
        logits_PBHK = heads.logits(features_NF[chunk_PB])
        labels_PBH1 = labels_N[chunk_PB][:, :, None, None].expand(-1, -1, num_heads, 1)
        num_right_H += (logits_PBHK.argmax(3, keepdim=True) == labels_PBH1).sum((0, 1, 3))
        cross_entropy_H -= logits_PBHK.log_softmax(3).gather(3, labels_PBH1).sum((0, 1, 3))
    is_finite_H = torch.isfinite(cross_entropy_H)
    if not is_finite_H.any():
        raise DivergenceError(f"no probe head is finite at base learning rates {settings.base_lrs}: are the features of sensible size?")
    ranked = [(float(num_right_H[h]), -float(cross_entropy_H[h]), -h) for h in range(num_heads) if is_finite_H[h]]
    return settings.base_lrs[-max(ranked)[2]]


def probe_linear(
    train_NF: Tensor,
    labels_N: Tensor,
    test_NF: Tensor,
    draws: Sequence[Int64Array],
    settings: LinearSettings,
    is_balanced: bool,
    augmented: EpochFeatures | None = None,
) -> tuple[Int64Array, list[float]]:
    """Fit and apply one head per draw of labelled images.

    Args:
        train_NF: features of the training images.
        labels_N: their classes.
        test_NF: features of the test images, seen only by the final head.
        draws: indices of labelled training images, of equal length.
        settings: candidates and schedule.
        is_balanced: as for `choose_base_lr`.
        augmented: features of new views of the training images in each epoch, which heads then learn from.

    Returns:
        Predicted classes int64 [draws, test images], and the base learning rate chosen in each draw.
    """
    labelled = [torch.from_numpy(draw) for draw in draws]
    chosen = [choose_base_lr(train_NF[i], labels_N[i], settings, is_balanced, _picked(augmented, i)) for i in labelled]
    lrs_PH = torch.cat([_scaled((base_lr,), len(labelled[0]), settings) for base_lr in chosen])
    picked_PN = torch.stack(labelled)
    heads = fit_heads(train_NF[picked_PN], labels_N[picked_PN], lrs_PH, settings, _picked(augmented, picked_PN))
    parts = [heads.logits(chunk.expand(len(draws), -1, -1)).squeeze(2).argmax(2) for chunk in test_NF.split(_CHUNK_IMAGES)]
    return torch.cat(parts, 1).numpy(), chosen


def _picked(augmented: EpochFeatures | None, picked: Tensor) -> EpochFeatures | None:
    """The same for some of the images."""
    return (lambda epoch: augmented(epoch)[picked]) if augmented else None


def _scaled(base_lrs: tuple[float, ...], num_images: int, settings: LinearSettings) -> Tensor:
    return torch.tensor([base_lrs]) * (min(settings.batch_size, num_images) / 256)


def _scaling(features_PNF: Tensor, is_standardised: bool) -> tuple[Tensor, Tensor]:
    mean_P1F = features_PNF.mean(1, keepdim=True)
    variance_P1F = features_PNF.var(1, correction=0, keepdim=True)
    if not is_standardised:
        variance_P1F = variance_P1F.mean(2, keepdim=True)
    return mean_P1F, (variance_P1F + EPSILON).sqrt()


def _logit_gradient(logits_PBO: Tensor, labels_PB: Tensor, num_classes: int) -> Tensor:
    """Gradient of the mean cross-entropy: (softmax - one-hot) / B, for every head."""
    probability_PBHK = logits_PBO.unflatten(2, (-1, num_classes)).softmax(3)
    index_PBH1 = labels_PB[:, :, None, None].expand(-1, -1, probability_PBHK.shape[2], 1)
    probability_PBHK.scatter_add_(3, index_PBH1, torch.full(index_PBH1.shape, -1.0))
    return probability_PBHK.flatten(2) / labels_PB.shape[1]


def _folds(labels_N: Int64Array, seed: int) -> tuple[Tensor, Tensor]:
    """Kept and held-out positions of every fold of a class-balanced set: [P, A] and [P, B]."""
    num_classes = len(np.unique(labels_N))
    num_per_class = len(labels_N) // num_classes
    num_held = max(1, round(HELD_OUT * num_per_class))
    members_KC = np.argsort(labels_N, kind="stable").reshape(num_classes, num_per_class)
    num_repeats = min(MAX_REPEATS, math.ceil(MIN_HELD_OUT_ANSWERS / len(labels_N)))
    rng = np.random.default_rng([seed, num_per_class])
    kept: list[Int64Array] = []
    held: list[Int64Array] = []
    for _ in range(num_repeats):
        shuffled_KC = rng.permuted(members_KC, axis=1)
        for start in range(0, num_per_class - num_held + 1, num_held):
            part = slice(start, start + num_held)
            held.append(shuffled_KC[:, part].ravel())
            kept.append(np.delete(shuffled_KC, part, axis=1).ravel())
    return torch.from_numpy(np.stack(kept)), torch.from_numpy(np.stack(held))


def one_split(labels_N: Int64Array, seed: int) -> tuple[Tensor, Tensor]:
    """Kept and held-out positions of one stratified split: [1, A] and [1, B]; a class of one image is kept."""
    share = min(HELD_OUT, MAX_HELD_OUT_IMAGES / len(labels_N))
    rng = np.random.default_rng(seed)
    is_held_N = np.zeros(len(labels_N), dtype=np.bool_)
    for label in np.unique(labels_N):
        members = rng.permutation(np.flatnonzero(labels_N == label))
        is_held_N[members[: min(max(1, round(share * len(members))), len(members) - 1)]] = True
    return torch.from_numpy(np.flatnonzero(~is_held_N))[None], torch.from_numpy(np.flatnonzero(is_held_N))[None]
