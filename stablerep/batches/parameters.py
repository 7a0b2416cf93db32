"""What is random about a view: crop, flip, rotation, colours, blur and noise, drawn for a whole batch at once.

Every number is a hash of (seed, step, caption, place of the image in its group), see counter.py, so a view does not depend on rank,
number of ranks, batch composition or worker. The crop follows torchvision's RandomResizedCrop: area uniform, log of the aspect ratio
uniform, ten tries, then the whole image.

Dimension key: B images.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stablerep.batches.counter import below, fold, uniforms, words
from stablerep.config.schema import AugmentConfig

RATIO_MIN, RATIO_MAX = 3 / 4, 4 / 3
DOWN_PX = (64, 128)
BLUR_SIGMA_MIN, BLUR_SIGMA_MAX = 0.1, 2.0  # pixels of the view
_NUM_TRIES = 10
_VIEW_KEY, _COLOUR_ORDER_KEY = 3, 4
_NUM_OTHERS = 14


@dataclass(frozen=True)
class ViewParameters:
    """Parameters of B views; lengths are fractions of the image's sides.

    `left_B top_B width_B height_B` is the crop; `is_flipped_B` bool; `angle_B` radians; `brightness_B contrast_B saturation_B` are
    factors around 1 and `hue_B` a shift in turns, valid where `is_jittered_B`; `is_grey_B`, `is_blurred_B` bool; `sigma_B` pixels;
    `noise_key_B` int64; `down_px_B` is the side in pixels that an image is first brought down to, 0 for most.
    """

    left_B: Tensor
    top_B: Tensor
    width_B: Tensor
    height_B: Tensor
    is_flipped_B: Tensor
    angle_B: Tensor
    is_jittered_B: Tensor
    brightness_B: Tensor
    contrast_B: Tensor
    saturation_B: Tensor
    hue_B: Tensor
    is_grey_B: Tensor
    is_blurred_B: Tensor
    sigma_B: Tensor
    noise_key_B: Tensor
    down_px_B: Tensor


def draw_parameters(augment: AugmentConfig, seed: int, step: int, labels_B: Tensor, image_index_B: Tensor, aspect: float) -> ViewParameters:
    """Parameters of the views of B images.

    Args:
        augment: the ranges.
        seed: of the run.
        step: of the training.
        labels_B: int64 label of each image's caption.
        image_index_B: int64 place of each image in its group; a second view has another number, by VIEW_SHIFT.
        aspect: width / height of the images.
    """
    key_B = fold(_VIEW_KEY, seed, step, labels_B, image_index_B)
    uniform_BK = uniforms(key_B, 2 * _NUM_TRIES + _NUM_OTHERS)
    width_B, height_B = _crop_sides(augment, uniform_BK[:, : 2 * _NUM_TRIES], aspect)
    u = uniform_BK[:, 2 * _NUM_TRIES :].unbind(1)

    def between(low: float, high: float, uniform_B: Tensor) -> Tensor:
        return low + (high - low) * uniform_B

    def factor(uniform_B: Tensor) -> Tensor:
        return between(max(0.0, 1 - augment.jitter), 1 + augment.jitter, uniform_B)

    rotation = math.radians(augment.rotation_degrees)
    return ViewParameters(
        left_B=u[0] * (1 - width_B),
        top_B=u[1] * (1 - height_B),
        width_B=width_B,
        height_B=height_B,
        is_flipped_B=u[2] < (0.5 if augment.is_flipped else 0.0),
        angle_B=between(-rotation, rotation, u[3]),
        is_jittered_B=u[4] < augment.jitter_probability,
        brightness_B=factor(u[5]),
        contrast_B=factor(u[6]),
        saturation_B=factor(u[7]),
        hue_B=between(-augment.hue, augment.hue, u[8]),
        is_grey_B=u[9] < augment.grey_probability,
        is_blurred_B=u[10] < augment.blur_probability,
        sigma_B=between(BLUR_SIGMA_MIN, BLUR_SIGMA_MAX, u[11]),
        noise_key_B=key_B,
        down_px_B=torch.where(u[13] < 0.5, *DOWN_PX) * (u[12] < augment.downsample_probability),
    )


def colour_order(seed: int, step: int) -> list[int]:
    """The order of brightness 0, contrast 1, saturation 2 and hue 3 in a step: all 24 are equally likely.

    torchvision draws it per image; drawn per step an image meets every order over the training all the same, and a batch stays one
    tensor.
    """
    order = [0, 1, 2, 3]
    for last, word in zip((3, 2, 1), words(fold(_COLOUR_ORDER_KEY, seed, step)[None], 3)[0], strict=True):
        other = int(below(word, last + 1))
        order[last], order[other] = order[other], order[last]
    return order


def _crop_sides(augment: AugmentConfig, uniform_BK: Tensor, aspect: float) -> tuple[Tensor, Tensor]:
    area_BA = augment.crop_scale_min + (augment.crop_scale_max - augment.crop_scale_min) * uniform_BK[:, :_NUM_TRIES]
    log_low, log_high = math.log(RATIO_MIN), math.log(RATIO_MAX)
    ratio_BA = torch.exp(log_low + (log_high - log_low) * uniform_BK[:, _NUM_TRIES:]) / aspect
    width_BA, height_BA = (area_BA * ratio_BA).sqrt(), (area_BA / ratio_BA).sqrt()
    fits_BA = (width_BA <= 1) & (height_BA <= 1)
    first_B1 = fits_BA.to(torch.uint8).argmax(dim=1, keepdim=True)
    is_found_B = fits_BA.any(dim=1)
    # Where no try fits, torchvision takes the largest centred crop of an allowed ratio: the whole image, as stored images are square.
    return tuple(torch.where(is_found_B, side_BA.gather(1, first_B1)[:, 0], 1.0) for side_BA in (width_BA, height_BA))  # pyright: ignore[reportReturnType]
