"""What a probe suite is: the settings, the label draws, and the id of both together with the data.

A suite id names a protocol on a data set, never a model, so that two encoders measured under one suite saw the same images in the same
order and can be compared image by image. This module needs numpy only: a finished evaluation is found without torch.

Dimension key: N images, K classes, D draws of labelled images.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stablerep.errors import DataError
from stablerep.identity import content_id

ALL_LABELS = -1
SOURCES = ("encoder", "random_init", "raw_pixels")
PROBES = ("linear", "linear_bn", "knn", "logistic", "few_shot", "zero_shot")
NO_LABELS = 0  # zero-shot
_LATER = {"zero_shot_templates": (), "augmentation": "none"}  # settings that came later: suites that do not use them keep their ids
VERSION = 1  # raise it when the same settings on the same data would give other digits

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ProbeProtocol:
    """Settings of a suite; the meanings are those of `ProbeConfig`."""

    probes: tuple[str, ...]
    labels_per_class: tuple[int, ...]
    num_draws: int
    num_epochs: int
    batch_size: int
    base_lrs: tuple[float, ...]
    num_neighbours: int
    neighbour_temperature: float
    num_bootstrap: int
    seed: int
    zero_shot_templates: tuple[str, ...] = ()  # of zero_shot only
    augmentation: str = "none"  # of linear heads with all labels

    @property
    def headline_labels(self) -> int:
        """Labels per class of the headline probe: all where all are probed, else the most."""
        return ALL_LABELS if ALL_LABELS in self.labels_per_class else max(self.labels_per_class)

    def suite(self, identity: Mapping[str, Any]) -> str:
        """Id of this protocol on the data with `identity` (`data.identify`)."""
        settings = {name: value for name, value in asdict(self).items() if (name, value) not in _LATER.items()}
        return content_id("suite", {"version": VERSION, "protocol": settings, "data": dict(identity)})


def label_draws(labels_N: Int64Array, class_names: tuple[str, ...], num_per_class: int, num_draws: int, seed: int) -> list[Int64Array]:
    """Choose which training images keep their label.

    Args:
        labels_N: class of each training image, in [0, K).
        class_names: K names, for messages.
        num_per_class: labelled images of each class; -1 for all images, which needs one draw only.
        num_draws: independent class-balanced draws without replacement.
        seed: equal seeds give equal draws, whatever else is probed.

    Returns:
        Per draw the indices of the labelled images, class after class.

    Raises:
        DataError: a class has fewer training images than asked for.
    """
    if num_per_class == ALL_LABELS:
        return [np.arange(len(labels_N), dtype=np.int64)]
    members = [np.flatnonzero(labels_N == label) for label in range(len(class_names))]
    for name, indices in zip(class_names, members, strict=True):
        if len(indices) < num_per_class:
            raise DataError(
                f"expected at least {num_per_class} training images of class {name!r}, found {len(indices)}; "
                f"take {num_per_class} out of probe.labels_per_class or add images"
            )
    draws: list[Int64Array] = []
    for draw in range(num_draws):
        rng = np.random.default_rng([seed, num_per_class, draw])
        draws.append(np.concatenate([rng.permutation(indices)[:num_per_class] for indices in members]))
    return draws
