"""The baselines of the paper (sections 4 and 5) as objectives: SimCLR, CLIP, supervised. Same towers, loader, engine, export as StableRep.

What a batch of C captions with m images of each holds, counted in passes through the trunk, which is what a step costs:

    multi_positive   C x m images, one view each   C*m       positives: images of the same caption
    simclr           C x m images, two views each  2*C*m     positive: the other view of the same image, and nothing else
    clip             C images, one a caption       C         the caption's text
    supervised       C x m images, one view each   C*m       the caption's class

Only the towers are exported, so the classifier is dropped as the projection head is; a model that needs no head has none.

Dimension key: N captions of this rank, M views of a caption, B = M*N views in view-major order, F trunk features, D embedding, K classes.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from stablerep.distributed import current_world
from stablerep.errors import ConfigError, DataError
from stablerep.models import TwoTower, num_features
from stablerep.training.objective import Losses, Objective, contrast_images, gather_labels, match_texts

NUM_VIEWS = 2
_CLASSIFIER_STD = 0.02


class SimClr(Objective):
    """NT-Xent (arXiv 2002.05709, equation 1): the multi-positive loss with a label for each image, so its captions do not matter.

    Args:
        towers: a model with a head and without text tower.
        temperature: tau.
    """

    def __init__(self, towers: TwoTower, *, temperature: float) -> None:
        super().__init__(towers)
        self._temperature = temperature

    def forward(self, views_MNCHW: Tensor, tokens_NT: Tensor, labels_N: Tensor) -> Losses:
        """Total and NT-Xent are the same; M is twice the images of a caption: all images' first view, then all images' second.

        Raises:
            DataError: an odd number of views.
        """
        num_views, num_captions = views_MNCHW.shape[:2]
        if num_views % NUM_VIEWS:
            raise DataError(f"simclr: expected two views of every image, found {num_views} views of a caption")
        num_images = num_views * num_captions // NUM_VIEWS
        number_I = torch.arange(num_images, device=views_MNCHW.device) + current_world().rank * num_images
        labels_B = number_I.repeat(NUM_VIEWS)
        output: Any = self.towers(views_MNCHW)
        image = contrast_images(output.image_BD, labels_B, gather_labels(labels_B), self._temperature)
        return image, image, torch.zeros_like(image)


class Clip(Objective):
    """CLIP (arXiv 2103.00020): symmetric cross entropy between images and captions, one image of each, all others negatives.

    Args:
        towers: a model with a text tower.
    """

    def forward(self, views_MNCHW: Tensor, tokens_NT: Tensor, labels_N: Tensor) -> Losses:
        """Total and image-text loss are the same.

        Raises:
            DataError: more than one view of a caption.
        """
        if views_MNCHW.shape[0] != 1:
            raise DataError(f"clip: expected one view of a caption, found {views_MNCHW.shape[0]}")
        text = match_texts(self.towers(views_MNCHW, tokens_NT), labels_N, labels_N, gather_labels(labels_N))
        return text, torch.zeros_like(text), text


class Supervised(Objective):
    """Cross entropy of a linear classifier on the trunk's features, against the class of each image's caption.

    Args:
        towers: the model; of it only the trunk learns.
        labels: caption label (`batches.batch.caption_label`) of every caption of the data set.
        classes: class of each, 0 to K - 1.
        num_classes: K.
        seed: of the classifier's weights.

    Raises:
        ConfigError: fewer than 2 classes.
    """

    labels_L: Tensor
    classes_L: Tensor

    def __init__(self, towers: TwoTower, *, labels: Sequence[int], classes: Sequence[int], num_classes: int, seed: int) -> None:
        super().__init__(towers)
        if num_classes < 2:
            raise ConfigError(f"supervised: expected captions of 2 or more classes, found {num_classes}; choose another data set")
        self.classifier = nn.Linear(num_features(towers.trunk), num_classes)
        nn.init.trunc_normal_(self.classifier.weight, std=_CLASSIFIER_STD, generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(self.classifier.bias)
        order_L = torch.tensor(labels, dtype=torch.int64).argsort()
        self.register_buffer("labels_L", torch.tensor(labels, dtype=torch.int64)[order_L], persistent=False)
        self.register_buffer("classes_L", torch.tensor(classes, dtype=torch.int64)[order_L], persistent=False)

    def forward(self, views_MNCHW: Tensor, tokens_NT: Tensor, labels_N: Tensor) -> Losses:
        """Total and cross entropy are the same; the mean over this rank's views, of which every rank has equally many."""
        features_BF = self.towers.embed_images(views_MNCHW.flatten(0, 1))
        class_N = self.classes_L[torch.searchsorted(self.labels_L, labels_N)]
        with torch.autocast(views_MNCHW.device.type, enabled=False):
            logits_BK = self.classifier(features_BF.to(self.classifier.weight.dtype))
            image = functional.cross_entropy(logits_BK, class_N.repeat(views_MNCHW.shape[0]))
        return image, image, torch.zeros_like(image)
