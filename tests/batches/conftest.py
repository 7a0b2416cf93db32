"""A data set of image groups in memory: the same interface as the one over shards, and fast."""

import hashlib
import io
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from PIL import Image

from stablerep.records import Caption


def encode(pixels: np.ndarray, image_format: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, image_format)
    return stream.getvalue()


class MemoryGroups:
    """Groups of random images; `reads` counts how often an image was read."""

    def __init__(self, num_images: Sequence[int], size_px: int = 16) -> None:
        random = np.random.default_rng(0)
        self._groups = [
            [encode(random.integers(0, 256, (size_px, size_px, 3), dtype=np.uint8)) for _ in range(number)] for number in num_images
        ]
        self.reads = 0

    @property
    def num_groups(self) -> int:
        return len(self._groups)

    @property
    def images_per_caption(self) -> int:
        return max(map(len, self._groups))

    @property
    def total_images(self) -> int:
        return sum(map(len, self._groups))

    def caption(self, position: int) -> Caption:
        text = f"a photo of thing number {position}"
        return Caption(hashlib.sha256(text.encode()).hexdigest()[:16], text)

    def num_images(self, position: int) -> int:
        return len(self._groups[position])

    def images(self, position: int, indices: Sequence[int]) -> list[bytes]:
        self.reads += len(indices)
        return [self._groups[position][index] for index in indices]

    def shard_name(self, position: int) -> str:
        return f"shards/{position // 10:05d}.tar"

    def replace(self, position: int, index: int, data: bytes) -> None:
        self._groups[position][index] = data


@pytest.fixture
def memory_groups() -> Callable[..., MemoryGroups]:
    return MemoryGroups
