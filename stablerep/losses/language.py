"""The image-text loss of StableRep+ (arXiv 2306.00984, section 3.3; weights 1 and 1 beside the image loss are the caller's).

Dimension key: B images of this rank, N captions of this rank, G images and H captions of all ranks, D embedding. One text row per
caption: an image's target is its caption, a caption's target is uniform over its images; the loss is the mean of the two directions.
Rows belong together when their labels are equal, so a caption that occurs twice is one label: both its rows are targets and neither is
a negative. With one image per caption this is CLIP's loss. It does not gather: `distributed.all_gather` does.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import torch
from torch import Tensor

from stablerep.errors import DataError
from stablerep.losses.backends import chosen_backend
from stablerep.losses.direction import How, Sides, counted_weight, cross_entropy
from stablerep.losses.rows import check_rows, checked_weights, is_narrow, unit_rows
from stablerep.losses.scale import bounded_log_scale


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
    image_weights_B: Tensor | None = None,
    all_image_weights_G: Tensor | None = None,
    num_ranks: int | None = None,
    backend: str = "auto",
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
        image_weights_B: weight of every image, as in `multi_positive`: in the mean of the first direction, in the targets of the second.
        all_image_weights_G: weights of the images of all ranks.
        num_ranks: as in `multi_positive`.
        backend: as in `multi_positive`.
        tile_rows: anchors per tile of logits; 0 chooses.

    Raises:
        DataError: no image has its caption (or no caption an image), or rows, labels and weights do not belong together.
        ConfigError: an unknown backend, or one that cannot work on these rows.
    """
    all_image_GD = image_BD if all_image_GD is None else all_image_GD
    all_text_HD = text_ND if all_text_HD is None else all_text_HD
    all_image_labels_G = image_labels_B if all_image_labels_G is None else all_image_labels_G
    all_text_labels_H = text_labels_N if all_text_labels_H is None else all_text_labels_H
    all_image_weights_G = image_weights_B if all_image_weights_G is None else all_image_weights_G
    for rows, labels, what in (
        (image_BD, image_labels_B, "images"),
        (text_ND, text_labels_N, "captions"),
        (all_image_GD, all_image_labels_G, "images of all ranks"),
        (all_text_HD, all_text_labels_H, "captions of all ranks"),
    ):
        check_rows(rows, labels, what)
    to_text, to_image = both_sides(
        (image_labels_B, text_labels_N, image_weights_B), (all_image_labels_G, all_text_labels_H, all_image_weights_G)
    )
    whole = (to_text, to_image)
    if num_ranks is not None:
        all_rows = (all_image_labels_G, all_text_labels_H, all_image_weights_G)
        whole = both_sides(all_rows, all_rows)
    total_weight, total_text_weight = (counted_weight(sides) / (num_ranks or 1) for sides in whole)
    check_matched(total_weight, total_text_weight, len(all_image_labels_G), len(all_text_labels_H))
    how = How(chosen_backend(backend, image_BD), tile_rows, is_narrow(image_BD))
    with torch.autocast(image_BD.device.type, enabled=False):
        image_BD, text_ND, all_image_GD, all_text_HD = map(unit_rows, (image_BD, text_ND, all_image_GD, all_text_HD))
        scale = bounded_log_scale(logit_scale).to(image_BD.dtype).exp()
        image_loss = cross_entropy(image_BD * scale, all_text_HD, to_text, total_weight, 1.0, how)
        text_loss = cross_entropy(text_ND * scale, all_image_GD, to_image, total_text_weight, 1.0, how)
        return (image_loss + text_loss) / 2


def both_sides(anchors: tuple[Tensor, Tensor, Tensor | None], candidates: tuple[Tensor, Tensor, Tensor | None]) -> tuple[Sides, Sides]:
    """Image to text and text to image.

    Args:
        anchors: labels of images, labels of captions and weights of images, of the rows that are anchors.
        candidates: the same of the rows that are candidates.
    """
    (image_labels_B, text_labels_N, image_weights_B), (all_image_labels_G, all_text_labels_H, all_image_weights_G) = anchors, candidates
    weights_B = checked_weights(image_weights_B, image_labels_B, "image_weights")
    weights_G = checked_weights(all_image_weights_G, all_image_labels_G, "all_image_weights")
    text_weights_N = checked_weights(None, text_labels_N, "captions")
    text_weights_H = checked_weights(None, all_text_labels_H, "captions of all ranks")
    return (
        Sides(image_labels_B, weights_B, all_text_labels_H, text_weights_H),
        Sides(text_labels_N, text_weights_N, all_image_labels_G, weights_G, is_weighted=all_image_weights_G is not None),
    )


def check_matched(image_weight: float, text_weight: float, num_images: int, num_texts: int) -> None:
    """Refuse images and captions that have nothing to do with each other.

    Raises:
        DataError: no image has its caption, or no caption an image of weight above 0.
    """
    if image_weight == 0 or text_weight == 0:
        raise DataError(
            f"image-text loss: expected images and captions with common labels, found none among {num_images} and "
            f"{num_texts} rows; labels must come from the caption id on both sides"
        )
