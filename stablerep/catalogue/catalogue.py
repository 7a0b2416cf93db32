"""The catalogue as its users see it. `ParquetCatalogue` keeps the facts; `integrations.feast_store` serves the same facts with Feast.

A champion is the model that was promoted last on a suite. It is named per suite: accuracies on different suites are not compared.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from stablerep.records import DatasetRef, Evaluation, Record


@dataclass(frozen=True)
class GroupRow(Record):
    """One group of a data set: where it is and how it was made, enough to choose groups without opening a shard."""

    caption_id: str
    caption: str
    shard_index: int
    num_images: int
    guidance: float
    agreement: float | None = None  # of images and caption, where measured


@dataclass(frozen=True)
class Champion(Record):
    """The model promoted last on a suite, with the headline of its evaluation."""

    suite: str
    model_id: str
    accuracy: float
    low: float
    high: float
    uri: str  # of the evaluation
    promoted_at: str  # ISO 8601, UTC


class Catalogue(Protocol):
    """Register facts and look them up; `when` is ISO 8601 with an offset, and where facts differ the latest wins."""

    def register_dataset(self, dataset: DatasetRef, rows: Iterable[GroupRow], when: str) -> None:
        """Add or replace the groups of a data set."""
        ...

    def register_evaluation(self, evaluation: Evaluation, when: str) -> None:
        """Add or replace what a model reached on a suite."""
        ...

    def promote(self, model_id: str, suite: str, when: str) -> None:
        """Make a model the champion of a suite; nothing changes where it is already.

        Raises:
            DataError: the model has no registered evaluation on the suite.
        """
        ...

    def champion(self, suite: str) -> Champion | None:
        """The champion of a suite, or None where no model was promoted yet."""
        ...
