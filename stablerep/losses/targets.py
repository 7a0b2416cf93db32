"""Who is a positive of whom, from labels and weights alone: no embedding is looked at and no B x G matrix of matches is made.

Dimension key: B anchors, G candidates, K distinct labels of the candidates, D embedding. The target of anchor i is p_ij = w_j / sum of w
over the candidates of i's label, itself left out; with equal weights that is the paper's uniform target (arXiv 2306.00984, section 3.2).
The mean over anchors is weighted with the anchors' own weights. So only ratios of weights matter, and an image of weight 0 is what an
image of a caption of its own would be: a negative of all others, without a term in the mean.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """The labels of the candidates, sorted, and for every anchor what its label weighs. Float64 and int64, without gradient."""

    label_K: Tensor
    group_G: Tensor  # label of every candidate, as a position in label_K
    group_B: Tensor  # the same for every anchor; any position where the label is unknown
    rest_B: Tensor  # weight of the anchor's positives; 1 where it has none
    has_positive_B: Tensor


def find_targets(
    anchor_labels_B: Tensor, candidate_labels_G: Tensor, candidate_weights_G: Tensor, self_index_B: Tensor | None = None
) -> Targets:
    """Match labels by content, whatever their order and position, by sorting.

    Args:
        anchor_labels_B: label of every anchor.
        candidate_labels_G: label of every candidate.
        candidate_weights_G: weight of every candidate as a target, 0 or more, float64.
        self_index_B: the candidate that is the anchor itself and no target of it; None when anchors are not among the candidates.
    """
    label_K, group_G = torch.unique(candidate_labels_G, return_inverse=True)
    group_B, is_known_B = look_up(label_K, anchor_labels_B)
    is_target_G = (candidate_weights_G > 0).long()
    num_B = torch.zeros_like(label_K, dtype=torch.int64).index_add(0, group_G, is_target_G)[group_B]
    rest_B = candidate_weights_G.new_zeros(label_K.shape[0]).index_add(0, group_G, candidate_weights_G)[group_B]
    if self_index_B is not None:
        num_B = num_B - is_target_G[self_index_B]
        rest_B = rest_B - candidate_weights_G[self_index_B]
    has_positive_B = is_known_B & (num_B > 0)
    return Targets(label_K, group_G, group_B, rest_B.masked_fill(~has_positive_B, 1.0), has_positive_B)


def look_up(label_K: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
    """Position of each label in the sorted labels, and whether it is there at all (if not, the position is any)."""
    if label_K.shape[0] == 0:
        return torch.zeros_like(labels_B), torch.zeros_like(labels_B, dtype=torch.bool)
    group_B = torch.searchsorted(label_K, labels_B).clamp(max=label_K.shape[0] - 1)
    return group_B, label_K[group_B] == labels_B


def label_sums(candidate_CD: Tensor, candidate_labels_C: Tensor, anchor_labels_B: Tensor) -> Tensor:
    """For every anchor, the sum of the candidates that carry its label; zeros where none does."""
    label_K, group_C = torch.unique(candidate_labels_C, return_inverse=True)
    if label_K.shape[0] == 0:
        return candidate_CD.new_zeros(anchor_labels_B.shape[0], candidate_CD.shape[1])
    group_B, is_known_B = look_up(label_K, anchor_labels_B)
    sum_KD = candidate_CD.new_zeros(label_K.shape[0], candidate_CD.shape[1]).index_add(0, group_C, candidate_CD)
    return sum_KD[group_B] * is_known_B[:, None]


def attraction(
    anchor_BD: Tensor,
    candidate_GD: Tensor,
    targets: Targets,
    pull_B: Tensor,
    candidate_weights_G: Tensor | None,
    self_index_B: Tensor | None = None,
) -> Tensor:
    """sum_i pull_i sum_{j positive of i} w_j anchor_i . candidate_j, through one sum per label on either side.

    With Q_k the sum of pull_i anchor_i and S_k the sum of w_j candidate_j over label k, it is sum_k Q_k.S_k less what anchors say of
    themselves: two K x D matrices, however large the groups are.

    Args:
        anchor_BD: anchors.
        candidate_GD: candidates; the very same tensor as the anchors when row i is anchor i itself.
        targets: of these anchors and candidates.
        pull_B: weight of the anchor over that of its positives; 0 where it has none.
        candidate_weights_G: as in `find_targets`, in the type of the rows; None: all 1.
        self_index_B: as in `find_targets`.
    """
    weighted_GD = candidate_GD if candidate_weights_G is None else candidate_GD * candidate_weights_G[:, None]
    sum_KD = candidate_GD.new_zeros(targets.label_K.shape[0], candidate_GD.shape[1]).index_add(0, targets.group_G, weighted_GD)
    pull_KD = torch.zeros_like(sum_KD).index_add(0, targets.group_B, anchor_BD * pull_B[:, None])
    total = (pull_KD * sum_KD).sum()
    if self_index_B is None:
        return total
    itself_BD = candidate_GD if anchor_BD is candidate_GD else candidate_GD[self_index_B]
    own_B = pull_B if candidate_weights_G is None else pull_B * candidate_weights_G[self_index_B]
    return total - (own_B * torch.linalg.vecdot(anchor_BD, itself_BD)).sum()
