"""Few-shot classification: 5-way 5-shot episodes, nearest class mean of centred, L2-normalised features (SimpleShot, CL2N).

An episode draws five classes, five training images of each as the support and fifteen test images of each as queries. Features are
centred by the mean of all training features, which needs no label. Every feature source sees the same episodes.

Dimension key: N training images, Q test images, F features, E episodes, W ways, S shots, R queries a way.
"""

# pyright: reportUnknownMemberType=false
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from stablerep.errors import DataError
from stablerep.probes.protocol import Int64Array

NUM_WAYS = 5
NUM_SHOTS = 5
NUM_QUERIES = 15
NUM_EPISODES = 600


def draw_episodes(
    labels_N: Int64Array, test_labels_Q: Int64Array, class_names: tuple[str, ...], seed: int, num_episodes: int = NUM_EPISODES
) -> tuple[Int64Array, Int64Array]:
    """Positions of the support among the training images [E,W,S] and of the queries among the test images [E,W,R].

    Raises:
        DataError: fewer than five classes, or a class with fewer than five training or fifteen test images.
    """
    train: list[Int64Array] = [np.flatnonzero(labels_N == label) for label in range(len(class_names))]
    test: list[Int64Array] = [np.flatnonzero(test_labels_Q == label) for label in range(len(class_names))]
    remedy = "take few_shot out of probe.probes or add images"
    if len(class_names) < NUM_WAYS:
        raise DataError(f"few_shot: expected at least {NUM_WAYS} classes, found {len(class_names)}; {remedy}")
    for name, few, many in zip(class_names, train, test, strict=True):
        if len(few) < NUM_SHOTS or len(many) < NUM_QUERIES:
            raise DataError(
                f"few_shot: expected {NUM_SHOTS} training and {NUM_QUERIES} test images of class {name!r}, found {len(few)} and "
                f"{len(many)}; {remedy}"
            )
    rng = np.random.default_rng([seed, NUM_WAYS, NUM_SHOTS])
    support = np.empty((num_episodes, NUM_WAYS, NUM_SHOTS), np.int64)
    queries = np.empty((num_episodes, NUM_WAYS, NUM_QUERIES), np.int64)
    for episode in range(num_episodes):
        for way, label in enumerate(rng.permutation(len(class_names))[:NUM_WAYS]):
            support[episode, way] = rng.permutation(train[int(label)])[:NUM_SHOTS]
            queries[episode, way] = rng.permutation(test[int(label)])[:NUM_QUERIES]
    return support, queries


def probe_few_shot(train_NF: Tensor, test_QF: Tensor, episodes: tuple[Int64Array, Int64Array]) -> tuple[float, float, float]:
    """Mean accuracy over the episodes, with the 95 % interval of that mean (1.96 standard errors, as the field reports it).

    Args:
        train_NF: features of the training images.
        test_QF: features of the test images.
        episodes: of `draw_episodes`.
    """
    mean_F = train_NF.mean(0)
    train_NF, test_QF = normalize(train_NF - mean_F, dim=1), normalize(test_QF - mean_F, dim=1)
    support_EWS, queries_EWR = (torch.from_numpy(part) for part in episodes)
    accuracy: list[Tensor] = []
    for support_WS, queries_WR in zip(support_EWS, queries_EWR, strict=True):
        centre_WF = train_NF[support_WS].mean(1)
        distance_QW = torch.cdist(test_QF[queries_WR.flatten()], centre_WF)
        right_Q = distance_QW.argmin(1) == torch.arange(len(centre_WF)).repeat_interleave(queries_WR.shape[1])
        accuracy.append(right_Q.double().mean())
    accuracy_E = torch.stack(accuracy)
    mean, error = float(accuracy_E.mean()), float(accuracy_E.std()) / len(accuracy_E) ** 0.5
    return mean, max(0.0, mean - 1.96 * error), min(1.0, mean + 1.96 * error)
