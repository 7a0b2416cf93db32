"""The losses as the paper writes them (arXiv 2306.00984, equations 1 to 3): dense matrices of q and p, for reading and for tests.

Dimension key: B anchors, G candidates, D embedding. Same arguments and values as `multi_positive` and `image_text`, several B x G
matrices of memory. Self is masked by filling, not by adding -1e9, and p is multiplied where q is finite only, so nothing is NaN.
"""

import torch
from torch import Tensor

from stablerep.errors import DataError
from stablerep.losses.language import LOG_SCALE_MAX
from stablerep.losses.rows import unit_rows


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
        is_self_BG = torch.zeros_like(logits_BG, dtype=torch.bool).scatter(1, self_index_B[:, None], True)
        is_positive_BG = (anchor_labels_B[:, None] == candidate_labels_G[None, :]) & ~is_self_BG
        return _cross_entropy(logits_BG.masked_fill(is_self_BG, float("-inf")), is_positive_BG)


def image_text_plain(image_BD: Tensor, text_ND: Tensor, image_labels_B: Tensor, text_labels_N: Tensor, logit_scale: Tensor) -> Tensor:
    """Mean of the image-to-text and the text-to-image cross entropies; see `image_text`.

    Raises:
        DataError: no image has its caption.
    """
    with torch.autocast(image_BD.device.type, enabled=False):
        cosine_BN = unit_rows(image_BD) @ unit_rows(text_ND).T
        logits_BN = logit_scale.clamp(0.0, LOG_SCALE_MAX).to(cosine_BN.dtype).exp() * cosine_BN
        is_own_BN = image_labels_B[:, None] == text_labels_N[None, :]
        return (_cross_entropy(logits_BN, is_own_BN) + _cross_entropy(logits_BN.T, is_own_BN.T)) / 2


def _cross_entropy(logits_BG: Tensor, is_target_BG: Tensor) -> Tensor:
    """Mean over the rows with a target of -sum_j p_ij log q_ij, p uniform over the targets of a row."""
    num_targets_B = is_target_BG.sum(1)
    if not bool(num_targets_B.any()):
        raise DataError("plain loss: expected at least one row with a target, found none")
    log_q_BG = logits_BG.log_softmax(1)
    p_BG = is_target_BG.to(log_q_BG.dtype) / num_targets_B.clamp(min=1)[:, None]
    loss_B = -(p_BG * log_q_BG.masked_fill(~is_target_BG, 0.0)).sum(1)
    return loss_B[num_targets_B > 0].mean()
