"""All probes of one feature source under a protocol: linear, linear with batch norm, k-NN; few and all labels.

Dimension key: N training images, Q test images, F features, D draws.
"""

# pyright: reportUnknownMemberType=false
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stablerep.probes.bootstrap import accuracy_interval
from stablerep.probes.knn import probe_knn
from stablerep.probes.linear import LinearSettings, probe_linear
from stablerep.probes.protocol import ALL_LABELS, BoolArray, Int64Array, ProbeProtocol, label_draws
from stablerep.records import ProbeScore


@dataclass(frozen=True)
class Outcome:
    """One score, the classes predicted [D,Q], and the base learning rate chosen in each draw (none for k-NN)."""

    score: ProbeScore
    predicted_DQ: Int64Array
    base_lrs: tuple[float, ...]


def measure_source(
    source: str,
    train_NF: Tensor,
    train_labels: Int64Array,
    test_QF: Tensor,
    test_labels: Int64Array,
    class_names: tuple[str, ...],
    protocol: ProbeProtocol,
) -> list[Outcome]:
    """Every probe on the features of one source, in the order of the report.

    Args:
        source: `encoder`, `random_init` or `raw_pixels`.
        train_NF: features of the training images.
        train_labels: their classes.
        test_QF: features of the test images.
        test_labels: their classes.
        class_names: names of the classes, for messages.
        protocol: what to probe.

    Raises:
        DataError: a class has fewer training images than a probe asks for.
        DivergenceError: no head of a probe is finite.
    """
    outcomes: list[Outcome] = []
    labels_N = torch.from_numpy(train_labels.copy())
    for num_labels in protocol.labels_per_class:
        draws = label_draws(train_labels, class_names, num_labels, protocol.num_draws, protocol.seed)
        for probe in ("linear", "linear_bn"):
            settings = LinearSettings(
                len(class_names), protocol.base_lrs, protocol.num_epochs, protocol.batch_size, probe == "linear_bn", protocol.seed
            )
            predicted_DQ, base_lrs = probe_linear(train_NF, labels_N, test_QF, draws, settings, num_labels != ALL_LABELS)
            score = _score(source, probe, num_labels, predicted_DQ == test_labels, protocol)
            outcomes.append(Outcome(score, predicted_DQ, tuple(base_lrs)))
    predicted_Q = probe_knn(
        train_NF,
        labels_N,
        test_QF,
        num_classes=len(class_names),
        num_neighbours=protocol.num_neighbours,
        temperature=protocol.neighbour_temperature,
    )
    score = _score(source, "knn", ALL_LABELS, (predicted_Q == test_labels)[None], protocol)
    return [*outcomes, Outcome(score, predicted_Q[None], ())]


def confusion_matrix(predicted_Q: Int64Array, labels_Q: Int64Array, num_classes: int) -> Int64Array:
    """Counts [K,K]: row the true class, column the predicted one."""
    return np.bincount(labels_Q * num_classes + predicted_Q, minlength=num_classes**2).reshape(num_classes, num_classes)


def _score(source: str, probe: str, num_labels: int, correct_DQ: BoolArray, protocol: ProbeProtocol) -> ProbeScore:
    low, high = accuracy_interval(correct_DQ, protocol.num_bootstrap, protocol.seed)
    return ProbeScore(source, probe, num_labels, float(correct_DQ.mean()), low, high)
