"""Decoded images of groups, all brought to one size, kept in memory where the whole data set fits.

Dimension key: N groups, M images of each, B = M*N view-major, D side of an image.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Sequence

import torch
from torch import Tensor

from stablerep.batches.batch import GroupSource
from stablerep.batches.decode import decode_image
from stablerep.batches.usable import UsableGroups
from stablerep.errors import DataError


class GroupImages:
    """Images of a data set as uint8 [3,D,D]; D is the shorter side of the first image, but at most `largest_side_px`.

    Args:
        dataset: where encoded images come from.
        usable: its numbers of images.
        largest_side_px: images larger than that are shrunk to it (bicubic, antialiased).
        cache_bytes: decoded images are kept when all of them take no more.
    """

    def __init__(self, dataset: GroupSource, usable: UsableGroups, *, largest_side_px: int, cache_bytes: int) -> None:
        self._dataset, self._usable = dataset, usable
        first = int(usable.positions(torch.zeros(1, dtype=torch.int64)))
        (image_3HW,) = self._decode(first, [0], None)
        self._side_px = min(*image_3HW.shape[1:], largest_side_px)
        self._is_keeping = usable.total_images * 3 * self._side_px**2 <= cache_bytes
        # Made at the first read, hence in the process that reads, and not copied to workers.
        self._kept: Tensor | None = None
        self._is_kept = torch.zeros(0, dtype=torch.bool)

    def read(self, position_N: Tensor, index_NM: Tensor) -> Tensor:
        """The images at places `index_NM` of the groups at `position_N`: uint8 [M*N,3,D,D].

        Raises:
            DataError: an image cannot be decoded; names shard, caption and image.
        """
        positions, indices = position_N.tolist(), index_NM.tolist()
        if not self._is_keeping:
            groups = [self._decode(position, row, self._side_px) for position, row in zip(positions, indices, strict=True)]
            return torch.stack([image for view in zip(*groups, strict=True) for image in view])
        kept = self._kept = self._room() if self._kept is None else self._kept
        place_NM = self._usable.first_image(position_N)[:, None] + index_NM
        is_missing_NM = ~self._is_kept[place_NM]
        for number in is_missing_NM.any(dim=1).nonzero()[:, 0].tolist():
            is_missing_M = is_missing_NM[number]
            images = self._decode(positions[number], index_NM[number][is_missing_M].tolist(), self._side_px)
            place_I = place_NM[number][is_missing_M]
            kept[place_I] = torch.stack(images)
            self._is_kept[place_I] = True
        return kept[place_NM.T.reshape(-1)]

    def _room(self) -> Tensor:
        self._is_kept = torch.zeros(self._usable.total_images, dtype=torch.bool)
        return torch.empty(self._usable.total_images, 3, self._side_px, self._side_px, dtype=torch.uint8)

    def _decode(self, position: int, indices: Sequence[int], side_px: int | None) -> list[Tensor]:
        images: list[Tensor] = []
        for index, data in zip(indices, self._dataset.images(position, indices), strict=True):
            try:
                images.append(decode_image(data, side_px))
            except DataError as error:
                raise DataError(
                    f"shard {self._dataset.shard_name(position)}, caption {self._dataset.caption(position).caption_id}, image {index}: "
                    f"{error}; the image was packed like this: delete the shard's commit record and run generate and commit again"
                ) from error
        return images
