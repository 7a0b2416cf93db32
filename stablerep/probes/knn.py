"""Weighted k-nearest-neighbour vote on L2-normalised features (Wu et al. 2018; k = 20, temperature 0.07).

Dimension key: N training images, Q test images, F features, K classes, J neighbours.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import torch
from torch import Tensor
from torch.nn.functional import normalize

from stablerep.probes.protocol import Int64Array

_CHUNK_IMAGES = 1024


def probe_knn(
    train_NF: Tensor, labels_N: Tensor, test_QF: Tensor, *, num_classes: int, num_neighbours: int, temperature: float
) -> Int64Array:
    """Vote of the nearest training images, each weighing exp(cosine / temperature).

    Args:
        train_NF: features of the training images.
        labels_N: their classes.
        test_QF: features of the test images.
        num_classes: K.
        num_neighbours: voters, at most N.
        temperature: above 0; the smaller, the more the nearest count.

    Returns:
        Predicted classes int64 [Q]; a tie goes to the lower class.
    """
    train_NF, num_voters = normalize(train_NF, dim=1), min(num_neighbours, len(train_NF))
    parts: list[Tensor] = []
    for chunk_QF in test_QF.split(_CHUNK_IMAGES):
        cosine_QJ, index_QJ = (normalize(chunk_QF, dim=1) @ train_NF.T).topk(num_voters, dim=1)
        # exp(c / t) up to a factor per image, so that it cannot overflow
        weight_QJ = ((cosine_QJ - cosine_QJ[:, :1]) / temperature).exp()
        votes_QK = torch.zeros(len(chunk_QF), num_classes).scatter_add_(1, labels_N[index_QJ], weight_QJ)
        parts.append(votes_QK.argmax(1))
    return torch.cat(parts).numpy()
