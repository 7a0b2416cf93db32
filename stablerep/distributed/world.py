"""Who is here: the process group of a training run, and sums over it. Every function also works in a process of its own.

`start` reads what torchrun sets (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) through torch's env:// rendezvous. Sums here carry
no gradient: they are for reporting and for decisions all ranks must take together.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from stablerep.errors import LaunchError


@dataclass(frozen=True)
class World:
    """The place of this process among the processes of the run."""

    rank: int
    world_size: int
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes and reports."""
        return self.rank == 0


def current_world() -> World:
    """The world this process is in; a world of one when `start` was not called."""
    if not is_started():
        return World(0, 1)
    return World(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))


def is_started() -> bool:
    """Whether a process group exists."""
    return dist.is_available() and dist.is_initialized()


def start(device_type: str = "cpu", *, timeout_seconds: float = 600.0) -> World:
    """Join the process group: gloo on "cpu", nccl on "cuda" (and choose this process's GPU). Joining twice changes nothing.

    Without torchrun's variables the process becomes a world of one.

    Args:
        device_type: "cpu" or "cuda".
        timeout_seconds: how long a rendezvous or a collective may take.

    Raises:
        LaunchError: the other processes did not come, or the device type has no backend.
    """
    backend = {"cpu": "gloo", "cuda": "nccl"}.get(device_type)
    if backend is None:
        raise LaunchError(f"distributed start: expected device type cpu or cuda, found {device_type!r}")
    if is_started():
        return current_world()
    timeout = timedelta(seconds=timeout_seconds)
    try:
        if device_type == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        if "RANK" in os.environ:
            dist.init_process_group(backend, timeout=timeout)
        else:
            dist.init_process_group(backend, store=cast("Any", dist).HashStore(), rank=0, world_size=1, timeout=timeout)
    except (RuntimeError, ValueError) as error:
        place = ", ".join(f"{name}={os.environ.get(name, '')}" for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
        raise LaunchError(
            f"distributed start: expected {backend} to connect all ranks within {timeout_seconds:g} s ({place}): {error}"
        ) from error
    return current_world()


def stop() -> None:
    """Leave the process group; nothing happens when there is none."""
    if is_started():
        dist.destroy_process_group()


def barrier() -> None:
    """Wait for all ranks."""
    if current_world().world_size > 1:
        dist.barrier()


def sum_over_ranks(value: Tensor) -> Tensor:
    """Sum of a tensor over the ranks, without gradient; every rank gets it."""
    total = value.detach().clone()
    if current_world().world_size > 1:
        dist.all_reduce(total)
    return total


def mean_over_ranks(value: Tensor) -> Tensor:
    """Mean of a tensor over the ranks, without gradient; every rank gets it."""
    return sum_over_ranks(value) / current_world().world_size


def is_true_anywhere(is_true: bool, device: torch.device | str = "cpu") -> bool:
    """Whether any rank says so: how ranks agree to stop (a NaN, a SIGTERM) instead of leaving the others waiting."""
    return bool(sum_over_ranks(torch.tensor(int(is_true), device=device)) > 0)
