"""Images that are made when they are asked for, so that a data set need not fit in memory.

Dimension key: N images, S pixels a side.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import numpy.typing as npt

_NUM_THREADS = 8

UInt8Array = npt.NDArray[np.uint8]


class Images(Protocol):
    """N images that are read by slices: a uint8 array [N,3,S,S] is one, and so is `LazyImages`."""

    def __len__(self) -> int:
        """N."""
        ...

    def __getitem__(self, part: slice, /) -> UInt8Array:
        """Images of a slice, uint8 [n,3,S,S]."""
        ...


class LazyImages:
    """Images that a function makes from their position.

    Args:
        num_images: N.
        load: makes the image at a position, uint8 [3,R,R] with R of at least `size_px`; called from several threads.
        size_px: side S of the square that is kept from the centre.
    """

    def __init__(self, num_images: int, load: Callable[[int], UInt8Array], size_px: int) -> None:
        self._num_images, self._load, self._size_px = num_images, load, size_px

    def __len__(self) -> int:
        """How many images."""
        return self._num_images

    def __getitem__(self, part: slice, /) -> UInt8Array:
        """Make the images of a slice; raises what `load` raises."""
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            images = list(pool.map(self._load, range(*part.indices(self._num_images))))
        return centre(np.stack(images), self._size_px) if images else np.empty((0, 3, self._size_px, self._size_px), dtype=np.uint8)


def centre(images: UInt8Array, size_px: int) -> UInt8Array:
    """The square of `size_px` in the middle of the last two dimensions."""
    top, left = ((side - size_px) // 2 for side in images.shape[-2:])
    return images[..., top : top + size_px, left : left + size_px]
