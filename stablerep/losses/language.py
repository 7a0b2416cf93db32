"""The image-text loss of StableRep+ (arXiv 2306.00984, section 3.3; weights 1 and 1 beside the image loss are the caller's).

Dimension key: B images of this rank, N captions of this rank, G images and H captions of all ranks, D embedding. One text row per
caption: an image's target is its caption, a caption's target is uniform over its images; the loss is the mean of the two directions.
Rows belong together when their labels are equal, so a caption that occurs twice is one label: both its rows are targets and neither is
a negative. With one image per caption this is CLIP's loss. It does not gather: `distributed.all_gather` does.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportIncompatibleMethodOverride=false
import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from stablerep.errors import DataError
from stablerep.losses.rows import check_rows, label_sums, unit_rows, weighted_log_sum_exp

LOG_SCALE_START = math.log(1 / 0.07)
LOG_SCALE_MAX = math.log(100.0)


def image_text(
    image_BD: Tensor,
    text_ND: Tensor,
    image_labels_B: Tensor,
    text_labels_N: Tensor,
    logit_scale: Tensor,
    *,
    all_image_GD: Tensor | None = None,
    all_text_HD: Tensor | None = None,
    all_image_labels_G: Tensor | None = None,
    all_text_labels_H: Tensor | None = None,
    num_ranks: int | None = None,
    tile_rows: int = 0,
) -> Tensor:
    """Mean of the image-to-text and the text-to-image cross entropies.

    Computed in float32 (float64 for float64 inputs) with autocast off; rows are normalised here. Rows without a counterpart are left out
    of the mean of their direction.

    Args:
        image_BD: image embeddings of this rank, of any scale and floating type.
        text_ND: caption embeddings of this rank.
        image_labels_B: caption of every image, any whole numbers.
        text_labels_N: caption of every text row.
        logit_scale: logarithm of the scale, a scalar; used clamped to [0, ln 100].
        all_image_GD: images of all ranks; None: this rank is all.
        all_text_HD: captions of all ranks.
        all_image_labels_G: labels of the images of all ranks.
        all_text_labels_H: labels of the captions of all ranks.
        num_ranks: as in `multi_positive`.
        tile_rows: anchors per tile of logits; 0 chooses.

    Raises:
        DataError: no image has its caption (or no caption an image), or rows and labels do not belong together.
    """
    all_image_GD = image_BD if all_image_GD is None else all_image_GD
    all_text_HD = text_ND if all_text_HD is None else all_text_HD
    all_image_labels_G = image_labels_B if all_image_labels_G is None else all_image_labels_G
    all_text_labels_H = text_labels_N if all_text_labels_H is None else all_text_labels_H
    for rows, labels, what in (
        (image_BD, image_labels_B, "images"),
        (text_ND, text_labels_N, "captions"),
        (all_image_GD, all_image_labels_G, "images of all ranks"),
        (all_text_HD, all_text_labels_H, "captions of all ranks"),
    ):
        check_rows(rows, labels, what)
    num_images = num_texts = None
    if num_ranks is not None:
        num_images = int(torch.isin(all_image_labels_G, all_text_labels_H).sum()) / num_ranks
        num_texts = int(torch.isin(all_text_labels_H, all_image_labels_G).sum()) / num_ranks
    with torch.autocast(image_BD.device.type, enabled=False):
        image_BD, text_ND, all_image_GD, all_text_HD = map(unit_rows, (image_BD, text_ND, all_image_GD, all_text_HD))
        scale = bounded_log_scale(logit_scale).to(image_BD.dtype).exp()
        to_text = _direction(image_BD * scale, all_text_HD, image_labels_B, all_text_labels_H, num_images, tile_rows)
        to_image = _direction(text_ND * scale, all_image_GD, text_labels_N, all_image_labels_G, num_texts, tile_rows)
        return (to_text + to_image) / 2


def bounded_log_scale(log_scale: Tensor) -> Tensor:
    """`log_scale` clamped to [0, ln 100], with a gradient outside only where a descent step leads back inside.

    The reference clamps the parameter after every optimiser step, which a sharded or bfloat16 optimiser would undo from its master copy;
    a plain clamp would freeze a parameter that once left the range. Here the value used is always in range and the parameter can return.
    """
    return _BoundedLogScale.apply(log_scale)  # pyright: ignore[reportReturnType]


class _BoundedLogScale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_scale: Tensor) -> Tensor:
        ctx.save_for_backward(log_scale)
        return log_scale.clamp(0.0, LOG_SCALE_MAX)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (log_scale,) = ctx.saved_tensors
        grad = grad_outputs[0]
        leads_out = ((log_scale > LOG_SCALE_MAX) & (grad < 0)) | ((log_scale < 0) & (grad > 0))
        return grad.masked_fill(leads_out, 0.0)


def _direction(
    anchor_BD: Tensor, candidate_GD: Tensor, anchor_labels_B: Tensor, candidate_labels_G: Tensor, num_counted: float | None, tile_rows: int
) -> Tensor:
    """Cross entropy of the anchors against a target uniform over the candidates with their label; anchors carry the scale."""
    sum_BD, num_B = label_sums(candidate_GD, anchor_labels_B, candidate_labels_G)
    num_counted = int((num_B > 0).sum()) if num_counted is None else num_counted
    if num_counted == 0:
        raise DataError(
            f"image-text loss: expected images and captions with common labels, found none among {anchor_BD.shape[0]} and "
            f"{candidate_GD.shape[0]} rows; labels must come from the caption id on both sides"
        )
    weight_B = (num_B > 0).to(anchor_BD.dtype) / num_counted
    pull_BD = sum_BD / num_B.clamp(min=1)[:, None]
    attraction = (weight_B * (anchor_BD * pull_BD).sum(1)).sum()
    return weighted_log_sum_exp(anchor_BD, candidate_GD, weight_B, None, tile_rows) - attraction
