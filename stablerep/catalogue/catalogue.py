"""The catalogue as its users see it. `ParquetCatalogue` keeps the facts; `integrations.feast_store` serves the same facts with Feast.

A champion is the model that was promoted last on a suite. It is named per suite: accuracies on different suites are not compared.
Times are ISO 8601 with an offset.

Dimension key: N images of a reference set, D its space.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from stablerep.records import DatasetRef, Evaluation, Record

Vectors = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class CaptionRow(Record):
    """A text that may become a prompt; `label` is its class, empty where it has none."""

    caption_id: str
    caption: str
    label: str = ""
    tags: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class GroupRow(Record):
    """One group of a data set: where it is, how it was made, how good it is, enough to choose groups without opening a shard."""

    caption_id: str
    caption: str
    shard_index: int
    num_images: int
    guidance: float
    agreement: float | None = None  # of images and caption, where measured
    position: int = -1  # in the data set
    scores: dict[str, float] = field(default_factory=dict[str, float])  # every score of the group by name


@dataclass(frozen=True)
class ReferenceImage(Record):
    """An image whose embedding is registered."""

    image_id: str  # <dataset_id>/<caption_id>/<place in the group>
    dataset_id: str
    caption_id: str
    caption: str
    position: int  # of its group in the data set
    image_index: int


@dataclass(frozen=True)
class Reference:
    """What a model makes of a bounded set of images, in one space: vectors_ND[i] belongs to images[i]."""

    model_id: str
    space: str  # features | beside_text
    images: tuple[ReferenceImage, ...]
    vectors_ND: Vectors


@dataclass(frozen=True)
class Neighbour(Record):
    """An image near to what was asked for; the distance is one minus the cosine."""

    image: ReferenceImage
    distance: float


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


@dataclass(frozen=True)
class Served(Record):
    """The encoder that an endpoint was verified with last."""

    endpoint: str
    model_id: str
    url: str
    backend: str
    revision: str  # what tells this deployment from the one before it
    latency_p50_ms: float


class Catalogue(Protocol):
    """Register facts and look them up; where facts differ the latest wins."""

    def register_captions(self, name: str, rows: Iterable[CaptionRow], when: str) -> None:
        """Add or replace captions; `name` is that of the lot they came in."""
        ...

    def captions(self, when: str) -> list[CaptionRow]:
        """All captions as they were known at a moment, by id."""
        ...

    def register_dataset(self, dataset: DatasetRef, rows: Iterable[GroupRow], when: str) -> None:
        """Add or replace the groups of a data set."""
        ...

    def register_reference(self, reference: Reference, when: str) -> None:
        """Add or replace what a model makes of a set of images."""
        ...

    def nearest(self, model_id: str, space: str, query_D: Sequence[float], count: int) -> list[Neighbour]:
        """The `count` reference images nearest to a query, nearest first, equally near ones by id.

        Raises:
            DataError: the model has no reference set in this space, or one of another dimension.
        """
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

    def register_served(self, served: Served, when: str) -> None:
        """Say which encoder an endpoint was verified with."""
        ...
