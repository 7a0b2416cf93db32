"""The multi-positive contrastive loss of StableRep (arXiv 2306.00984, section 3.2) without a mask of positives.

Dimension key: R ranks, N captions a rank, M images a caption, B = N*M anchors (this rank's rows), G candidates (every rank's rows), D
embedding. With q_ij the softmax over the other candidates and p_ij uniform over the n_i - 1 other images of the same caption, the cross
entropy of an anchor is

    L_i = log sum_{j != i} exp(f_i.f_j / tau)  -  f_i.(S_i - f_i) / ((n_i - 1) tau),     S_i = sum of the features of i's caption,

so groups enter through sums per label only: they may be ragged, weighted, in any order and spread over ranks. `losses/paper.py` holds the
same loss as the paper writes it. SimCLR is this loss with one label per image. This file does not gather: `distributed.all_gather` does.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import torch
from torch import Tensor

from stablerep.errors import DataError
from stablerep.losses.backends import chosen_backend
from stablerep.losses.direction import How, Sides, counted_weight, cross_entropy
from stablerep.losses.rows import check_rows, checked_weights, is_narrow, unit_rows


def multi_positive(
    anchor_BD: Tensor,
    candidate_GD: Tensor,
    anchor_labels_B: Tensor,
    candidate_labels_G: Tensor,
    self_index_B: Tensor,
    temperature: float,
    *,
    candidate_weights_G: Tensor | None = None,
    num_ranks: int | None = None,
    backend: str = "auto",
    tile_rows: int = 0,
) -> Tensor:
    """Mean multi-positive contrastive loss of the anchors that have a positive.

    Computed in float32 (float64 for float64 inputs) with autocast off; rows are normalised here. Its minimum is log(m - 1) for groups of
    m images, not 0. Anchors whose caption has no other image are left out of the mean (see `count_singletons`). Anchors that *are* the
    candidates (the same tensor twice) take half of the work.

    Args:
        anchor_BD: embeddings of this rank, of any scale and floating type.
        candidate_GD: embeddings of all ranks, this rank's included.
        anchor_labels_B: caption of every anchor, any whole numbers.
        candidate_labels_G: caption of every candidate.
        self_index_B: position of every anchor among the candidates.
        temperature: tau, above 0 (paper: 0.1).
        candidate_weights_G: weight of every image, 0 or more, without gradient; only ratios matter. It counts in the mean over anchors and
            in the target of the other images of its caption; an image of weight 0 is only a negative. None: all alike.
        num_ranks: None takes the mean over the anchors given. R says that the anchors are one rank's part of the candidates: the result is
            scaled so that the mean over R ranks (of values, and of gradients as data parallelism takes it) is exactly the mean over all
            candidates, with any number of rows per rank; a rank without a positive then returns 0.
        backend: plain, tiled, triton, or auto (see `backends.chosen_backend`).
        tile_rows: anchors per tile of logits; 0 chooses.

    Raises:
        DataError: no anchor (with `num_ranks`: no candidate) has a positive, or rows, labels, weights and indices do not belong together.
        ConfigError: an unknown backend, or one that cannot work on these rows.
    """
    check_rows(anchor_BD, anchor_labels_B, "anchors")
    check_rows(candidate_GD, candidate_labels_G, "candidates")
    check_temperature(temperature)
    check_self(self_index_B, anchor_labels_B, candidate_labels_G)
    how = How(chosen_backend(backend, anchor_BD), tile_rows, is_narrow(anchor_BD))
    weights_G = checked_weights(candidate_weights_G, candidate_labels_G, "candidate_weights")
    sides = Sides(
        anchor_labels_B, weights_G[self_index_B], candidate_labels_G, weights_G, self_index_B, is_weighted=candidate_weights_G is not None
    )
    total_weight = counted_weight(sides) if num_ranks is None else whole_weight(candidate_labels_G, weights_G) / num_ranks
    check_counted(total_weight, candidate_labels_G)
    with torch.autocast(anchor_BD.device.type, enabled=False):
        unit_GD = unit_rows(candidate_GD)
        unit_BD = unit_GD if anchor_BD is candidate_GD and _is_in_order(self_index_B) else unit_rows(anchor_BD)
        return cross_entropy(unit_BD, unit_GD, sides, total_weight, 1 / temperature, how)


def count_singletons(candidate_labels_G: Tensor) -> int:
    """How many images are the only one of their caption in the batch: they have no positive and do not enter the mean."""
    num_K = torch.unique(candidate_labels_G, return_counts=True)[1]
    return int((num_K == 1).sum())


def whole_weight(labels_G: Tensor, weights_G: Tensor) -> float:
    """Weight of the images of all ranks that have a positive."""
    itself_G = torch.arange(labels_G.shape[0], device=labels_G.device)
    return counted_weight(Sides(labels_G, weights_G, labels_G, weights_G, itself_G))


def _is_in_order(self_index_B: Tensor) -> bool:
    return torch.equal(self_index_B, torch.arange(self_index_B.shape[0], device=self_index_B.device))


def check_temperature(temperature: float) -> None:
    """Refuse a useless temperature.

    Raises:
        DataError: it is not above 0.
    """
    if not temperature > 0:
        raise DataError(f"temperature: expected above 0, found {temperature}")


def check_self(self_index_B: Tensor, anchor_labels_B: Tensor, candidate_labels_G: Tensor) -> None:
    """Refuse a self index that points at another image's row (rows gathered in another order, uneven ranks).

    Raises:
        DataError: an index out of range, or a label that differs at the index.
    """
    num_candidates = candidate_labels_G.shape[0]
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


def check_counted(total_weight: float, candidate_labels_G: Tensor) -> None:
    """Refuse a batch in which nothing can be learned.

    Raises:
        DataError: no image has a positive.
    """
    if total_weight == 0:
        raise DataError(
            f"multi-positive loss: expected at least one caption with 2 or more images in the batch, found none among "
            f"{candidate_labels_G.shape[0]} images (of weight above 0, where they have weights); raise images_per_caption to 2 or more"
        )
