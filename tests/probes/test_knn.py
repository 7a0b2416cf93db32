"""The weighted vote equals scikit-learn's with the same weights, and does not overflow, tie or run out of neighbours."""

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier

from stablerep.probes.knn import probe_knn


def clouds(seed: int, num: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, num)
    centres = np.random.default_rng(7).normal(size=(4, 6))
    return (centres[labels] + rng.normal(size=(num, 6))).astype(np.float32), labels.astype(np.int64)


def vote(x: np.ndarray, y: np.ndarray, test: np.ndarray, k: int = 20, temperature: float = 0.07) -> np.ndarray:
    tensors = (torch.from_numpy(a) for a in (x, y, test))
    return probe_knn(*tensors, num_classes=4, num_neighbours=k, temperature=temperature)


def test_equals_scikit_learn() -> None:
    (x, y), (test, _) = clouds(0, 300), clouds(1, 200)
    oracle = KNeighborsClassifier(20, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07))
    assert (vote(x, y, test) == oracle.fit(x, y).predict(test)).all()


def test_length_of_the_features_does_not_matter() -> None:
    (x, y), (test, _) = clouds(0, 300), clouds(1, 200)
    assert (vote(x, y, test) == vote(x * 1000, y, test * 0.001)).all()


def test_more_neighbours_than_images_and_a_cold_temperature() -> None:
    (x, y), (test, _) = clouds(0, 10), clouds(1, 50)
    nearest = KNeighborsClassifier(1, metric="cosine", algorithm="brute").fit(x, y).predict(test)
    assert (vote(x, y, test, k=1000, temperature=1e-4) == nearest).all()
