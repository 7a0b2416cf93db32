"""Which groups have enough images to draw from, and where each group's images start when all images are counted through.

Where the data set's totals say that every group is complete nothing is scanned or kept, so a data set of millions of captions costs
nothing here; else the number of images of every group is asked for once.

Dimension key: N groups asked about.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import torch
from torch import Tensor

from stablerep.batches.batch import GroupSource


class UsableGroups:
    """The groups with at least `num_drawn` images, numbered from 0 to `num` - 1.

    Attributes:
        num: how many there are.
        num_skipped: groups with fewer images.
        total_images: images of all groups, skipped ones included.
    """

    def __init__(self, dataset: GroupSource, num_drawn: int) -> None:
        self._images_per_group = dataset.images_per_caption
        self.total_images = dataset.total_images
        self._counts: Tensor | None = None
        if self.total_images == dataset.num_groups * self._images_per_group and self._images_per_group >= num_drawn:
            self.num, self.num_skipped = dataset.num_groups, 0
            return
        self._counts = torch.tensor([dataset.num_images(position) for position in range(dataset.num_groups)], dtype=torch.int64)
        self.total_images = int(self._counts.sum())
        self._starts = self._counts.cumsum(0) - self._counts
        self._positions = (self._counts >= num_drawn).nonzero()[:, 0]
        self.num = len(self._positions)
        self.num_skipped = dataset.num_groups - self.num

    def positions(self, number_N: Tensor) -> Tensor:
        """Positions in the data set of usable groups: int64 [N]."""
        return number_N if self._counts is None else self._positions[number_N]

    def num_images(self, position_N: Tensor) -> Tensor:
        """Images of the groups at some positions: int64 [N]."""
        return torch.full_like(position_N, self._images_per_group) if self._counts is None else self._counts[position_N]

    def first_image(self, position_N: Tensor) -> Tensor:
        """Number of each group's first image, counted over the whole data set: int64 [N]."""
        return position_N * self._images_per_group if self._counts is None else self._starts[position_N]
