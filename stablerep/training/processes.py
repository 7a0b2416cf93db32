"""The processes of a training job: which device each uses, and the small exchanges the loop needs.

`distributed` starts the process group; here is what training asks of it: one value for all, all values for one, sums of a few numbers.
None carries gradients.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from stablerep.distributed import current_world, start
from stablerep.errors import LaunchError


@dataclass(frozen=True)
class Processes:
    """This process among those of the job; every method is collective."""

    rank: int
    world_size: int
    device: torch.device

    def share(self, value: Any) -> Any:
        """The value of rank 0, on every rank."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def collect(self, value: Any) -> list[Any]:
        """The values of all ranks, on every rank."""
        if self.world_size == 1:
            return [value]
        boxes: list[Any] = [None] * self.world_size
        dist.all_gather_object(boxes, value)
        return boxes

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over the ranks, in float64."""
        if self.world_size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        return sums.tolist()


def join_processes(expected: int, timeout_seconds: float = 600.0) -> Processes:
    """Join the job: nccl on GPUs, gloo where there are none; one thread for each CPU process.

    Args:
        expected: number of processes that the settings ask for.
        timeout_seconds: for the rendezvous and every collective.

    Raises:
        LaunchError: this node has fewer GPUs than processes, another number of processes came, or they cannot connect.
    """
    device_type = "cuda" if torch.cuda.is_available() else "cpu"
    local_rank, num_local = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device_type == "cuda" and torch.cuda.device_count() < num_local:
        raise LaunchError(
            f"expected a GPU for each of the {num_local} processes of this node, found {torch.cuda.device_count()}; lower "
            "pretrain.num_processes, or set CUDA_VISIBLE_DEVICES= to train on the CPU"
        )
    if device_type == "cpu":
        torch.set_num_threads(1)
    start(device_type, timeout_seconds=timeout_seconds)
    world = current_world()
    if world.world_size != expected:
        raise LaunchError(f"expected pretrain.num_processes={expected} processes, found {world.world_size}; launch the job with as many")
    return Processes(world.rank, world.world_size, torch.device(device_type, local_rank) if device_type == "cuda" else torch.device("cpu"))
