"""What is known of captions, groups, embeddings and evaluations, and which model is the champion: facts, never training data."""

from stablerep.catalogue.catalogue import CaptionRow, Catalogue, Champion, GroupRow, Neighbour, Reference, ReferenceImage, Served
from stablerep.catalogue.parquet import ParquetCatalogue

__all__ = [
    "CaptionRow",
    "Catalogue",
    "Champion",
    "GroupRow",
    "Neighbour",
    "ParquetCatalogue",
    "Reference",
    "ReferenceImage",
    "Served",
]
