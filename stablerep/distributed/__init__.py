"""Processes that work together: start and stop, rank, collectives with gradients, batch norm over all ranks."""

from stablerep.distributed.gather import all_gather, gather_int, gather_sizes, own_rows
from stablerep.distributed.norm import SyncBatchNorm1d
from stablerep.distributed.ring import circulate
from stablerep.distributed.world import (
    World,
    barrier,
    current_world,
    is_started,
    is_true_anywhere,
    mean_over_ranks,
    start,
    stop,
    sum_over_ranks,
)

__all__ = [
    "SyncBatchNorm1d",
    "World",
    "all_gather",
    "barrier",
    "circulate",
    "current_world",
    "gather_int",
    "gather_sizes",
    "is_started",
    "is_true_anywhere",
    "mean_over_ranks",
    "own_rows",
    "start",
    "stop",
    "sum_over_ranks",
]
