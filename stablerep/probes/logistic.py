"""Multinomial logistic regression over a path of l2 penalties (paper, section 5: fine-grained sets; 45 values from 1e-6 to 1e5).

The objective of one penalty is that of scikit-learn with C = 1 / l2, divided by N: mean cross-entropy + l2 / (2 N) |W|^2, bias free.
Several penalties are solved at once by L-BFGS, each with a history, step and end of its own, so that every pass over the features is one
wide product; the path runs from strong to weak penalties and each group starts from the last solution (warm start).

Dimension key: N images, F features, K classes, J penalties solved at once, H history, P = (F + 1) K parameters.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from stablerep.errors import DataError

L2_VALUES = tuple(10 ** (-6 + 11 * k / 44) for k in range(45))
_AT_ONCE = 5
_HISTORY = 10
_ARMIJO = 1e-4
_MAX_HALVINGS = 20


@dataclass(frozen=True)
class LogisticModel:
    """A fitted classifier: standardisation [F], weight [F,K], bias [K]."""

    mean_F: Tensor
    scale_F: Tensor
    weight_FK: Tensor
    bias_K: Tensor
    l2: float

    def predict(self, features_NF: Tensor) -> Tensor:
        """Classes int64 [N]."""
        return (((features_NF - self.mean_F) / self.scale_F) @ self.weight_FK + self.bias_K).argmax(1)


def fit_with_validation(
    train_NF: Tensor,
    train_labels_N: Tensor,
    validation_NF: Tensor,
    validation_labels_N: Tensor,
    *,
    num_classes: int,
    l2_values: Sequence[float] = L2_VALUES,
    max_iterations: int = 1000,
    tolerance: float = 1e-4,
) -> LogisticModel:
    """Choose the penalty on validation images, then fit training and validation images together.

    Args:
        train_NF: features to fit, float32.
        train_labels_N: their classes, int64.
        validation_NF: features to choose the penalty on.
        validation_labels_N: their classes.
        num_classes: K.
        l2_values: candidates; equally good ones go to the stronger penalty.
        max_iterations: of L-BFGS, per penalty.
        tolerance: a penalty is done when no entry of its gradient is larger.

    Raises:
        DataError: a part is empty.
    """
    if not len(train_NF) or not len(validation_NF):
        raise DataError(f"expected training and validation images, found {len(train_NF)} and {len(validation_NF)}")
    mean_F, scale_F = _standardisation(train_NF)
    path = fit_path((train_NF - mean_F) / scale_F, train_labels_N, l2_values, num_classes, max_iterations, tolerance)
    held_out_NF = (validation_NF - mean_F) / scale_F
    right = {l2: int(((held_out_NF @ w_FK + b_K).argmax(1) == validation_labels_N).sum()) for l2, (w_FK, b_K) in path.items()}
    best = max(right, key=lambda l2: (right[l2], l2))
    all_NF, all_labels_N = torch.cat([train_NF, validation_NF]), torch.cat([train_labels_N, validation_labels_N])
    mean_F, scale_F = _standardisation(all_NF)
    start = torch.cat([path[best][0], path[best][1][None]])
    weight_FK, bias_K = fit_path((all_NF - mean_F) / scale_F, all_labels_N, [best], num_classes, max_iterations, tolerance, start)[best]
    return LogisticModel(mean_F, scale_F, weight_FK, bias_K, best)


def fit_path(
    x_NF: Tensor,
    labels_N: Tensor,
    l2_values: Sequence[float],
    num_classes: int,
    max_iterations: int = 1000,
    tolerance: float = 1e-4,
    start: Tensor | None = None,
) -> dict[float, tuple[Tensor, Tensor]]:
    """Weight [F,K] and bias [K] for every penalty, on features that are standardised already.

    Args:
        x_NF: features.
        labels_N: classes, int64.
        l2_values: penalties.
        num_classes: K.
        max_iterations: per penalty.
        tolerance: largest entry of a gradient at the end.
        start: [F+1,K] to start the strongest penalty from, bias last; zeros when None.
    """
    augmented_NP = torch.cat([x_NF, torch.ones(len(x_NF), 1, dtype=x_NF.dtype)], 1)
    at_KP = start if start is not None else torch.zeros(augmented_NP.shape[1], num_classes, dtype=x_NF.dtype)
    found: dict[float, tuple[Tensor, Tensor]] = {}
    ordered = sorted(l2_values, reverse=True)
    for first in range(0, len(ordered), _AT_ONCE):
        group = ordered[first : first + _AT_ONCE]
        problem = _Problem(augmented_NP, labels_N, torch.tensor(group, dtype=x_NF.dtype), num_classes)
        solved_JP = _minimise(problem, at_KP.flatten().repeat(len(group), 1), max_iterations, tolerance)
        for l2, solution_P in zip(group, solved_JP, strict=True):
            solution = solution_P.view(-1, num_classes)
            found[l2] = (solution[:-1], solution[-1])
        at_KP = solved_JP[-1].view(-1, num_classes)
    return found


class _Problem:
    """The objectives of J penalties and their gradients."""

    def __init__(self, augmented_NF: Tensor, labels_N: Tensor, l2_J: Tensor, num_classes: int) -> None:
        self._x_NF, self._labels_N, self._num_classes = augmented_NF, labels_N, num_classes
        self._penalty_J = l2_J / len(augmented_NF)

    def loss_and_gradient(self, at_JP: Tensor, which_J: Tensor) -> tuple[Tensor, Tensor]:
        """Loss [J] and gradient [J,P] of the penalties `which_J`."""
        num, (num_images, num_features) = len(which_J), self._x_NF.shape
        weight_JFK = at_JP.view(num, num_features, self._num_classes)
        wide_FO = weight_JFK.permute(1, 0, 2).reshape(num_features, -1)
        logits_NJK = (self._x_NF @ wide_FO).view(num_images, num, self._num_classes)
        labels_NJ = self._labels_N[:, None].expand(-1, num)
        loss_J = cross_entropy(logits_NJK.permute(0, 2, 1), labels_NJ, reduction="none").mean(0)
        error_NJK = logits_NJK.softmax(2)
        error_NJK.scatter_add_(2, labels_NJ[:, :, None], torch.full_like(error_NJK[:, :, :1], -1.0))
        gradient_FO = self._x_NF.T @ error_NJK.view(num_images, -1) / num_images
        penalised_JFK = weight_JFK * self._penalty_J[which_J][:, None, None]
        penalised_JFK[:, -1] = 0  # the bias
        loss_J = loss_J + 0.5 * (penalised_JFK * weight_JFK).sum((1, 2))
        gradient_JFK = gradient_FO.view(num_features, num, self._num_classes).permute(1, 0, 2) + penalised_JFK
        return loss_J, gradient_JFK.reshape(num, -1)


class _History:
    """The last steps of every problem and how their gradients changed, for the two-loop recursion (Nocedal and Wright, algorithm 7.4)."""

    def __init__(self, like_JP: Tensor) -> None:
        self._step_HJP = like_JP.new_zeros(_HISTORY, *like_JP.shape)
        self._change_HJP = like_JP.new_zeros(_HISTORY, *like_JP.shape)
        self._inverse_HJ = like_JP.new_zeros(_HISTORY, len(like_JP))
        self._scale_J = like_JP.new_zeros(len(like_JP))
        self._newest = -1

    def add(self, step_JP: Tensor, change_JP: Tensor, which_J: Tensor) -> None:
        """Remember a step of the problems `which_J`; curvature that is not positive is left out."""
        self._newest = (self._newest + 1) % _HISTORY
        curvature_J, square_J = (step_JP * change_JP).sum(1), change_JP.square().sum(1)
        is_good_J = curvature_J > 1e-10 * square_J.sqrt() * step_JP.norm(dim=1)
        self._inverse_HJ[self._newest] = 0
        self._step_HJP[self._newest, which_J], self._change_HJP[self._newest, which_J] = step_JP, change_JP
        self._inverse_HJ[self._newest, which_J] = torch.where(is_good_J, 1 / curvature_J, 0.0)
        self._scale_J[which_J] = torch.where(is_good_J, curvature_J / square_J, self._scale_J[which_J])

    def direction(self, gradient_JP: Tensor, which_J: Tensor) -> Tensor:
        """Where to go, [J,P]; steepest descent with unit length while nothing is known."""
        order = [(self._newest - back) % _HISTORY for back in range(_HISTORY)]
        kept = [(self._step_HJP[h, which_J], self._change_HJP[h, which_J], self._inverse_HJ[h, which_J]) for h in order]
        q_JP, alphas = gradient_JP.clone(), list[Tensor]()
        for step_JP, change_JP, inverse_J in kept:
            alpha_J = inverse_J * (step_JP * q_JP).sum(1)
            q_JP -= alpha_J[:, None] * change_JP
            alphas.append(alpha_J)
        scale_J = self._scale_J[which_J]
        q_JP *= torch.where(scale_J > 0, scale_J, 1 / gradient_JP.norm(dim=1).clamp_min(1.0))[:, None]
        for (step_JP, change_JP, inverse_J), alpha_J in zip(reversed(kept), reversed(alphas), strict=True):
            q_JP += (alpha_J - inverse_J * (change_JP * q_JP).sum(1))[:, None] * step_JP
        return -q_JP


def _minimise(problem: _Problem, at_JP: Tensor, max_iterations: int, tolerance: float) -> Tensor:
    at_JP, history = at_JP.clone(), _History(at_JP)
    active_J = torch.arange(len(at_JP))
    loss_J, gradient_JP = problem.loss_and_gradient(at_JP, active_J)
    for _ in range(max_iterations):
        is_open_J = gradient_JP.abs().amax(1) > tolerance
        active_J, loss_J, gradient_JP = active_J[is_open_J], loss_J[is_open_J], gradient_JP[is_open_J]
        if not len(active_J):
            break
        moved_JP, new_loss_J, new_gradient_JP, has_moved_J = _line_search(
            problem, at_JP[active_J], loss_J, gradient_JP, history.direction(gradient_JP, active_J), active_J
        )
        history.add(moved_JP - at_JP[active_J], new_gradient_JP - gradient_JP, active_J)
        at_JP[active_J] = moved_JP
        active_J, loss_J, gradient_JP = active_J[has_moved_J], new_loss_J[has_moved_J], new_gradient_JP[has_moved_J]
    return at_JP


def _line_search(
    problem: _Problem, at_JP: Tensor, loss_J: Tensor, gradient_JP: Tensor, direction_JP: Tensor, which_J: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Halve the step of every problem until its loss falls enough; one that finds none has converged as far as its digits go."""
    slope_J, length_J = (gradient_JP * direction_JP).sum(1), torch.ones_like(loss_J)
    found_JP, found_loss_J, found_gradient_JP = at_JP, loss_J, gradient_JP
    has_found_J = torch.zeros_like(loss_J, dtype=torch.bool)
    for _ in range(_MAX_HALVINGS):
        moved_JP = at_JP + length_J[:, None] * direction_JP
        moved_loss_J, moved_gradient_JP = problem.loss_and_gradient(moved_JP, which_J)
        is_new_J = (moved_loss_J <= loss_J + _ARMIJO * length_J * slope_J) & ~has_found_J
        found_JP = torch.where(is_new_J[:, None], moved_JP, found_JP)
        found_gradient_JP = torch.where(is_new_J[:, None], moved_gradient_JP, found_gradient_JP)
        found_loss_J = torch.where(is_new_J, moved_loss_J, found_loss_J)
        has_found_J = has_found_J | is_new_J
        if has_found_J.all():
            break
        length_J = length_J / 2
    return found_JP, found_loss_J, found_gradient_JP, has_found_J


def _standardisation(features_NF: Tensor) -> tuple[Tensor, Tensor]:
    mean_F = features_NF.mean(0)
    return mean_F, (features_NF - mean_F).square().mean(0).sqrt().clamp_min(1e-6)
