"""All probes of one feature source under a protocol: linear heads with few and all labels, k-NN, logistic regression, few-shot.

Dimension key: N training images, Q test images, F features, D draws.
"""

# pyright: reportUnknownMemberType=false
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stablerep.probes.bootstrap import accuracy_interval
from stablerep.probes.episodes import NUM_SHOTS, draw_episodes, probe_few_shot
from stablerep.probes.knn import probe_knn
from stablerep.probes.linear import EpochFeatures, LinearSettings, one_split, probe_linear
from stablerep.probes.logistic import fit_with_validation
from stablerep.probes.protocol import ALL_LABELS, NO_LABELS, BoolArray, Int64Array, ProbeProtocol, label_draws
from stablerep.records import ProbeScore


@dataclass(frozen=True)
class Outcome:
    """One score, the classes predicted [D,Q] (few-shot: none), and the base learning rate chosen in each draw (linear heads only)."""

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
    augmented: EpochFeatures | None = None,
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
        augmented: features of new views of the training images by epoch; linear heads with all labels learn from them.

    Raises:
        DataError: a class has fewer images than a probe asks for.
        DivergenceError: no head of a probe is finite.
    """
    data = _Data(source, train_NF, torch.from_numpy(train_labels.copy()), test_QF, test_labels, class_names, protocol, augmented)
    heads = [probe for probe in ("linear", "linear_bn") if probe in protocol.probes]
    outcomes = [_linear(data, probe, number) for number in protocol.labels_per_class for probe in heads]
    whole = {"knn": _knn, "logistic": _logistic, "few_shot": _few_shot}
    return outcomes + [measure(data) for probe, measure in whole.items() if probe in protocol.probes]


def zero_shot_outcome(predicted_Q: Int64Array, test_labels: Int64Array, protocol: ProbeProtocol) -> Outcome:
    """The score of the encoder's zero-shot classes."""
    correct_DQ = (predicted_Q == test_labels)[None]
    return Outcome(_score("encoder", "zero_shot", NO_LABELS, correct_DQ, protocol), predicted_Q[None], ())


def confusion_matrix(predicted_Q: Int64Array, labels_Q: Int64Array, num_classes: int) -> Int64Array:
    """Counts [K,K]: row the true class, column the predicted one."""
    return np.bincount(labels_Q * num_classes + predicted_Q, minlength=num_classes**2).reshape(num_classes, num_classes)


@dataclass(frozen=True)
class _Data:
    source: str
    train_NF: Tensor
    labels_N: Tensor
    test_QF: Tensor
    test_labels: Int64Array
    class_names: tuple[str, ...]
    protocol: ProbeProtocol
    augmented: EpochFeatures | None


def _linear(data: _Data, probe: str, num_labels: int) -> Outcome:
    protocol = data.protocol
    draws = label_draws(data.labels_N.numpy(), data.class_names, num_labels, protocol.num_draws, protocol.seed)
    settings = LinearSettings(
        len(data.class_names), protocol.base_lrs, protocol.num_epochs, protocol.batch_size, probe == "linear_bn", protocol.seed
    )
    is_all = num_labels == ALL_LABELS
    augmented = data.augmented if is_all else None
    predicted_DQ, base_lrs = probe_linear(data.train_NF, data.labels_N, data.test_QF, draws, settings, not is_all, augmented)
    score = _score(data.source, probe, num_labels, predicted_DQ == data.test_labels, protocol)
    return Outcome(score, predicted_DQ, tuple(base_lrs))


def _knn(data: _Data) -> Outcome:
    predicted_Q = probe_knn(
        data.train_NF,
        data.labels_N,
        data.test_QF,
        num_classes=len(data.class_names),
        num_neighbours=data.protocol.num_neighbours,
        temperature=data.protocol.neighbour_temperature,
    )
    return _of_all_labels(data, "knn", predicted_Q)


def _logistic(data: _Data) -> Outcome:
    kept_1A, held_1B = one_split(data.labels_N.numpy(), data.protocol.seed)
    kept_A, held_B = kept_1A[0], held_1B[0]
    model = fit_with_validation(
        data.train_NF[kept_A],
        data.labels_N[kept_A],
        data.train_NF[held_B],
        data.labels_N[held_B],
        num_classes=len(data.class_names),
    )
    return _of_all_labels(data, "logistic", model.predict(data.test_QF).numpy())


def _few_shot(data: _Data) -> Outcome:
    episodes = draw_episodes(data.labels_N.numpy(), data.test_labels, data.class_names, data.protocol.seed)
    mean, low, high = probe_few_shot(data.train_NF, data.test_QF, episodes)
    return Outcome(ProbeScore(data.source, "few_shot", NUM_SHOTS, mean, low, high), np.empty((0, len(data.test_labels)), np.int64), ())


def _of_all_labels(data: _Data, probe: str, predicted_Q: Int64Array) -> Outcome:
    score = _score(data.source, probe, ALL_LABELS, (predicted_Q == data.test_labels)[None], data.protocol)
    return Outcome(score, predicted_Q[None], ())


def _score(source: str, probe: str, num_labels: int, correct_DQ: BoolArray, protocol: ProbeProtocol) -> ProbeScore:
    low, high = accuracy_interval(correct_DQ, protocol.num_bootstrap, protocol.seed)
    return ProbeScore(source, probe, num_labels, float(correct_DQ.mean()), low, high)
