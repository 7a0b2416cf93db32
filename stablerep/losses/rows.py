"""Row operations the losses share: unit rows in full precision, sums per label, and a log-sum-exp that keeps no logits.

Dimension key: B anchors, G candidates, D embedding, K distinct labels, T rows of one tile. `weighted_log_sum_exp` walks over tiles of
T anchors and forms its gradients in the same pass, so it holds T x G logits at a time where the plain form keeps several B x G
matrices until backward. Nothing here communicates: candidates of other ranks arrive as rows.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportIncompatibleMethodOverride=false
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from stablerep.errors import DataError

_TILE_ELEMENTS = 1 << 20  # logits held at a time (4 MiB in float32): a tile stays in cache on CPU and fills a GPU


def unit_rows(rows_BD: Tensor) -> Tensor:
    """L2-normalised rows, in float32 at least: half-precision inputs are widened *before* their norm is taken."""
    wide_BD = rows_BD if rows_BD.dtype == torch.float64 else rows_BD.float()
    return functional.normalize(wide_BD, dim=1)


def check_rows(rows_BD: Tensor, labels_B: Tensor, what: str) -> None:
    """Refuse embeddings and labels that do not belong together.

    Raises:
        DataError: rows that are not a matrix, or labels that are not one whole number a row.
    """
    if rows_BD.ndim != 2:
        raise DataError(f"{what}: expected a matrix of embeddings, one row each, found shape {tuple(rows_BD.shape)}")
    if labels_B.shape != rows_BD.shape[:1] or labels_B.is_floating_point():
        raise DataError(
            f"{what}: expected one whole-number label for each of {rows_BD.shape[0]} rows, "
            f"found labels of shape {tuple(labels_B.shape)} and type {labels_B.dtype}"
        )


def label_sums(candidate_GD: Tensor, anchor_labels_B: Tensor, candidate_labels_G: Tensor) -> tuple[Tensor, Tensor]:
    """For every anchor, the sum of the candidates that carry its label, and how many they are.

    Labels are matched by content, whatever their order and position. Works by sorting and scattering: no B x G matrix of matches.

    Returns:
        sum_BD and num_B (int64); where num_B is 0, the sum is some other label's and must get weight 0.
    """
    label_K, group_G, num_K = torch.unique(candidate_labels_G, return_inverse=True, return_counts=True)
    sum_KD = candidate_GD.new_zeros(label_K.shape[0], candidate_GD.shape[1]).index_add(0, group_G, candidate_GD)
    group_B = torch.searchsorted(label_K, anchor_labels_B).clamp(max=label_K.shape[0] - 1)
    is_known_B = label_K[group_B] == anchor_labels_B
    return sum_KD[group_B], num_K[group_B] * is_known_B


def weighted_log_sum_exp(
    anchor_BD: Tensor, candidate_GD: Tensor, weight_B: Tensor, self_index_B: Tensor | None, tile_rows: int = 0
) -> Tensor:
    """sum_i weight_i log sum_{j != self_i} exp(anchor_i . candidate_j), without a B x G matrix in memory.

    Args:
        anchor_BD: anchors, already divided by the temperature.
        candidate_GD: candidates.
        weight_B: weight of every anchor; carries no gradient.
        self_index_B: the candidate to leave out for each anchor, or None to leave out none.
        tile_rows: anchors per tile; 0 chooses by the number of candidates.
    """
    tile_rows = tile_rows or max(1, _TILE_ELEMENTS // max(1, candidate_GD.shape[0]))
    has_gradient = torch.is_grad_enabled() and (anchor_BD.requires_grad or candidate_GD.requires_grad)
    return _WeightedLogSumExp.apply(anchor_BD, candidate_GD, weight_B, self_index_B, tile_rows, has_gradient)  # pyright: ignore[reportReturnType]


class _WeightedLogSumExp(torch.autograd.Function):
    """The gradient of sum_i w_i LSE_i is P'C for the anchors and P'^T A for the candidates, P' = w_i softmax_ij: known tile by tile."""

    @staticmethod
    def forward(
        ctx: Any,
        anchor_BD: Tensor,
        candidate_GD: Tensor,
        weight_B: Tensor,
        self_index_B: Tensor | None,
        tile_rows: int,
        has_gradient: bool,
    ) -> Tensor:
        total = anchor_BD.new_zeros(())
        grad_anchor_BD = torch.zeros_like(anchor_BD) if has_gradient else None
        grad_candidate_GD = torch.zeros_like(candidate_GD) if has_gradient else None
        for start in range(0, anchor_BD.shape[0], tile_rows):
            tile = slice(start, start + tile_rows)
            anchor_TD, weight_T = anchor_BD[tile], weight_B[tile]
            share_TG = anchor_TD @ candidate_GD.T
            if self_index_B is not None:
                share_TG.scatter_(1, self_index_B[tile, None], float("-inf"))
            most_T = share_TG.amax(1)
            share_TG.sub_(most_T[:, None]).exp_()
            sum_T = share_TG.sum(1)
            total += (weight_T * (most_T + sum_T.log())).sum()
            if grad_anchor_BD is not None and grad_candidate_GD is not None:
                scale_T1 = (weight_T / sum_T)[:, None]
                torch.mul(share_TG @ candidate_GD, scale_T1, out=grad_anchor_BD[tile])
                grad_candidate_GD.addmm_(share_TG.T, anchor_TD * scale_T1)
        ctx.save_for_backward(grad_anchor_BD, grad_candidate_GD)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        grad_anchor_BD, grad_candidate_GD = ctx.saved_tensors
        return grad_outputs[0] * grad_anchor_BD, grad_outputs[0] * grad_candidate_GD, None, None, None, None
