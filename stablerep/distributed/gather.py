"""Rows of all ranks, with the gradient of all ranks.

Dimension key: R ranks, B rows of this rank, G = sum of B over ranks, in rank order. Backward sums what every rank's loss says about a row
and hands each rank its own rows: with the mean over ranks that data parallelism takes, the result is the gradient of the mean of the
ranks' losses. Ranks may hold different numbers of rows (they are padded for the exchange). Written on all_gather and all_reduce only,
which gloo and nccl share; torch.distributed.nn does the same but is deprecated.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportIncompatibleMethodOverride=false
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from stablerep.distributed.world import current_world
from stablerep.errors import DataError


def all_gather(rows: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
    """The rows of all ranks, differentiable.

    Args:
        rows: [B, ...]; the other dimensions and the type must agree between ranks.
        sizes: rows of every rank, when known (`gather_sizes`); saves one small exchange.

    Returns:
        [G, ...] in rank order. In a world of one, the rows themselves.

    Raises:
        DataError: `sizes` does not fit the world or this rank's rows.
    """
    world = current_world()
    if world.world_size == 1:
        return rows
    return _AllGather.apply(rows, _checked_sizes(rows, sizes))  # pyright: ignore[reportReturnType]


def gather_int(values_B: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
    """Whole numbers of all ranks (labels, counts) in rank order, without gradient; `sizes` as in `all_gather`.

    Raises:
        DataError: the values are not whole numbers, or `sizes` does not fit.
    """
    if values_B.is_floating_point():
        raise DataError(f"gather_int: expected whole numbers, found {values_B.dtype}; all_gather carries floats and their gradient")
    if current_world().world_size == 1:
        return values_B
    return torch.cat(_exchange(values_B, _checked_sizes(values_B, sizes)))


def gather_sizes(num_rows: int, device: torch.device | str = "cpu") -> list[int]:
    """How many rows each rank holds, in rank order. `device` is where the backend can exchange (nccl: the GPU)."""
    world_size = current_world().world_size
    if world_size == 1:
        return [num_rows]
    own = torch.tensor([num_rows], dtype=torch.int64, device=device)
    sizes = [torch.empty_like(own) for _ in range(world_size)]
    dist.all_gather(sizes, own)
    return [int(size) for size in torch.cat(sizes).tolist()]


def own_rows(sizes: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Positions of this rank's rows among the rows of all ranks, int64 [B]: the `self_index` of the losses."""
    rank = current_world().rank
    first = sum(sizes[:rank])
    return torch.arange(first, first + sizes[rank], device=device)


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: Sequence[int]) -> Tensor:
        ctx.sizes = sizes
        return torch.cat(_exchange(rows, sizes))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        grad = grad_outputs[0].contiguous().clone()
        dist.all_reduce(grad)
        return grad[own_rows(ctx.sizes, grad.device)], None


def _checked_sizes(rows: Tensor, sizes: Sequence[int] | None) -> Sequence[int]:
    world = current_world()
    if sizes is None:
        return gather_sizes(rows.shape[0], rows.device)
    if len(sizes) != world.world_size or sizes[world.rank] != rows.shape[0]:
        raise DataError(
            f"all_gather: expected sizes of {world.world_size} ranks with {rows.shape[0]} for rank {world.rank}, found {list(sizes)}"
        )
    return sizes


def _exchange(rows: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """The rows of each rank: padded to the longest, gathered, cut back."""
    longest = max(sizes)
    padded = rows.detach().new_zeros(longest, *rows.shape[1:])
    padded[: rows.shape[0]] = rows.detach()
    gathered = [torch.empty_like(padded) for _ in sizes]
    if longest:
        dist.all_gather(gathered, padded)
    return [part[:size] for part, size in zip(gathered, sizes, strict=True)]
