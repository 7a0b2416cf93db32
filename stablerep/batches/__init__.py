"""Shards become batches: decode, augment, tokenise, and a loader whose order is a pure function of seed and step."""

from stablerep.batches.batch import Batch, GroupSource
from stablerep.batches.loader import GroupLoader

__all__ = ["Batch", "GroupLoader", "GroupSource"]
