"""The objective of a step as one module: two towers, gathering over ranks, and the weighted losses (paper, section 3).

    total = image_weight * multi_positive + text_weight * image_text

Every rank's images are candidates for every rank (global negatives), gathered with gradients. The mean over ranks that data
parallelism takes of each rank's loss, and of its gradients, is then the loss over the whole batch. The losses are inside the module so
that an engine sees tensors in and scalars out, whatever it does with parameters before and after.

Dimension key: R ranks, N captions of this rank, M views of a caption, B = M*N views in view-major order, G = B*R candidates, H = N*R
captions of all ranks, D embedding, T tokens.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from typing import Any

import torch
from torch import Tensor, nn

from stablerep.distributed import all_gather, current_world, gather_int
from stablerep.losses import image_text, multi_positive
from stablerep.models import TwoTower


class Objective(nn.Module):
    """Losses of the two towers.

    Args:
        towers: the model.
        image_weight: weight of the multi-positive loss; 0 leaves it out.
        text_weight: weight of the image-text loss; 0 leaves it out.
        temperature: of the multi-positive loss.
    """

    def __init__(self, towers: TwoTower, *, image_weight: float, text_weight: float, temperature: float) -> None:
        super().__init__()
        self.towers = towers
        self._image_weight, self._text_weight, self._temperature = image_weight, text_weight, temperature

    def forward(self, views_MNCHW: Tensor, tokens_NT: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Total, multi-positive and image-text loss of this rank; a loss that is left out is 0."""
        output: Any = self.towers(views_MNCHW, tokens_NT)
        world = current_world()
        labels_B = labels_N.repeat(views_MNCHW.shape[0])
        sizes_B, sizes_N = [len(labels_B)] * world.world_size, [len(labels_N)] * world.world_size  # the loader cuts evenly
        all_labels_G = gather_int(labels_B, sizes_B)
        total = output.image_BD.new_zeros((), dtype=torch.float32)
        image = text = total
        if self._image_weight:
            own_B = torch.arange(len(labels_B), device=labels_B.device) + world.rank * len(labels_B)
            image = multi_positive(
                output.image_BD,
                all_gather(output.image_BD, sizes_B),
                labels_B,
                all_labels_G,
                own_B,
                self._temperature,
                num_ranks=world.world_size,
            )
            total = total + self._image_weight * image
        if self._text_weight:
            text = image_text(
                output.image_text_BD,
                output.text_ND,
                labels_B,
                labels_N,
                output.logit_scale,
                all_image_GD=all_gather(output.image_text_BD, sizes_B),
                all_text_HD=all_gather(output.text_ND, sizes_N),
                all_image_labels_G=all_labels_G,
                all_text_labels_H=gather_int(labels_N, sizes_N),
                num_ranks=world.world_size,
            )
            total = total + self._text_weight * text
        return total, image, text
