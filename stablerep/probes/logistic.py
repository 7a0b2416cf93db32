"""Multinomial logistic regression over a path of l2 penalties (paper, section 5: fine-grained sets; 45 values from 1e-6 to 1e5).

The objective of one penalty is that of scikit-learn with C = 1 / l2, divided by N: mean cross-entropy + l2 / (2 N) |W|^2, bias free.
SciPy's L-BFGS solves one penalty after another, strong to weak, each from the last solution (warm start), in coordinates in which the
curvature at W = 0 is about 1 in every direction: features are turned to their principal axes, and each axis is scaled. Features of
a trunk are correlated, so weak penalties take thousands of iterations without that; where the path ends is the same.

Dimension key: N images, F features, K classes, P = (F + 1) K parameters, bias last.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stablerep.errors import DataError

L2_VALUES = tuple(10 ** (-6 + 11 * k / 44) for k in range(45))
_MAX_LINE_SEARCH = 50
_SMALLEST_CURVATURE = 1e-12


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
        tolerance: a penalty is done when no entry of its gradient is larger (see `fit_path`).

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
        tolerance: largest entry of a gradient at the end, in the scaled coordinates.
        start: [F+1,K] to start the strongest penalty from, bias last; zeros when None.
    """
    from scipy.optimize import minimize

    curvature_F, axes_FF = torch.linalg.eigh(x_NF.T.double() @ x_NF.double() / len(x_NF))
    turned_NP = torch.cat([x_NF @ axes_FF.to(x_NF.dtype), torch.ones(len(x_NF), 1, dtype=x_NF.dtype)], 1)
    axes_PP = torch.block_diag(axes_FF, torch.ones(1, 1))
    at_PK = axes_PP.T @ (torch.zeros(len(axes_PP), num_classes) if start is None else start).double()
    options = {"maxiter": max_iterations, "gtol": tolerance, "ftol": 64 * np.finfo(float).eps, "maxls": _MAX_LINE_SEARCH}
    found: dict[float, tuple[Tensor, Tensor]] = {}
    for l2 in sorted(l2_values, reverse=True):
        problem = _Problem(turned_NP, labels_N, curvature_F, l2, num_classes)
        outcome: Any = minimize(problem.loss_and_gradient, problem.to_scaled(at_PK), jac=True, method="L-BFGS-B", options=options)
        at_PK = problem.from_scaled(outcome.x)
        solution_PK = (axes_PP @ at_PK).to(x_NF.dtype)
        found[l2] = (solution_PK[:-1], solution_PK[-1])
    return found


class _Problem:
    """The objective of one penalty and its gradient, in scaled coordinates.

    At W = 0 the curvature along a principal axis is (its variance / K + l2 / N), up to a term that is the same for all; a coordinate
    is a weight times the root of that.
    """

    def __init__(self, turned_NP: Tensor, labels_N: Tensor, curvature_F: Tensor, l2: float, num_classes: int) -> None:
        self._x_NP, self._labels_N, self._num_classes = turned_NP, labels_N, num_classes
        self._rows_N = torch.arange(len(turned_NP))
        self._penalty_P1 = torch.full((turned_NP.shape[1], 1), l2 / len(turned_NP), dtype=torch.float64)
        self._penalty_P1[-1] = 0  # the bias
        curvature_P1 = torch.cat([curvature_F, torch.ones(1, dtype=torch.float64)])[:, None] / num_classes + self._penalty_P1
        self._scale_P1 = curvature_P1.clamp_min(_SMALLEST_CURVATURE).rsqrt()

    def to_scaled(self, at_PK: Tensor) -> np.ndarray:
        """Coordinates [P*K] of weights and bias."""
        return (at_PK / self._scale_P1).numpy().ravel()

    def from_scaled(self, coordinates: np.ndarray) -> Tensor:
        """Weights and bias [P,K] of coordinates."""
        return torch.from_numpy(coordinates).view(-1, self._num_classes) * self._scale_P1

    def loss_and_gradient(self, coordinates: np.ndarray) -> tuple[float, np.ndarray]:
        """Loss, and its gradient [P*K]; sums over images are those of the features' type, the rest is float64."""
        at_PK = self.from_scaled(coordinates)
        log_share_NK = (self._x_NP @ at_PK.to(self._x_NP.dtype)).log_softmax(1)
        loss = -log_share_NK[self._rows_N, self._labels_N].sum(dtype=torch.float64) / len(self._x_NP)
        error_NK = log_share_NK.exp_()
        error_NK[self._rows_N, self._labels_N] -= 1
        pull_PK = self._penalty_P1 * at_PK
        gradient_PK = (self._x_NP.T @ error_NK).double() / len(self._x_NP) + pull_PK
        return float(loss + 0.5 * (pull_PK * at_PK).sum()), (gradient_PK * self._scale_P1).numpy().ravel()


def _standardisation(features_NF: Tensor) -> tuple[Tensor, Tensor]:
    mean_F = features_NF.mean(0)
    return mean_F, (features_NF - mean_F).square().mean(0).sqrt().clamp_min(1e-6)
