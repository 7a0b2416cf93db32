"""The losses as the paper writes them (arXiv 2306.00984, equations 1 to 3): dense matrices of q and p, for reading and for tests.

Dimension key: B anchors, G candidates, D embedding. Same values as `multi_positive` and `image_text`, several B x G matrices of memory;
also their backend `plain`. Self is masked by filling, not by adding -1e9, and p is multiplied where q is finite only, so nothing is NaN.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import torch
from torch import Tensor

from stablerep.errors import DataError
from stablerep.losses.rows import unit_rows
from stablerep.losses.scale import LOG_SCALE_MAX


def multi_positive_plain(
    anchor_BD: Tensor,
    candidate_GD: Tensor,
    anchor_labels_B: Tensor,
    candidate_labels_G: Tensor,
    self_index_B: Tensor,
    temperature: float,
) -> Tensor:
    """Mean multi-positive contrastive loss of the anchors that have a positive; see `multi_positive`.

    Raises:
        DataError: no anchor has a positive.
    """
    with torch.autocast(anchor_BD.device.type, enabled=False):
        logits_BG = unit_rows(anchor_BD) @ unit_rows(candidate_GD).T / temperature
        return _mean_cross_entropy(logits_BG, anchor_labels_B[:, None] == candidate_labels_G[None, :], self_index_B)


def image_text_plain(image_BD: Tensor, text_ND: Tensor, image_labels_B: Tensor, text_labels_N: Tensor, logit_scale: Tensor) -> Tensor:
    """Mean of the image-to-text and the text-to-image cross entropies; see `image_text`.

    Raises:
        DataError: no image has its caption.
    """
    with torch.autocast(image_BD.device.type, enabled=False):
        cosine_BN = unit_rows(image_BD) @ unit_rows(text_ND).T
        logits_BN = logit_scale.clamp(0.0, LOG_SCALE_MAX).to(cosine_BN.dtype).exp() * cosine_BN
        is_own_BN = image_labels_B[:, None] == text_labels_N[None, :]
        return (_mean_cross_entropy(logits_BN, is_own_BN) + _mean_cross_entropy(logits_BN.T, is_own_BN.T)) / 2


def weighted_cross_entropy(
    logits_BG: Tensor, is_target_BG: Tensor, weight_B: Tensor, target_weight_G: Tensor, self_index_B: Tensor | None
) -> Tensor:
    """sum_i weight_i (-sum_j p_ij log q_ij), p_ij in proportion to the weights of i's targets; self is neither target nor candidate.

    Args:
        logits_BG: logits.
        is_target_BG: whether labels agree.
        weight_B: weight of every anchor; 0 where it has no target.
        target_weight_G: weight of every candidate as a target.
        self_index_B: the candidate that is the anchor itself, or None.
    """
    if self_index_B is not None:
        is_self_BG = torch.zeros_like(is_target_BG).scatter(1, self_index_B[:, None], True)
        logits_BG, is_target_BG = logits_BG.masked_fill(is_self_BG, float("-inf")), is_target_BG & ~is_self_BG
    log_q_BG = logits_BG.log_softmax(1)
    p_BG = is_target_BG * target_weight_G
    p_BG = p_BG / p_BG.sum(1, keepdim=True).masked_fill(weight_B[:, None] == 0, 1.0)
    loss_B = -(p_BG * log_q_BG.masked_fill(~is_target_BG, 0.0)).sum(1)
    return (weight_B * loss_B).sum()


def _mean_cross_entropy(logits_BG: Tensor, is_target_BG: Tensor, self_index_B: Tensor | None = None) -> Tensor:
    """Mean over the rows with a target, p uniform over the targets of a row."""
    num_targets_B = is_target_BG.sum(1) - (0 if self_index_B is None else 1)
    num_counted = int((num_targets_B > 0).sum())
    if num_counted == 0:
        raise DataError("plain loss: expected at least one row with a target, found none")
    weight_B = (num_targets_B > 0).to(logits_BG.dtype) / num_counted
    return weighted_cross_entropy(logits_BG, is_target_BG, weight_B, logits_BG.new_ones(logits_BG.shape[1]), self_index_B)
