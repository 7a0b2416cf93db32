"""Encoded image bytes to a uint8 tensor, the same way for training, probes and the endpoint.

JPEG, PNG, WebP and whatever else Pillow reads; palette, grey, 16-bit and CMYK become RGB, transparency is laid over white, the EXIF
orientation is applied, of an animation the first frame is taken. It knows no normalisation and no augmentation.

Dimension key: H and W pixels, S the size asked for.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import io

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from stablerep.errors import DataError

MAX_PIXELS = 89_000_000  # Pillow itself warns from 89.5 million on
_PLAIN_MODES = ("RGB", "L")
_DEEP_TO_8_BITS = 257  # 65535 / 255


def decode_image(data: bytes, size_px: int | None = None) -> Tensor:
    """Decode one image.

    Args:
        data: the bytes of an image file.
        size_px: when given, the shorter side is resized to it (bicubic, antialiased) and the centre square is kept.

    Returns:
        uint8 [3, H, W]; [3, S, S] with `size_px`.

    Raises:
        DataError: the bytes are empty, not an image, truncated, damaged, or have over 89 million pixels.
    """
    if not data:
        raise DataError("cannot decode an image: expected the bytes of an image file, found 0 bytes")
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if width * height <= MAX_PIXELS:
                image.load()
                return image_tensor(image, size_px)
    except Exception as error:  # decoders of untrusted bytes raise nearly anything: OSError, SyntaxError, struct.error, IndexError ...
        raise DataError(f"cannot decode an image of {len(data)} bytes starting with {data[:8]!r}: {_reason(error)}") from error
    raise DataError(f"cannot decode an image of {width}x{height}: expected at most {MAX_PIXELS} pixels")


def image_tensor(image: Image.Image, size_px: int | None = None) -> Tensor:
    """A decoded image, prepared as `decode_image` does it: uint8 [3, H, W]; [3, S, S] with `size_px`."""
    return _tensor(_square(_rgb(image), size_px))


def _rgb(image: Image.Image) -> Image.Image:
    if 0x0112 in image.getexif():
        image = ImageOps.exif_transpose(image)
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip it to white
        image = Image.fromarray((np.asarray(image, dtype=np.uint32) // _DEEP_TO_8_BITS).clip(0, 255).astype(np.uint8))
    if image.mode in _PLAIN_MODES or not image.has_transparency_data:
        return image.convert("RGB")
    layered = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layered.size, (255, 255, 255, 255)), layered).convert("RGB")


def _square(image: Image.Image, size_px: int | None) -> Image.Image:
    """Shorter side to `size_px`, centre square; the rounding is that of torchvision's Resize and CenterCrop."""
    if size_px is None or image.size == (size_px, size_px):
        return image
    width, height = image.size
    longer = int(size_px * max(width, height) / min(width, height))
    width, height = (longer, size_px) if width > height else (size_px, longer)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size_px) / 2), round((height - size_px) / 2)
    return resized.crop((left, top, left + size_px, top + size_px))


def _tensor(image: Image.Image) -> Tensor:
    # Channel by channel: less than half the time of turning [H, W, 3] around.
    channels = bytearray().join(image.tobytes("raw", channel) for channel in "RGB")
    return torch.frombuffer(channels, dtype=torch.uint8).view(3, image.height, image.width)


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "no known image format (JPEG, PNG and WebP are expected)"
    return str(error) or type(error).__name__
