"""Two rounds over everybody's rows, which give value and gradient of the losses to ranks that see one block at a time.

Dimension key: B rows and N captions of this rank, C rows of the block at hand, D embedding.

A first round accumulates every row's log-sum-exp and label sums. A second carries rows with their log-sum-exp: with it a rank forms on its
own the whole gradient at its rows, what their losses say and what every other row's loss says of them, so no gradients travel.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportIncompatibleMethodOverride=false
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from stablerep.errors import DataError
from stablerep.losses.backends import Solver
from stablerep.losses.targets import label_sums
from stablerep.losses.tiled import offsets, weighted_sum

Circulate = Callable[..., Iterator[tuple[Tensor, ...]]]


@dataclass(frozen=True)
class Known:
    """What is known of rows besides the rows: label, weight as anchor, that over the weight of its positives, weight as target."""

    labels_B: Tensor
    weight_B: Tensor
    pull_B: Tensor
    target_B: Tensor

    def to(self, rows_BD: Tensor) -> "Known":
        """Weights in the type of the rows."""
        return Known(self.labels_B, *(part.to(rows_BD.dtype) for part in (self.weight_B, self.pull_B, self.target_B)))


def within(rows_BD: Tensor, known: Known, scale: float, circulate: Circulate, solve: Solver) -> Tensor:
    """Cross entropy of rows that are anchors and candidates, this rank's part."""
    has_gradient = torch.is_grad_enabled() and rows_BD.requires_grad
    return _Within.apply(rows_BD, known, scale, circulate, solve, has_gradient)  # pyright: ignore[reportReturnType]


def across(image_BD: Tensor, text_ND: Tensor, images: Known, texts: Known, circulate: Circulate, solve: Solver) -> Tensor:
    """Cross entropies of images (which carry the scale) against texts and of texts against images, added; this rank's part."""
    has_gradient = torch.is_grad_enabled() and (image_BD.requires_grad or text_ND.requires_grad)
    return _Across.apply(image_BD, text_ND, images, texts, circulate, solve, has_gradient)  # pyright: ignore[reportReturnType]


class _Within(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_BD: Tensor, known: Known, scale: float, circulate: Circulate, solve: Solver, has_gradient: bool) -> Tensor:
        ctx.circulate = circulate
        others = circulate(rows_BD, known.labels_B, known.pull_B, known.target_B)
        lse_B, total, grad_BD = _first_round(rows_BD, known, others, scale, solve, is_within=True)
        if has_gradient:
            offset_B = offsets(lse_B, known.weight_B)
            _second_round(grad_BD, rows_BD, offset_B, circulate(rows_BD, offset_B), scale, solve, is_within=True)
        ctx.save_for_backward(grad_BD)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        _check_alike(grad_outputs[0], ctx.circulate)
        return grad_outputs[0] * ctx.saved_tensors[0], None, None, None, None, None


class _Across(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        image_BD: Tensor,
        text_ND: Tensor,
        images: Known,
        texts: Known,
        circulate: Circulate,
        solve: Solver,
        has_gradient: bool,
    ) -> Tensor:
        ctx.circulate = circulate
        some_texts = circulate(text_ND, texts.labels_B, texts.pull_B, texts.target_B)
        lse_B, total, grad_BD = _first_round(image_BD, images, some_texts, 1.0, solve, is_within=False)
        some_images = circulate(image_BD, images.labels_B, images.pull_B, images.target_B)
        lse_N, text_total, grad_ND = _first_round(text_ND, texts, some_images, 1.0, solve, is_within=False)
        if has_gradient:
            offset_B, offset_N = offsets(lse_B, images.weight_B), offsets(lse_N, texts.weight_B)
            _second_round(grad_BD, image_BD, offset_B, circulate(text_ND, offset_N), 1.0, solve, is_within=False)
            _second_round(grad_ND, text_ND, offset_N, circulate(image_BD, offset_B), 1.0, solve, is_within=False)
        ctx.save_for_backward(grad_BD, grad_ND)
        return total + text_total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        _check_alike(grad_outputs[0], ctx.circulate)
        grad_BD, grad_ND = ctx.saved_tensors
        return grad_outputs[0] * grad_BD, grad_outputs[0] * grad_ND, None, None, None, None, None


def _first_round(
    rows_BD: Tensor, known: Known, others: Iterator[tuple[Tensor, ...]], scale: float, solve: Solver, *, is_within: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-sum-exp of every row over all blocks, value, and the gradient of the attraction: -scale (pull_i S_i + target_i Q_i).

    S_i sums target_j x_j and Q_i sums pull_j x_j over the other rows of i's label.
    """
    lse_B = rows_BD.new_full((rows_BD.shape[0],), float("-inf"))
    target_BD = pull_BD = torch.zeros_like(rows_BD)
    for hop, (other_CD, labels_C, pull_C, target_C) in enumerate(others):
        itself_B = torch.arange(rows_BD.shape[0], device=rows_BD.device) if is_within and hop == 0 else None
        if other_CD.shape[0]:
            lse_B = torch.logaddexp(lse_B, solve.log_sum_exp(rows_BD, other_CD, itself_B, scale))
        target_BD = target_BD + label_sums(other_CD * target_C[:, None], labels_C, known.labels_B)
        pull_BD = pull_BD + label_sums(other_CD * pull_C[:, None], labels_C, known.labels_B)
    if is_within:
        target_BD = target_BD - rows_BD * known.target_B[:, None]
        pull_BD = pull_BD - rows_BD * known.pull_B[:, None]
    total = weighted_sum(known.weight_B, lse_B) - scale * (known.pull_B * torch.linalg.vecdot(rows_BD, target_BD)).sum()
    return lse_B, total, -scale * (known.pull_B[:, None] * target_BD + known.target_B[:, None] * pull_BD)


def _second_round(
    grad_BD: Tensor,
    rows_BD: Tensor,
    offset_B: Tensor,
    others: Iterator[tuple[Tensor, ...]],
    scale: float,
    solve: Solver,
    *,
    is_within: bool,
) -> None:
    """Add what every log-sum-exp says of these rows, their own and the others'."""
    for hop, (other_CD, offset_C) in enumerate(others):
        itself_B = torch.arange(rows_BD.shape[0], device=rows_BD.device) if is_within and hop == 0 else None
        grad_BD += solve.pull(rows_BD, other_CD, offset_B, offset_C, itself_B, scale)


def _check_alike(grad: Tensor, circulate: Circulate) -> None:
    """The gradient of all ranks' losses was formed with one factor for all; refuse a backward in which ranks weigh differently.

    Raises:
        DataError: on every rank.
    """
    factors = [float(factor) for (factor,) in circulate(grad.detach().reshape(1))]
    if max(factors) > min(factors):
        raise DataError(
            f"loss in blocks: expected every rank to scale its loss alike before backward, found factors {factors}; weigh the rows instead"
        )
