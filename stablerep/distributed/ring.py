"""Tensors of all ranks, one rank's at a time: passed around a ring, so that no rank ever holds them all.

Dimension key: R ranks, B rows of this rank, C rows of the rank whose tensors are here. After R - 1 hops every rank has seen every other's
rows, having held two ranks' at once; the next rows travel while the present ones are used. Carries no gradient: the losses that walk over
blocks (`losses/blocks.py`) form theirs without sending any back.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from stablerep.distributed.gather import gather_sizes
from stablerep.distributed.world import current_world
from stablerep.errors import DataError


def circulate(*rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """These tensors of every rank in turn: own first, then those of rank - 1, rank - 2, ...

    A collective: every rank must call it and take all it yields.

    Args:
        rows: [B, ...] each, with the same B; B may differ between ranks and may be 0, types and the other dimensions may not.

    Raises:
        DataError: tensors of this rank with different numbers of rows.
    """
    if len({len(part) for part in rows}) != 1:
        raise DataError(f"circulate: expected tensors with equally many rows, found {[len(part) for part in rows]}")
    world = current_world()
    if world.world_size == 1:
        yield rows
        return
    sizes = gather_sizes(len(rows[0]), rows[0].device)
    here = [_padded(part, max(sizes)) for part in rows]
    for hop in range(world.world_size):
        is_last = hop == world.world_size - 1
        coming, requests = ([], []) if is_last else _pass_on(here)
        size = sizes[(world.rank - hop) % world.world_size]
        yield tuple(part[:size] for part in here)
        for request in requests:
            request.wait()
        here = coming


def _pass_on(here: list[Tensor]) -> tuple[list[Tensor], list[Any]]:
    """Start to send tensors to the next rank and to receive those of the one before."""
    world = current_world()
    to, source = (world.rank + 1) % world.world_size, (world.rank - 1) % world.world_size
    coming = [torch.empty_like(part) for part in here]
    sends = [dist.P2POp(dist.isend, part, to, tag=tag) for tag, part in enumerate(here)]
    receives = [dist.P2POp(dist.irecv, part, source, tag=tag) for tag, part in enumerate(coming)]
    return coming, dist.batch_isend_irecv(sends + receives)


def _padded(part: Tensor, num_rows: int) -> Tensor:
    padded = part.detach().new_zeros(num_rows, *part.shape[1:])
    padded[: part.shape[0]] = part.detach()
    return padded
