"""An image file to what the trunk takes: size, crop and normalisation of `preprocessor.json`.

Decoding and resizing are those of training and probes (`stablerep.batches.decode`); the caller's limits come first.

Dimension key: H and W pixels, S the encoder's size.
"""

# pyright: reportUnknownMemberType=false
import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stablerep.batches.decode import decode_image
from stablerep.endpoint.limits import Limits
from stablerep.errors import BadImageError, DataError
from stablerep.models import Preprocessor


def preprocess_image(data: bytes, preprocessor: Preprocessor, limits: Limits) -> Tensor:
    """Check, decode, resize, crop and normalise one image.

    Args:
        data: the bytes of an image file.
        preprocessor: of the encoder.
        limits: what a caller may send.

    Returns:
        float32 [3, S, S].

    Raises:
        BadImageError: it cannot be decoded.
        TooLargeError: it has too many bytes or pixels.
    """
    limits.check_image(data)
    try:
        image_3HW = decode_image(data, preprocessor.resize)
    except DataError as error:
        raise BadImageError(str(error)) from error
    return normalise(centre_crop(image_3HW, preprocessor.crop), preprocessor)


def centre_crop(image_3HW: Tensor, crop_px: int) -> Tensor:
    """The centre square of an image, [3, crop_px, crop_px]."""
    top, left = (round((size - crop_px) / 2) for size in image_3HW.shape[1:])
    return image_3HW[:, top : top + crop_px, left : left + crop_px]


def normalise(image_3SS: Tensor, preprocessor: Preprocessor) -> Tensor:
    """uint8 to float32: scaled to [0, 1], mean subtracted, divided by the standard deviation, per channel."""
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (preprocessor.mean, preprocessor.std))
    return (image_3SS.float() / 255 - mean) / std


def file_of_pixels(pixels_HW3: np.ndarray[Any, np.dtype[Any]]) -> bytes:
    """Pixels as an uncompressed image file, so that they take the way that files take.

    Args:
        pixels_HW3: uint8 [H, W, 3].
    """
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels_HW3)).save(content, "BMP")
    return content.getvalue()
