"""The multi-positive contrastive loss of StableRep (arXiv 2306.00984, section 3.2) without a mask of positives.

Dimension key: R ranks, N captions a rank, M images a caption, B = N*M anchors (this rank's rows), G candidates (every rank's rows), D
embedding. With q_ij the softmax over the other candidates and p_ij uniform over the n_i - 1 other images of the same caption, the cross
entropy of an anchor is

    L_i = log sum_{j != i} exp(f_i.f_j / tau)  -  f_i.(S_i - f_i) / ((n_i - 1) tau),     S_i = sum of the features of i's caption,

so groups enter through sums per label only: they may be ragged, in any order and spread over ranks. `losses/paper.py` holds the same
loss as the paper writes it. SimCLR is this loss with one label per image. This file does not gather: `distributed.all_gather` does.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import torch
from torch import Tensor

from stablerep.errors import DataError
from stablerep.losses.rows import check_rows, label_sums, unit_rows, weighted_log_sum_exp


def multi_positive(
    anchor_BD: Tensor,
    candidate_GD: Tensor,
    anchor_labels_B: Tensor,
    candidate_labels_G: Tensor,
    self_index_B: Tensor,
    temperature: float,
    *,
    num_ranks: int | None = None,
    tile_rows: int = 0,
) -> Tensor:
    """Mean multi-positive contrastive loss of the anchors that have a positive.

    Computed in float32 (float64 for float64 inputs) with autocast off; rows are normalised here. Its minimum is log(m - 1) for groups of
    m images, not 0. Anchors whose caption has no other image are left out of the mean (see `count_singletons`).

    Args:
        anchor_BD: embeddings of this rank, of any scale and floating type.
        candidate_GD: embeddings of all ranks, this rank's included.
        anchor_labels_B: caption of every anchor, any whole numbers.
        candidate_labels_G: caption of every candidate.
        self_index_B: position of every anchor among the candidates.
        temperature: tau, above 0 (paper: 0.1).
        num_ranks: None takes the mean over the anchors given. R says that the anchors are one rank's part of the candidates: the result is
            scaled so that the mean over R ranks (of values, and of gradients as data parallelism takes it) is exactly the mean over all
            candidates, with any number of rows per rank; a rank without a positive then returns 0.
        tile_rows: anchors per tile of logits; 0 chooses.

    Raises:
        DataError: no anchor (with `num_ranks`: no candidate) has a positive, or rows, labels and indices do not belong together.
    """
    check_rows(anchor_BD, anchor_labels_B, "anchors")
    check_rows(candidate_GD, candidate_labels_G, "candidates")
    check_self(self_index_B, anchor_labels_B, candidate_labels_G, temperature)
    with torch.autocast(anchor_BD.device.type, enabled=False):
        anchor_BD, candidate_GD = unit_rows(anchor_BD), unit_rows(candidate_GD)
        sum_BD, num_B = label_sums(candidate_GD, anchor_labels_B, candidate_labels_G)
        num_positives_B = num_B - 1
        weight_B = (num_positives_B > 0).to(anchor_BD.dtype) / _num_counted(num_positives_B, candidate_labels_G, num_ranks)
        pull_BD = (sum_BD - candidate_GD[self_index_B]) / num_positives_B.clamp(min=1)[:, None]
        attraction = (weight_B * (anchor_BD * pull_BD).sum(1)).sum() / temperature
        return weighted_log_sum_exp(anchor_BD / temperature, candidate_GD, weight_B, self_index_B, tile_rows) - attraction


def count_singletons(candidate_labels_G: Tensor) -> int:
    """How many images are the only one of their caption in the batch: they have no positive and do not enter the mean."""
    num_K = torch.unique(candidate_labels_G, return_counts=True)[1]
    return int((num_K == 1).sum())


def check_self(self_index_B: Tensor, anchor_labels_B: Tensor, candidate_labels_G: Tensor, temperature: float) -> None:
    """Refuse a self index that points at another image's row (rows gathered in another order, uneven ranks) and a useless temperature.

    Raises:
        DataError: an index out of range, a label that differs at the index, or a temperature that is not above 0.
    """
    num_candidates = candidate_labels_G.shape[0]
    if temperature <= 0:
        raise DataError(f"temperature: expected above 0, found {temperature}")
    if self_index_B.shape != anchor_labels_B.shape:
        raise DataError(
            f"self_index: expected one candidate for each of {anchor_labels_B.shape[0]} anchors, found {tuple(self_index_B.shape)}"
        )
    if bool(((self_index_B < 0) | (self_index_B >= num_candidates)).any()):
        raise DataError(f"self_index: expected positions from 0 to {num_candidates - 1}, found {self_index_B.tolist()[:8]}")
    if bool((candidate_labels_G[self_index_B] != anchor_labels_B).any()):
        raise DataError(
            "self_index: expected each anchor's own row among the candidates, found other labels; gather both in the same order"
        )


def _num_counted(num_positives_B: Tensor, candidate_labels_G: Tensor, num_ranks: int | None) -> float:
    """How many anchors enter the mean; with `num_ranks`, a rank's even share of those of all ranks."""
    if num_ranks is None:
        num_counted = int((num_positives_B > 0).sum())
    else:
        num_counted = candidate_labels_G.shape[0] - count_singletons(candidate_labels_G)
    if num_counted == 0:
        raise DataError(
            f"multi-positive loss: expected at least one caption with 2 or more images in the batch, found {candidate_labels_G.shape[0]} "
            "images of as many captions; raise images_per_caption to 2 or more"
        )
    return num_counted / (num_ranks or 1)
