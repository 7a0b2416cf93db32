"""What the loader reads from and what it hands to training.

`GroupSource` is what a data set of image groups must offer; `stablerep.shards.read.GroupDataset` is the real one. Views are ordered
view-major: all N captions' first view, then all N captions' second view, so the labels of the flattened views are
`labels_N.repeat(M)`, not `repeat_interleave`.

Dimension key: M views (images) of a caption, L small crops of a caption, N captions of this rank, B = M*N, C channels, H and W pixels, T
tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from stablerep.errors import DataError
from stablerep.records import Caption

LABEL_BITS = 63
ImageWeights = Callable[[int], Sequence[float]]  # of every image of the group at a position


class GroupSource(Protocol):
    """Random access to image groups."""

    @property
    def num_groups(self) -> int:
        """How many groups there are."""
        ...

    @property
    def images_per_caption(self) -> int:
        """The most images a group has."""
        ...

    @property
    def total_images(self) -> int:
        """Images of all groups together."""
        ...

    def caption(self, position: int) -> Caption:
        """The caption of the group at `position`, 0 to num_groups - 1."""
        ...

    def num_images(self, position: int) -> int:
        """How many images the group at `position` has."""
        ...

    def images(self, position: int, indices: Sequence[int]) -> list[bytes]:
        """The encoded images of a group at the given places in the group."""
        ...

    def shard_name(self, position: int) -> str:
        """Which shard the group at `position` is in; for messages."""
        ...


@dataclass(frozen=True)
class Batch:
    """One rank's part of one step.

    `views_MNCHW` is float32 and normalised; `tokens_NT` int64 (T is 0 without a tokenizer); `labels_N` int64, equal exactly where
    captions are equal; `caption_ids` in the order of N. Only where an objective takes small crops: `local_LNCHW`, normalised, crop-major
    (all images' first crop, then their second), and `view_key_MN`, int64, a hash of (seed, step, caption, image) for what else is random.
    Only where a data set has weights: `weights_MN`, float32, of every view's image in the losses.
    """

    views_MNCHW: Tensor
    tokens_NT: Tensor
    labels_N: Tensor
    step: int
    caption_ids: tuple[str, ...]
    local_LNCHW: Tensor | None = None
    view_key_MN: Tensor | None = None
    weights_MN: Tensor | None = None

    def extras(self) -> dict[str, Any]:
        """What some objectives take besides views, tokens and labels: crops of a multi-crop one, weights of images."""
        weights = {} if self.weights_MN is None else {"weights_MN": self.weights_MN}
        if self.view_key_MN is None:
            return weights
        return {"local_LNCHW": self.local_LNCHW, "view_key_MN": self.view_key_MN, "step": self.step, **weights}

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with its tensors on `device`."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)


def caption_label(caption_id: str) -> int:
    """The integer label of a caption: the first 63 bits of its id, so equal captions agree on every rank and in every batch.

    Raises:
        DataError: the id is not 16 or more hexadecimal digits.
    """
    try:
        return int(caption_id[:16], 16) >> (64 - LABEL_BITS) if len(caption_id) >= 16 else _refuse(caption_id)
    except ValueError:
        return _refuse(caption_id)


def _refuse(caption_id: str) -> int:
    raise DataError(f"caption id {caption_id!r}: expected 16 hexadecimal digits (the start of the text's SHA-256); write the data set anew")
