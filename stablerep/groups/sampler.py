"""What makes images: the one interface between groups and text-to-image models.

Dimension key: H and W pixels. A sampler knows nothing about shards, files or quality; it may be the diffusers one, or a fake in a test.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

ImageHW3 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ImageRequest:
    """One image to make: the noise comes from `caption_id` and `image_index`, the content from `text`."""

    caption_id: str
    text: str
    image_index: int


class ImageSampler(Protocol):
    """Makes images of captions."""

    @property
    def size_px(self) -> int:
        """Height and width of what `sample` returns."""
        ...

    def sample(self, requests: Sequence[ImageRequest]) -> list[ImageHW3 | None]:
        """One image for each request, in their order: uint8 [H,W,3], or None where the model's numbers were not finite.

        Equal requests in calls of equal length give equal bytes, whatever else is in the call.
        """
        ...
