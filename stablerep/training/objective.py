"""The objective of a step as one module: two towers, gathering over ranks, and the weighted losses (paper, section 3).

    total = image_weight * multi_positive + text_weight * image_text

Every rank's images are candidates for every rank (global negatives), gathered with gradients or passed around a ring, one rank's at a
time. The mean over ranks that data parallelism takes of each rank's loss, and of its gradients, is then the loss over the whole batch.
The losses are inside the module so that an engine sees tensors in and scalars out, whatever it does with parameters before and after.
The baselines that the paper compares with are in `objective_baselines`: the same towers, the same interface.

Dimension key: R ranks, N captions of this rank, M views of a caption, B = M*N views in view-major order, G = B*R candidates, H = N*R
captions of all ranks, D embedding, T tokens.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from stablerep.distributed import all_gather, circulate, current_world, gather_int
from stablerep.losses import image_text, image_text_in_blocks, multi_positive, multi_positive_in_blocks
from stablerep.models import TwoTower

Losses = tuple[Tensor, Tensor, Tensor]


class Objective(nn.Module, ABC):
    """What an engine trains: towers, which are exported, and whatever else the losses need, which is not.

    Args:
        towers: the model.
    """

    def __init__(self, towers: TwoTower) -> None:
        super().__init__()
        self.towers = towers

    @abstractmethod
    def forward(self, views_MNCHW: Tensor, tokens_NT: Tensor, labels_N: Tensor) -> Losses:
        """Total loss of this rank, and its two terms: what images say without captions' texts, and with them; 0 where there is none."""

    def after_step(self, step: int) -> None:
        """What an objective does with its own state after update number `step`; most have none."""


class MultiPositive(Objective):
    """StableRep, and StableRep+ with `text_weight` above 0. A batch holds captions x images_per_caption images, one view of each.

    Args:
        towers: the model.
        image_weight: weight of the multi-positive loss; 0 leaves it out.
        text_weight: weight of the image-text loss; 0 leaves it out.
        temperature: of the multi-positive loss.
        in_ring: candidates come from one rank at a time, so that no rank holds those of all; value and gradient stay.
    """

    def __init__(self, towers: TwoTower, *, image_weight: float, text_weight: float, temperature: float, in_ring: bool = False) -> None:
        super().__init__(towers)
        self._image_weight, self._text_weight, self._temperature = image_weight, text_weight, temperature
        self._contrast, self._match = (contrast_in_ring, match_in_ring) if in_ring else (contrast_images, match_texts)

    def forward(self, views_MNCHW: Tensor, tokens_NT: Tensor, labels_N: Tensor, weights_MN: Tensor | None = None) -> Losses:
        """Total, multi-positive and image-text loss of this rank; a loss that is left out is 0.

        Args:
            views_MNCHW: images.
            tokens_NT: captions.
            labels_N: captions.
            weights_MN: what an image counts in means and targets; one of weight 0 is only a negative. None, on all ranks: all alike.
        """
        output: Any = self.towers(views_MNCHW, tokens_NT)
        labels_B = labels_N.repeat(views_MNCHW.shape[0])
        all_labels_G, weights = gather_labels(labels_B), gather_weights(weights_MN)
        total = views_MNCHW.new_zeros((), dtype=torch.float32)
        image = text = total
        if self._image_weight:
            image = self._contrast(output.image_BD, labels_B, all_labels_G, self._temperature, weights)
            total = total + self._image_weight * image
        if self._text_weight:
            text = self._match(output, labels_B, labels_N, all_labels_G, weights)
            total = total + self._text_weight * text
        return total, image, text


def gather_labels(labels_B: Tensor) -> Tensor:
    """Labels of all ranks; the loader gives each rank equally many."""
    return gather_int(labels_B, [len(labels_B)] * current_world().world_size)


def gather_weights(weights_MN: Tensor | None) -> Tensor | None:
    """Weights of the images of all ranks, in the order of `gather_labels`; None where there are none."""
    if weights_MN is None:
        return None
    return all_gather(weights_MN.flatten(), [weights_MN.numel()] * current_world().world_size)


def contrast_images(
    image_BD: Tensor, labels_B: Tensor, all_labels_G: Tensor, temperature: float, all_weights_G: Tensor | None = None
) -> Tensor:
    """The multi-positive loss of this rank's images among those of all ranks.

    Args:
        image_BD: embeddings of this rank.
        labels_B: what they show; equal labels are positives.
        all_labels_G: labels of all ranks.
        temperature: of the softmax.
        all_weights_G: weights of the images of all ranks; None: all alike.
    """
    world = current_world()
    all_image_GD = all_gather(image_BD, [len(labels_B)] * world.world_size)
    return multi_positive(
        image_BD,
        all_image_GD,
        labels_B,
        all_labels_G,
        _own(labels_B),
        temperature,
        candidate_weights_G=all_weights_G,
        num_ranks=world.world_size,
    )


def contrast_in_ring(
    image_BD: Tensor, labels_B: Tensor, all_labels_G: Tensor, temperature: float, all_weights_G: Tensor | None = None
) -> Tensor:
    """As `contrast_images`, with the images of the other ranks passing by."""
    num_ranks = current_world().world_size
    return multi_positive_in_blocks(
        image_BD, all_labels_G, _own(labels_B), temperature, circulate, all_weights_G=all_weights_G, num_ranks=num_ranks
    )


def match_texts(output: Any, labels_B: Tensor, labels_N: Tensor, all_labels_G: Tensor, all_weights_G: Tensor | None = None) -> Tensor:
    """The image-text loss of this rank's images and captions among those of all ranks.

    Args:
        output: of the two towers.
        labels_B: caption of every image.
        labels_N: caption of every text row.
        all_labels_G: `labels_B` of all ranks.
        all_weights_G: weights of the images of all ranks; None: all alike.
    """
    world = current_world()
    sizes_B, sizes_N = [len(labels_B)] * world.world_size, [len(labels_N)] * world.world_size
    return image_text(
        output.image_text_BD,
        output.text_ND,
        labels_B,
        labels_N,
        output.logit_scale,
        all_image_GD=all_gather(output.image_text_BD, sizes_B),
        all_text_HD=all_gather(output.text_ND, sizes_N),
        all_image_labels_G=all_labels_G,
        all_text_labels_H=gather_int(labels_N, sizes_N),
        image_weights_B=None if all_weights_G is None else all_weights_G[_own(labels_B)],
        all_image_weights_G=all_weights_G,
        num_ranks=world.world_size,
    )


def match_in_ring(output: Any, labels_B: Tensor, labels_N: Tensor, all_labels_G: Tensor, all_weights_G: Tensor | None = None) -> Tensor:
    """As `match_texts`, with the images and captions of the other ranks passing by."""
    num_ranks = current_world().world_size
    return image_text_in_blocks(
        output.image_text_BD,
        output.text_ND,
        labels_B,
        labels_N,
        all_labels_G,
        gather_int(labels_N, [len(labels_N)] * num_ranks),
        output.logit_scale,
        circulate,
        image_weights_B=None if all_weights_G is None else all_weights_G[_own(labels_B)],
        all_image_weights_G=all_weights_G,
        num_ranks=num_ranks,
    )


def _own(labels_B: Tensor) -> Tensor:
    """Where this rank's rows are among those of all."""
    return torch.arange(len(labels_B), device=labels_B.device) + current_world().rank * len(labels_B)
