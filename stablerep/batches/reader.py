"""The batch of a step: groups chosen, images drawn and decoded, captions tokenised, views made.

A `BatchReader` has no position: `read(step)` gives the same batch in any process, which is what makes workers, resuming and other
numbers of ranks safe. Decoded images are kept in memory where the whole data set fits. Groups with fewer images than are drawn are left
out when the reader is made, and counted.

Dimension key: M images drawn per caption, N captions of this rank, B = M*N view-major, D side of a stored image, T tokens.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stablerep.batches.augment import Augmenter
from stablerep.batches.batch import Batch, GroupSource, caption_label
from stablerep.batches.decode import decode_image
from stablerep.batches.order import GroupOrder
from stablerep.batches.tokenize import CaptionTokenizer
from stablerep.errors import ConfigError, DataError
from stablerep.records import Caption

_NUM_CAPTIONS_KEPT = 100_000


@dataclass(frozen=True)
class LoadedImages:
    """A batch before augmentation: uint8 images, view-major, and what keys their views."""

    image_B3DD: Tensor
    labels_B: Tensor
    image_index_B: Tensor
    tokens_NT: Tensor
    labels_N: Tensor
    step: int
    caption_ids: tuple[str, ...]


class BatchReader:
    """Reads one rank's part of any step; see `GroupLoader` for the arguments.

    Attributes:
        order: the order of the usable groups.
        num_skipped_groups: groups with fewer than `images_per_caption` images.
    """

    def __init__(
        self,
        dataset: GroupSource,
        tokenizer: CaptionTokenizer | None,
        augmenter: Augmenter,
        *,
        captions_per_batch: int,
        images_per_caption: int,
        rank: int,
        world_size: int,
        seed: int,
        largest_side_px: int,
        cache_bytes: int,
    ) -> None:
        self._dataset, self._tokenizer, self._augmenter = dataset, tokenizer, augmenter
        self._images_per_caption, self._rank, self._world_size = images_per_caption, rank, world_size
        counts = torch.tensor([dataset.num_images(position) for position in range(dataset.num_groups)], dtype=torch.int64)
        self._usable = (counts >= images_per_caption).nonzero()[:, 0]
        self._counts, self._starts = counts, counts.cumsum(0) - counts
        self.num_skipped_groups = len(counts) - len(self._usable)
        self.order = self._order(captions_per_batch, seed)
        self._captions: dict[int, tuple[Caption, Tensor]] = {}
        self._side_px = self._stored_side(largest_side_px)
        num_images = int(counts.sum())
        is_kept = num_images * 3 * self._side_px**2 <= cache_bytes
        self._kept = torch.empty(num_images, 3, self._side_px, self._side_px, dtype=torch.uint8) if is_kept else None
        self._is_kept = torch.zeros(num_images if is_kept else 0, dtype=torch.bool)

    def read(self, step: int) -> Batch:
        """The batch of a step, on the CPU."""
        return self.augment(self.load(step))

    def load(self, step: int) -> LoadedImages:
        """The images of a step, decoded.

        Raises:
            DataError: a stored image cannot be decoded; the message names shard, caption and image.
        """
        position_N = self._usable[self.order.groups(step, self._rank, self._world_size)]
        positions: list[int] = position_N.tolist()
        captions = [self._caption(position) for position in positions]
        caption_ids = tuple(caption.caption_id for caption, _ in captions)
        labels_N = torch.tensor([caption_label(caption_id) for caption_id in caption_ids], dtype=torch.int64)
        index_NM = self.order.draw(step, labels_N, self._counts[position_N], self._images_per_caption)
        return LoadedImages(
            image_B3DD=self._images(positions, index_NM),
            labels_B=labels_N.repeat(self._images_per_caption),
            image_index_B=index_NM.T.reshape(-1),
            tokens_NT=torch.stack([tokens_T for _, tokens_T in captions]),
            labels_N=labels_N,
            step=step,
            caption_ids=caption_ids,
        )

    def augment(self, loaded: LoadedImages, device: torch.device | None = None) -> Batch:
        """Views of loaded images, made on `device` (default: where the images are)."""
        image_B3DD = loaded.image_B3DD if device is None else loaded.image_B3DD.to(device)
        view_B3SS = self._augmenter(image_B3DD, loaded.labels_B, loaded.image_index_B, loaded.step)
        views_MNCHW = view_B3SS.unflatten(0, (self._images_per_caption, -1))
        batch = Batch(views_MNCHW, loaded.tokens_NT, loaded.labels_N, loaded.step, loaded.caption_ids)
        return batch if device is None else batch.to(device)

    def _order(self, captions_per_batch: int, seed: int) -> GroupOrder:
        try:
            return GroupOrder(len(self._usable), captions_per_batch, seed)
        except ConfigError as error:
            if not self.num_skipped_groups:
                raise
            raise ConfigError(
                f"{error} ({self.num_skipped_groups} of {len(self._counts)} groups have fewer than "
                f"pretrain.images_per_caption={self._images_per_caption} images and were left out)"
            ) from error

    def _caption(self, position: int) -> tuple[Caption, Tensor]:
        found = self._captions.get(position)
        if found is None:
            caption = self._dataset.caption(position)
            tokens_NT = self._tokenizer.encode([caption.text]) if self._tokenizer else torch.zeros(1, 0, dtype=torch.int64)
            found = (caption, tokens_NT[0])
            if len(self._captions) < _NUM_CAPTIONS_KEPT:
                self._captions[position] = found
        return found

    def _images(self, positions: Sequence[int], index_NM: Tensor) -> Tensor:
        """The drawn images, view-major: uint8 [M*N,3,D,D]."""
        if self._kept is None:
            groups = [self._decode(position, row) for position, row in zip(positions, index_NM.tolist(), strict=True)]
            return torch.stack([image for view in zip(*groups, strict=True) for image in view])
        place_NM = self._starts[torch.tensor(positions)][:, None] + index_NM
        is_missing_NM = ~self._is_kept[place_NM]
        for number in is_missing_NM.any(dim=1).nonzero()[:, 0].tolist():
            missing_M = is_missing_NM[number]
            for place, image in zip(
                place_NM[number][missing_M].tolist(), self._decode(positions[number], index_NM[number][missing_M].tolist()), strict=True
            ):
                self._kept[place] = image
                self._is_kept[place] = True
        return self._kept[place_NM.T.reshape(-1)]

    def _decode(self, position: int, indices: list[int], side_px: int | None = None) -> list[Tensor]:
        images: list[Tensor] = []
        for index, data in zip(indices, self._dataset.images(position, indices), strict=True):
            try:
                images.append(decode_image(data, side_px or self._side_px))
            except DataError as error:
                caption = self._dataset.caption(position)
                raise DataError(
                    f"shard {self._dataset.shard_name(position)}, caption {caption.caption_id}, image {index}: {error}; "
                    "the shard was committed with a bad image: delete its commit record and run generate and commit again"
                ) from error
        return images

    def _stored_side(self, largest_side_px: int) -> int:
        """The side all images are brought to: as the first one is stored, but not more than `largest_side_px`."""
        first = int(self._usable[0])
        (data,) = self._dataset.images(first, [0])
        try:
            image_3HW = decode_image(data)
        except DataError:
            self._decode(first, [0], largest_side_px)  # fails with the place of the image
            raise
        return min(*image_3HW.shape[1:], largest_side_px)
