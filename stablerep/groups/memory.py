"""A batch that does not fit in memory is halved and made again; the images are the same, because their noise is theirs alone.

The smaller size is kept for the rest of the lane. Every call of the sampler inside has the same number of requests, the last one
repeated where they are short, so compiled graphs stay valid.
"""

import gc
import logging
from collections.abc import Callable, Sequence

import torch

from stablerep.errors import ConfigError
from stablerep.groups.sampler import ImageHW3, ImageRequest, ImageSampler

log = logging.getLogger("stablerep")


class HalvingSampler:
    """A sampler that survives `torch.OutOfMemoryError`.

    Args:
        inner: makes the images.
        on_halved: called with the new batch size after each shortage.
    """

    def __init__(self, inner: ImageSampler, on_halved: Callable[[int], None] = lambda _: None) -> None:
        self._inner, self.on_halved = inner, on_halved
        self._largest = 0  # 0: no shortage yet

    @property
    def size_px(self) -> int:
        """Of the sampler inside."""
        return self._inner.size_px

    def sample(self, requests: Sequence[ImageRequest]) -> list[ImageHW3 | None]:
        """One image for each request, in their order.

        Raises:
            ConfigError: not even one image fits in memory.
        """
        images: list[ImageHW3 | None] = []
        while len(images) < len(requests):
            size = min(self._largest or len(requests), len(requests))
            batch = list(requests[len(images) : len(images) + size])
            try:
                made = self._inner.sample(batch + batch[-1:] * (size - len(batch)))
            except torch.OutOfMemoryError as error:
                self._halve(size, str(error))
                continue
            images += made[: len(batch)]
        return images

    def _halve(self, size: int, found: str) -> None:
        if size == 1:
            raise ConfigError(
                f"generate: expected room for one image on the device, found none ({found.splitlines()[0] if found else 'out of memory'}); "
                "pass --set generate.dtype=fp16 --set generate.is_vae_sliced=true, or take a device with more memory; finished groups "
                "are kept"
            )
        self._largest = size // 2
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.warning("out of memory with %d images at once: going on with %d; set generate.batch_size=%d", size, size // 2, size // 2)
        self.on_halved(self._largest)
