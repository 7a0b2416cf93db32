"""How an image must look before the trunk sees it: size, crop, interpolation, normalisation.

`preprocessor.json` of an exported encoder holds one `Preprocessor`. This file decides the numbers; decoding and resizing are elsewhere.
"""

from dataclasses import asdict, dataclass
from typing import Any

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_SMALLEST_PHOTOGRAPH_PX = 64


@dataclass(frozen=True)
class Preprocessor:
    """Resize the shorter side to `resize`, cut the centre `crop` x `crop`, scale to [0, 1], subtract `mean`, divide by `std`."""

    size_px: int
    resize: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str


def normalisation(size_px: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel: ImageNet's from 64 px on, 0.5 and 0.5 for the embedded recipes' small images."""
    return _IMAGENET if size_px >= _SMALLEST_PHOTOGRAPH_PX else _HALF


def default_preprocessor(size_px: int) -> dict[str, Any]:
    """The preprocessor of an encoder trained at `size_px`, as plain data.

    Photographs are resized to 8/7 of the crop first (224 px: Resize 256, CenterCrop 224, as the paper evaluates); small images are not cut.
    """
    mean, std = normalisation(size_px)
    resize = round(size_px * 8 / 7) if size_px >= _SMALLEST_PHOTOGRAPH_PX else size_px
    return asdict(Preprocessor(size_px, resize, size_px, mean, std, "bicubic"))
