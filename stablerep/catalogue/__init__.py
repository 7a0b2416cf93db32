"""What is known about groups and evaluations, and which model is the champion: facts to look up, never training data."""

from stablerep.catalogue.catalogue import Catalogue, Champion, GroupRow
from stablerep.catalogue.parquet import ParquetCatalogue

__all__ = ["Catalogue", "Champion", "GroupRow", "ParquetCatalogue"]
