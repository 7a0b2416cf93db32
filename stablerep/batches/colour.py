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


def luma(image_n3HW: Tensor) -> Tensor:
    """Grey values [n,1,H,W]."""
    red, green, blue = image_n3HW.split(1, dim=1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def adjust_brightness_(image_n3HW: Tensor, factor_n: Tensor) -> Tensor:
    """Multiply and clamp."""
    return image_n3HW.mul_(_per_image(factor_n)).clamp_(0, 1)


def adjust_contrast_(image_n3HW: Tensor, factor_n: Tensor) -> Tensor:
    """Move away from (factor above 1) or towards the mean grey value of the image; clamp."""
    factor_n111 = _per_image(factor_n)
    mean_n111 = luma(image_n3HW).mean(dim=(1, 2, 3), keepdim=True)
    return image_n3HW.mul_(factor_n111).add_((1 - factor_n111) * mean_n111).clamp_(0, 1)


def adjust_saturation_(image_n3HW: Tensor, factor_n: Tensor) -> Tensor:
    """Move away from or towards the grey image; clamp."""
    factor_n111 = _per_image(factor_n)
    grey_n1HW = luma(image_n3HW).mul_(1 - factor_n111)
    return image_n3HW.mul_(factor_n111).add_(grey_n1HW).clamp_(0, 1)


def adjust_hue_(image_n3HW: Tensor, shift_n: Tensor) -> Tensor:
    """Turn the hue by `shift_n` turns (-0.5 to 0.5), keeping value and saturation of HSV."""
    red, green, blue = image_n3HW.split(1, dim=1)
    value_n1HW = image_n3HW.amax(dim=1, keepdim=True)
    chroma_n1HW = value_n1HW - image_n3HW.amin(dim=1, keepdim=True)
    scale_n1HW = chroma_n1HW.clamp_min(1e-12).reciprocal_()
    # Hue in sixths of a turn: 0 red, 2 green, 4 blue; where two channels are largest both formulas agree.
    hue_n1HW = torch.where(
        red == value_n1HW,
        (green - blue).mul_(scale_n1HW),
        torch.where(green == value_n1HW, (blue - red).mul_(scale_n1HW).add_(2), (red - green).mul_(scale_n1HW).add_(4)),
    ).add_(6 * _per_image(shift_n))
    for channel_n1HW, offset in ((red, 5), (green, 3), (blue, 1)):
        # f(k) = V - C max(0, min(k, 4 - k, 1)) with k = (offset + hue) mod 6
        k_n1HW = (hue_n1HW + offset).remainder_(6)
        ramp_n1HW = k_n1HW.sub_(2).abs_().neg_().add_(2).clamp_(0, 1)  # min(k, 4 - k) = 2 - |k - 2|
        torch.addcmul(value_n1HW, chroma_n1HW, ramp_n1HW, value=-1, out=channel_n1HW)
    return image_n3HW


def blur(image_n3HW: Tensor, sigma_n: Tensor, radius: int) -> Tensor:
    """Gaussian blur with one sigma (pixels) per image, 2 R + 1 taps, edges reflected."""
    height, width = image_n3HW.shape[-2:]
    radius = min(radius, height - 1, width - 1)
    offset_R = torch.arange(radius + 1, dtype=torch.float32, device=image_n3HW.device)
    weight_nR = torch.exp(-0.5 * (offset_R / sigma_n[:, None]).square())
    weight_nR = weight_nR / (2 * weight_nR.sum(dim=1, keepdim=True) - weight_nR[:, :1])
    weights = [_per_image(weight_n) for weight_n in weight_nR.unbind(1)]
    rows = F.pad(image_n3HW, (0, 0, radius, radius), mode="reflect")
    down_n3HW = _taps([rows.narrow(2, start, height) for start in range(2 * radius + 1)], weights)
    columns = F.pad(down_n3HW, (radius, radius, 0, 0), mode="reflect")
    return _taps([columns.narrow(3, start, width) for start in range(2 * radius + 1)], weights)


def _taps(shifted: list[Tensor], weights: list[Tensor]) -> Tensor:
    radius = len(weights) - 1
    total = shifted[radius] * weights[0]
    for distance in range(1, radius + 1):
        total.addcmul_(shifted[radius - distance] + shifted[radius + distance], weights[distance])
    return total


def _per_image(value_n: Tensor) -> Tensor:
    return value_n[:, None, None, None]
