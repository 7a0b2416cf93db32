"""Shards: image groups packed in WebDataset tars with an index and a commit record, listed in a manifest, read at random."""

from stablerep.shards.group import ImageGroup
from stablerep.shards.read import GroupDataset

__all__ = ["GroupDataset", "ImageGroup"]
