"""Cross entropy of anchors against candidates, the half both losses are made of.

Dimension key: B anchors, G candidates, D embedding. With q_ij the softmax of scale * a_i.c_j over the candidates (the anchor itself left
out) and p_ij the target of `losses/targets.py`, an anchor costs

    L_i = log sum_j exp(scale a_i.c_j)  -  scale sum_j p_ij a_i.c_j,

a log-sum-exp in tiles and a sum per label; the result is their weighted sum. `plain` writes p and q out.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from dataclasses import dataclass

from torch import Tensor

from stablerep.losses.backends import solver, weighted_log_sum_exp
from stablerep.losses.paper import weighted_cross_entropy
from stablerep.losses.targets import attraction, find_targets


@dataclass(frozen=True)
class Sides:
    """Labels and weights (float64, see `rows.checked_weights`) of the anchors and of the candidates."""

    anchor_labels_B: Tensor
    anchor_weights_B: Tensor
    candidate_labels_G: Tensor
    candidate_weights_G: Tensor
    self_index_B: Tensor | None = None
    is_weighted: bool = False  # whether a candidate's weight may differ from 1


@dataclass(frozen=True)
class How:
    """How to compute: backend of `backends.chosen_backend`, rows of a tile, whether rows came in half precision."""

    backend: str
    tile_rows: int = 0
    is_narrow: bool = False


def counted_weight(sides: Sides) -> float:
    """Weight of the anchors that have a positive: what a mean over them is divided by."""
    targets = find_targets(sides.anchor_labels_B, sides.candidate_labels_G, sides.candidate_weights_G, sides.self_index_B)
    return float((sides.anchor_weights_B * targets.has_positive_B).sum())


def cross_entropy(anchor_BD: Tensor, candidate_GD: Tensor, sides: Sides, total_weight: float, scale: float, how: How) -> Tensor:
    """sum_i weight_i L_i / total_weight over the anchors that have a positive.

    Args:
        anchor_BD: anchors, of norm 1 at most where they are the candidates.
        candidate_GD: candidates.
        sides: labels and weights.
        total_weight: above 0.
        scale: factor of the products.
        how: backend and its settings.
    """
    targets = find_targets(sides.anchor_labels_B, sides.candidate_labels_G, sides.candidate_weights_G, sides.self_index_B)
    share_B = sides.anchor_weights_B * targets.has_positive_B / total_weight
    weight_B, candidate_weights_G = share_B.to(anchor_BD.dtype), sides.candidate_weights_G.to(anchor_BD.dtype)
    if how.backend == "plain":
        logits_BG = scale * anchor_BD @ candidate_GD.T
        is_target_BG = sides.anchor_labels_B[:, None] == sides.candidate_labels_G[None, :]
        return weighted_cross_entropy(logits_BG, is_target_BG, weight_B, candidate_weights_G, sides.self_index_B)
    pull_B = (share_B / targets.rest_B).to(anchor_BD.dtype)
    weights_G = candidate_weights_G if sides.is_weighted else None
    repulsion = weighted_log_sum_exp(
        anchor_BD, candidate_GD, weight_B, sides.self_index_B, scale, solver(how.backend, tile_rows=how.tile_rows, is_narrow=how.is_narrow)
    )
    return repulsion - scale * attraction(anchor_BD, candidate_GD, targets, pull_B, weights_G, sides.self_index_B)
