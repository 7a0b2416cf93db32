"""Who computes the log-sum-exp: one function for the losses, several backends behind it, with gradients formed in forward.

Dimension key: B anchors, G candidates, D embedding. Backends: `tiled` (plain torch, any device and precision), `triton` (CUDA, single and
half precision), and `plain`, which is no backend of this function but the dense loss of `losses/paper.py`, for reading and comparing.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportIncompatibleMethodOverride=false
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from stablerep.errors import ConfigError
from stablerep.losses import tiled

BACKENDS = ("auto", "plain", "tiled", "triton")


@dataclass(frozen=True)
class Solver:
    """The functions of `tiled` or `kernels` with their settings bound."""

    both_ways: Callable[..., tuple[Tensor, Tensor | None]]
    one_way: Callable[..., tuple[Tensor, Tensor | None, Tensor | None]]
    log_sum_exp: Callable[..., Tensor]
    pull: Callable[..., Tensor]


def chosen_backend(name: str, rows_BD: Tensor) -> str:
    """`name`, or what "auto" means for these rows: Triton for single or half precision on CUDA, torch tiles elsewhere.

    Raises:
        ConfigError: an unknown name, or a backend that cannot work on these rows.
    """
    if name not in BACKENDS:
        raise ConfigError(f"backend of the loss: expected one of {', '.join(BACKENDS)}, found {name!r}")
    if name == "auto":
        return "triton" if rows_BD.is_cuda and not _obstacle(rows_BD) else "tiled"
    obstacle = _obstacle(rows_BD) if name == "triton" else ""
    if obstacle:
        raise ConfigError(f"backend triton: {obstacle}; choose tiled, or auto")
    return name


def solver(backend: str, *, tile_rows: int, is_narrow: bool) -> Solver:
    """The functions of a backend other than plain.

    Args:
        backend: of `chosen_backend`.
        tile_rows: rows of a tile (tiled only); 0 chooses.
        is_narrow: rows came in half precision, so that TF32 products lose nothing (triton only).
    """
    if backend == "triton":
        from stablerep.losses import kernels  # Triton comes with the CUDA builds of torch only

        return Solver(
            partial(kernels.both_ways, is_narrow=is_narrow),
            partial(kernels.one_way, is_narrow=is_narrow),
            partial(kernels.log_sum_exp, is_narrow=is_narrow),
            partial(kernels.pull, is_narrow=is_narrow),
        )
    return Solver(partial(tiled.both_ways, tile_rows=tile_rows), partial(tiled.one_way, tile_rows=tile_rows), tiled.log_sum_exp, tiled.pull)


def weighted_log_sum_exp(
    anchor_BD: Tensor, candidate_GD: Tensor, weight_B: Tensor, self_index_B: Tensor | None, scale: float, solve: Solver
) -> Tensor:
    """sum_i weight_i log sum_{j != self_i} exp(scale anchor_i . candidate_j), without a B x G matrix in memory.

    Args:
        anchor_BD: anchors.
        candidate_GD: candidates; the very same tensor as the anchors takes half the work, and row i is then anchor i itself.
        weight_B: weight of every anchor, 0 or more; carries no gradient.
        self_index_B: the candidate to leave out for each anchor, or None to leave out none.
        scale: factor of the products; with `anchor_BD is candidate_GD`, rows have norm 1 at most.
        solve: of `solver`.
    """
    has_gradient = torch.is_grad_enabled() and (anchor_BD.requires_grad or candidate_GD.requires_grad)
    if anchor_BD is candidate_GD and self_index_B is not None:
        return _BothWays.apply(anchor_BD, weight_B, scale, solve, has_gradient)  # pyright: ignore[reportReturnType]
    return _OneWay.apply(anchor_BD, candidate_GD, weight_B, self_index_B, scale, solve, has_gradient)  # pyright: ignore[reportReturnType]


class _BothWays(torch.autograd.Function):
    """Anchors are the candidates: the gradient at row i is scale * sum_j (w_i q_ij + w_j q_ji) x_j."""

    @staticmethod
    def forward(ctx: Any, rows_BD: Tensor, weight_B: Tensor, scale: float, solve: Solver, has_gradient: bool) -> Tensor:
        total, grad_BD = solve.both_ways(rows_BD, weight_B, scale, has_gradient=has_gradient)
        ctx.save_for_backward(grad_BD)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (grad_BD,) = ctx.saved_tensors
        return grad_outputs[0] * grad_BD, None, None, None, None


class _OneWay(torch.autograd.Function):
    """The gradient is scale * P'C for the anchors and scale * P'^T A for the candidates, P'_ij = w_i q_ij."""

    @staticmethod
    def forward(
        ctx: Any,
        anchor_BD: Tensor,
        candidate_GD: Tensor,
        weight_B: Tensor,
        self_index_B: Tensor | None,
        scale: float,
        solve: Solver,
        has_gradient: bool,
    ) -> Tensor:
        total, *grads = solve.one_way(anchor_BD, candidate_GD, weight_B, self_index_B, scale, has_gradient=has_gradient)
        ctx.save_for_backward(*grads)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        grad_anchor_BD, grad_candidate_GD = ctx.saved_tensors
        return grad_outputs[0] * grad_anchor_BD, grad_outputs[0] * grad_candidate_GD, None, None, None, None, None


def _obstacle(rows_BD: Tensor) -> str:
    """Why the Triton kernels cannot take these rows; empty when they can."""
    if find_spec("triton") is None:
        return "expected the triton package (it comes with torch's CUDA builds), found none"
    from stablerep.losses import kernels  # as above

    if rows_BD.dtype == torch.float64:
        return "expected float32 or half precision, found float64"
    if rows_BD.shape[1] > kernels.LARGEST_DIM:
        return f"expected embeddings of {kernels.LARGEST_DIM} numbers at most, found {rows_BD.shape[1]}"
    if not rows_BD.is_cuda and not kernels.is_interpreted():
        return f"expected rows on a CUDA device (or TRITON_INTERPRET=1, for tests), found {rows_BD.device.type}"
    return ""
