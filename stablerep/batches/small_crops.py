"""Several small crops of each image, for objectives that compare them with whole views (multi-crop, arXiv 2006.09882).

Like every view, a crop is a function of (seed, step, caption, image) and of its number, whatever the rank.

Dimension key: B = I*N images, image-major; L small crops of a caption, L = I times the crops of an image; D side of a stored image.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from stablerep.batches.augment import VIEW_SHIFT, Augmenter
from stablerep.batches.counter import fold
from stablerep.config.schema import AugmentConfig, SynClrConfig

_KEY = 5  # what the numbers are for, as in order.py and parameters.py


class SmallCrops:
    """Makes them, and a key for each whole view.

    Args:
        augment: of the whole views; small crops differ in size and in the share of the image that they cover.
        settings: how many, how large.
        mean: of each channel, in 0..1.
        std: of each channel.
        seed: of the run.
    """

    def __init__(self, augment: AugmentConfig, settings: SynClrConfig, *, mean: Sequence[float], std: Sequence[float], seed: int) -> None:
        small = replace(augment, crop_scale_min=settings.local_scale_min, crop_scale_max=settings.local_scale_max)
        self._augmenter = Augmenter(small, size_px=settings.local_size_px, mean=mean, std=std, seed=seed)
        self._num_crops, self._seed = settings.num_local_crops, seed

    def __call__(
        self, image_B3DD: Tensor, labels_B: Tensor, image_index_B: Tensor, step: int, num_captions: int
    ) -> tuple[Tensor | None, Tensor]:
        """Small crops [L, N, 3, S, S], crop-major, or None where there are none; and int64 keys [I, N] of the whole views."""
        labels_B, image_index_B = labels_B.to(image_B3DD.device), image_index_B.to(image_B3DD.device)
        key_IN = fold(_KEY, self._seed, step, labels_B, image_index_B).unflatten(0, (-1, num_captions))
        if not self._num_crops:
            return None, key_IN
        crops = [self._augmenter(image_B3DD, labels_B, image_index_B + ((1 + crop) << VIEW_SHIFT), step) for crop in range(self._num_crops)]
        return torch.cat(crops).unflatten(0, (-1, num_captions)), key_IN
