"""The two losses over candidates that come block by block: no rank ever holds the rows of all ranks.

Dimension key: R ranks, B rows and N captions of this rank, C rows of the block at hand, G and H rows and captions of all ranks, D
embedding. `circulate(*tensors)` yields these tensors of every rank in turn, this rank's own first (`distributed.circulate` passes them
around a ring; alone it yields its arguments). Labels and weights of all rows are known everywhere: they are a thousandth of the rows.

A first round accumulates every row's log-sum-exp and label sums. A second carries rows with their log-sum-exp: with it a rank forms on its
own the whole gradient at its rows, what their losses say and what every other row's loss says of them, so no gradients travel. Values are
those of `multi_positive` and `image_text` after `all_gather`, and gradients those of the mean over ranks.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportIncompatibleMethodOverride=false
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from stablerep.errors import ConfigError, DataError
from stablerep.losses.backends import Solver, chosen_backend, solver
from stablerep.losses.direction import Sides, counted_weight
from stablerep.losses.language import both_sides, check_matched
from stablerep.losses.positives import check_counted, check_self, check_temperature, whole_weight
from stablerep.losses.rows import check_rows, checked_weights, is_narrow, unit_rows
from stablerep.losses.scale import bounded_log_scale
from stablerep.losses.targets import find_targets, label_sums
from stablerep.losses.tiled import offsets, weighted_sum

Circulate = Callable[..., Iterator[tuple[Tensor, ...]]]


def multi_positive_in_blocks(
    rows_BD: Tensor,
    all_labels_G: Tensor,
    self_index_B: Tensor,
    temperature: float,
    circulate: Circulate,
    *,
    all_weights_G: Tensor | None = None,
    num_ranks: int = 1,
    backend: str = "auto",
) -> Tensor:
    """This rank's part of the multi-positive loss, as `multi_positive` with `num_ranks`: the mean over ranks is the loss over all rows.

    Every rank must call it, and scale its value alike before backward (which is checked there).

    Args:
        rows_BD: embeddings of this rank.
        all_labels_G: captions of the rows of all ranks.
        self_index_B: position of this rank's rows among them.
        temperature: tau, above 0.
        circulate: yields tensors of every rank, own first.
        all_weights_G: weight of every row, as in `multi_positive`.
        num_ranks: R.
        backend: tiled, triton or auto.

    Raises:
        DataError: no row of any rank has a positive, or rows, labels and weights do not belong together.
        ConfigError: a backend that does not work in blocks or on these rows.
    """
    solve = _solver(backend, rows_BD)
    check_temperature(temperature)
    weights_G = checked_weights(all_weights_G, all_labels_G, "all_weights")
    labels_B = all_labels_G[self_index_B]
    check_rows(rows_BD, labels_B, "rows")
    check_self(self_index_B, labels_B, all_labels_G)
    total_weight = whole_weight(all_labels_G, weights_G) / num_ranks
    check_counted(total_weight, all_labels_G)
    side = _known(Sides(labels_B, weights_G[self_index_B], all_labels_G, weights_G, self_index_B), total_weight)
    with torch.autocast(rows_BD.device.type, enabled=False):
        unit_BD = unit_rows(rows_BD)
        has_gradient = torch.is_grad_enabled() and rows_BD.requires_grad
        return _Within.apply(unit_BD, side.to(unit_BD), 1 / temperature, circulate, solve, has_gradient)  # pyright: ignore[reportReturnType]


def image_text_in_blocks(
    image_BD: Tensor,
    text_ND: Tensor,
    image_labels_B: Tensor,
    text_labels_N: Tensor,
    all_image_labels_G: Tensor,
    all_text_labels_H: Tensor,
    logit_scale: Tensor,
    circulate: Circulate,
    *,
    image_weights_B: Tensor | None = None,
    all_image_weights_G: Tensor | None = None,
    num_ranks: int = 1,
    backend: str = "auto",
) -> Tensor:
    """This rank's part of the image-text loss, as `image_text` with `num_ranks`.

    Every rank must call it, and scale its value alike before backward (which is checked there). Arguments and errors are those of
    `image_text` and `multi_positive_in_blocks`.
    """
    solve = _solver(backend, image_BD)
    check_rows(image_BD, image_labels_B, "images")
    check_rows(text_ND, text_labels_N, "captions")
    everyone = (all_image_labels_G, all_text_labels_H, all_image_weights_G)
    totals = [counted_weight(sides) / num_ranks for sides in both_sides(everyone, everyone)]
    check_matched(totals[0], totals[1], len(all_image_labels_G), len(all_text_labels_H))
    to_text, to_image = both_sides((image_labels_B, text_labels_N, image_weights_B), everyone)
    with torch.autocast(image_BD.device.type, enabled=False):
        image_BD, text_ND = unit_rows(image_BD), unit_rows(text_ND)
        image_BD = image_BD * bounded_log_scale(logit_scale).to(image_BD.dtype).exp()
        images, texts = _known(to_text, totals[0]).to(image_BD), _known(to_image, totals[1]).to(text_ND)
        has_gradient = torch.is_grad_enabled() and (image_BD.requires_grad or text_ND.requires_grad)
        return _Across.apply(image_BD, text_ND, images, texts, circulate, solve, has_gradient) / 2  # pyright: ignore[reportOperatorIssue]


@dataclass(frozen=True)
class _Known:
    """What is known of rows besides the rows: label, weight as anchor, that over the weight of its positives, weight as target."""

    labels_B: Tensor
    weight_B: Tensor
    pull_B: Tensor
    target_B: Tensor

    def to(self, rows_BD: Tensor) -> "_Known":
        """Weights in the type of the rows."""
        return _Known(self.labels_B, *(part.to(rows_BD.dtype) for part in (self.weight_B, self.pull_B, self.target_B)))


class _Within(torch.autograd.Function):
    """Rows that are anchors and candidates."""

    @staticmethod
    def forward(ctx: Any, rows_BD: Tensor, known: _Known, scale: float, circulate: Circulate, solve: Solver, has_gradient: bool) -> Tensor:
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
    """Images, which carry the scale, against texts and texts against images."""

    @staticmethod
    def forward(
        ctx: Any,
        image_BD: Tensor,
        text_ND: Tensor,
        images: _Known,
        texts: _Known,
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
    rows_BD: Tensor, known: _Known, others: Iterator[tuple[Tensor, ...]], scale: float, solve: Solver, *, is_within: bool
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


def _known(sides: Sides, total_weight: float) -> _Known:
    """Weights of the anchors in the mean; for the other direction, their weight as a target is their weight as an anchor."""
    targets = find_targets(sides.anchor_labels_B, sides.candidate_labels_G, sides.candidate_weights_G, sides.self_index_B)
    share_B = sides.anchor_weights_B * targets.has_positive_B / total_weight
    return _Known(sides.anchor_labels_B, share_B, share_B / targets.rest_B, sides.anchor_weights_B)


def _solver(backend: str, rows_BD: Tensor) -> Solver:
    name = chosen_backend(backend, rows_BD)
    if name == "plain":
        raise ConfigError(
            "backend plain: expected one that works in blocks, as the candidates are never there at once; choose tiled or triton"
        )
    return solver(name, tile_rows=0, is_narrow=is_narrow(rows_BD))


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
