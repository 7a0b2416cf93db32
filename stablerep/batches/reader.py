"""The batch of a step: groups chosen, images drawn and decoded, captions tokenised, views made.

A `BatchReader` has no position: `read(step)` gives the same batch in any process, which is what makes workers, resuming and other
numbers of ranks safe.

Dimension key: I images drawn per caption, N captions of this rank, B = I*N in the order of views, D side of a stored image, T tokens; M
views of a caption, M = I times the views of an image.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stablerep.batches.augment import VIEW_SHIFT, Augmenter
from stablerep.batches.batch import Batch, GroupSource, ImageWeights, caption_label
from stablerep.batches.images import GroupImages
from stablerep.batches.order import GroupOrder
from stablerep.batches.small_crops import SmallCrops
from stablerep.batches.tokenize import CaptionTokenizer
from stablerep.batches.usable import UsableGroups
from stablerep.errors import ConfigError

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
    weights_MN: Tensor | None = None


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
        small_crops: SmallCrops | None = None,
        *,
        captions_per_batch: int,
        images_per_caption: int,
        views_per_image: int = 1,
        rank: int,
        world_size: int,
        seed: int,
        largest_side_px: int,
        cache_bytes: int,
        image_weights: ImageWeights | None = None,
    ) -> None:
        self._dataset, self._tokenizer, self._augmenter, self._small_crops = dataset, tokenizer, augmenter, small_crops
        self._images_per_caption, self._rank, self._world_size = images_per_caption, rank, world_size
        self._views_per_image = views_per_image
        self._usable = UsableGroups(dataset, images_per_caption)
        self.num_skipped_groups = self._usable.num_skipped
        self.order = self._order(captions_per_batch, seed)
        self._images = GroupImages(dataset, self._usable, largest_side_px=largest_side_px, cache_bytes=cache_bytes)
        self._captions: dict[int, tuple[str, Tensor]] = {}
        self._image_weights, self._weights = image_weights, dict[int, Tensor]()

    def read(self, step: int) -> Batch:
        """The batch of a step, on the CPU; Raises as for `load`."""
        return self.augment(self.load(step))

    def load(self, step: int) -> LoadedImages:
        """The images of a step, decoded.

        Raises:
            DataError: a stored image cannot be decoded; the message names shard, caption and image.
        """
        position_N = self._usable.positions(self.order.groups(step, self._rank, self._world_size))
        captions = [self._caption(position) for position in position_N.tolist()]
        caption_ids = tuple(caption_id for caption_id, _ in captions)
        labels_N = torch.tensor([caption_label(caption_id) for caption_id in caption_ids], dtype=torch.int64)
        index_NI = self.order.draw(step, labels_N, self._usable.num_images(position_N), self._images_per_caption)
        return LoadedImages(
            image_B3DD=self._images.read(position_N, index_NI),
            labels_B=labels_N.repeat(self._images_per_caption),
            image_index_B=index_NI.T.reshape(-1),
            tokens_NT=torch.stack([tokens_T for _, tokens_T in captions]),
            labels_N=labels_N,
            step=step,
            caption_ids=caption_ids,
            weights_MN=self._weights_of(position_N, index_NI),
        )

    def augment(self, loaded: LoadedImages, device: torch.device | None = None) -> Batch:
        """Views of loaded images, made on `device` (default: where the images are)."""
        image_B3DD = loaded.image_B3DD if device is None else loaded.image_B3DD.to(device)
        views = [
            self._augmenter(image_B3DD, loaded.labels_B, loaded.image_index_B + (view << VIEW_SHIFT), loaded.step)
            for view in range(self._views_per_image)
        ]
        view_B3SS = views[0] if len(views) == 1 else torch.cat(views)
        views_MNCHW = view_B3SS.unflatten(0, (len(views) * self._images_per_caption, -1))
        batch = Batch(views_MNCHW, loaded.tokens_NT, loaded.labels_N, loaded.step, loaded.caption_ids, weights_MN=loaded.weights_MN)
        if self._small_crops:
            local_LNCHW, view_key_MN = self._small_crops(
                image_B3DD, loaded.labels_B, loaded.image_index_B, loaded.step, len(loaded.labels_N)
            )
            batch = replace(batch, local_LNCHW=local_LNCHW, view_key_MN=view_key_MN)
        return batch if device is None else batch.to(device)

    def _order(self, captions_per_batch: int, seed: int) -> GroupOrder:
        try:
            return GroupOrder(self._usable.num, captions_per_batch, seed)
        except ConfigError as error:
            if not self.num_skipped_groups:
                raise
            raise ConfigError(
                f"{error} ({self.num_skipped_groups} of {self._dataset.num_groups} groups have fewer than "
                f"pretrain.images_per_caption={self._images_per_caption} images and were left out)"
            ) from error

    def _weights_of(self, position_N: Tensor, index_NI: Tensor) -> Tensor | None:
        """The weight of every view's image, in the order of views; None where the data set has none."""
        if self._image_weights is None:
            return None
        weights = self._image_weights
        drawn = [self._kept(position, weights)[index_I] for position, index_I in zip(position_N.tolist(), index_NI, strict=True)]
        return torch.stack(drawn, 1).repeat(self._views_per_image, 1)

    def _kept(self, position: int, image_weights: ImageWeights) -> Tensor:
        """Weights of a group's images; kept, as every epoch asks again."""
        found = self._weights.get(position)
        if found is None:
            found = torch.tensor(image_weights(position), dtype=torch.float32)
            if len(self._weights) < _NUM_CAPTIONS_KEPT:
                self._weights[position] = found
        return found

    def _caption(self, position: int) -> tuple[str, Tensor]:
        """Id and tokens of a group's caption; kept, as every epoch asks again."""
        found = self._captions.get(position)
        if found is None:
            caption = self._dataset.caption(position)
            tokens_NT = self._tokenizer.encode([caption.text]) if self._tokenizer else torch.zeros(1, 0, dtype=torch.int64)
            found = (caption.caption_id, tokens_NT[0])
            if len(self._captions) < _NUM_CAPTIONS_KEPT:
                self._captions[position] = found
        return found
