"""The noise of one image: a function of its caption, its index and the noise seed, and of nothing else.

No batch, order, lane, rank or restart can change it. torch's CPU generator keeps only 32 bits of its seed (a Mersenne Twister), which
over millions of images would repeat noise; so each half of a 62-bit key seeds a generator of its own and the two draws are added (the
sum of two independent standard normals over the square root of 2 is a standard normal).
"""

import hashlib
import math
from collections.abc import Sequence

import torch

SEED_BITS = 31
KEY_BITS = 2 * SEED_BITS


def image_key(caption_id: str, image_index: int, noise_seed: int) -> int:
    """The 62-bit key of an image, from SHA-256 of its caption id, its index in the group (from 0) and the seed of the data set."""
    return _hashed(f"{caption_id}/{image_index}/{noise_seed}")


def latent_noise(key: int, shape: Sequence[int]) -> torch.Tensor:
    """Standard normal noise in float32 on the CPU: the same wherever this version of torch runs."""
    high, low = divmod(key, 1 << SEED_BITS)
    seeds = (low, high + (1 << SEED_BITS))  # never equal, and no other key has the same pair
    first, second = (torch.randn(tuple(shape), generator=_generator(seed), dtype=torch.float32) for seed in seeds)
    return (first + second) / math.sqrt(2)


def step_generator(key: int) -> torch.Generator:
    """A CPU generator for what a stochastic scheduler draws at each step; it does not repeat `latent_noise`."""
    return _generator(_hashed(f"{key}/steps") >> SEED_BITS)


def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big") >> (64 - KEY_BITS)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
