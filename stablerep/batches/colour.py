"""Colour operations on batches with one parameter per image; each equals torchvision's functional on float images.

Images are float32 in 0..1. Functions named `*_` change their argument, so that a chunk of images stays in the cache of one core.
Grey is ITU-R 601 luma; the hue is turned in HSV space.

Dimension key: n images, 3 channels, H and W pixels, R radius.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import torch
from torch import Tensor
from torch.nn import functional as F

LUMA = (0.2989, 0.587, 0.114)
BLUR_REACH = 3  # sigmas


def luma(image_n3HW: Tensor) -> Tensor:
    """Grey values [n,1,H,W]."""
    red, green, blue = image_n3HW.split(1, dim=1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def adjust_brightness_(image_n3HW: Tensor, factor_n: Tensor) -> Tensor:
    """Multiply and clamp."""
    return image_n3HW.mul_(_per_image(factor_n)).clamp_(0, 1)


def adjust_contrast_(image_n3HW: Tensor, factor_n: Tensor) -> Tensor:
    """Move away from (factor above 1) or towards the mean grey value of the image; clamp."""
    mean_n = (image_n3HW.mean(dim=(2, 3)) * image_n3HW.new_tensor(LUMA)).sum(dim=1)
    return image_n3HW.mul_(_per_image(factor_n)).add_(_per_image((1 - factor_n) * mean_n)).clamp_(0, 1)


def adjust_saturation_(image_n3HW: Tensor, factor_n: Tensor) -> Tensor:
    """Move away from or towards the grey image; clamp."""
    grey_n1HW = luma(image_n3HW).mul_(_per_image(1 - factor_n))
    return image_n3HW.mul_(_per_image(factor_n)).add_(grey_n1HW).clamp_(0, 1)


def adjust_hue_(image_n3HW: Tensor, shift_n: Tensor) -> Tensor:
    """Turn the hue by `shift_n` turns (-0.5 to 0.5), keeping value and saturation of HSV.

    Branches are products with 0 or 1 kept as floats: on a CPU `torch.where` and booleans take five to twenty times as long.
    """
    red, green, blue = image_n3HW.split(1, dim=1)
    value_n1HW = torch.maximum(torch.maximum(red, green), blue)
    chroma_n1HW = value_n1HW - torch.minimum(torch.minimum(red, green), blue)
    scale_n1HW = chroma_n1HW.clamp_min(1e-12).reciprocal_()
    # Hue in sixths of a turn: red 0, green 2, blue 4; where two channels are largest their formulas agree.
    hue_n1HW = (red - green).mul_(scale_n1HW).add_(4)
    is_largest_n1HW = torch.empty_like(value_n1HW)
    torch.eq(green, value_n1HW, out=is_largest_n1HW)
    hue_n1HW.add_((blue - red).mul_(scale_n1HW).add_(2).sub_(hue_n1HW).mul_(is_largest_n1HW))
    torch.eq(red, value_n1HW, out=is_largest_n1HW)
    hue_n1HW.add_((green - blue).mul_(scale_n1HW).sub_(hue_n1HW).mul_(is_largest_n1HW))
    hue_n1HW.add_(_per_image(6 * shift_n))
    hue_n1HW.sub_((hue_n1HW * (1 / 6)).floor_(), alpha=6)
    for channel_n1HW, opposite in ((red, 3), (green, 5), (blue, 1)):
        # A channel is V - C clamp(2 - d, 0, 1); d is the distance on the circle of 6 from the hue opposite to it: 3 - ||h - o| - 3|.
        ramp_n1HW = (hue_n1HW - opposite).abs_().sub_(3).abs_().sub_(1).clamp_(0, 1)
        torch.addcmul(value_n1HW, chroma_n1HW, ramp_n1HW, value=-1, out=channel_n1HW)
    return image_n3HW


def blur(image_n3HW: Tensor, sigma_n: Tensor) -> Tensor:
    """Gaussian blur with one sigma (pixels) per image, cut off at three sigmas, edges reflected."""
    height, width = image_n3HW.shape[-2:]
    radius_n = (BLUR_REACH * sigma_n).ceil()
    radius = min(int(radius_n.max()), height - 1, width - 1)
    offset_R = torch.arange(radius + 1, dtype=torch.float32, device=image_n3HW.device)
    weight_nR = torch.exp(-0.5 * (offset_R / sigma_n[:, None]).square()) * (offset_R <= radius_n[:, None])
    weight_nR = weight_nR / (2 * weight_nR.sum(dim=1, keepdim=True) - weight_nR[:, :1])
    weights = [_per_image(weight_n) for weight_n in weight_nR.unbind(1)]
    rows = F.pad(image_n3HW, (0, 0, radius, radius), mode="reflect")
    down_n3HW = _taps([rows.narrow(2, start, height) for start in range(2 * radius + 1)], weights)
    columns = F.pad(down_n3HW, (radius, radius, 0, 0), mode="reflect")
    return _taps([columns.narrow(3, start, width) for start in range(2 * radius + 1)], weights)


def _taps(shifted: list[Tensor], weights: list[Tensor]) -> Tensor:
    radius = len(weights) - 1
    total = shifted[radius] * weights[0]
    pair = torch.empty_like(total)
    for distance in range(1, radius + 1):
        torch.add(shifted[radius - distance], shifted[radius + distance], out=pair)
        total.addcmul_(pair, weights[distance])
    return total


def _per_image(value_n: Tensor) -> Tensor:
    return value_n[:, None, None, None]
