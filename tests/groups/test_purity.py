"""Purity and diversity of groups of known make-up, with labels and without."""

from collections import Counter

import numpy as np
import pytest

from stablerep.groups.purity import Estimate, FloatArray, IntArray, diversity, estimate, labelled_purity, unlabelled_purity

NUM_GROUPS, SIZE, NUM_KINDS = 60, 6, 10


def _world(impure: float, seed: int = 0, spread: float = 0.25) -> tuple[FloatArray, IntArray, IntArray]:
    """Groups of one kind each, of which a share of images is of another kind; kinds are far apart."""
    rng = np.random.default_rng(seed)
    kind_N = np.repeat(rng.integers(0, NUM_KINDS, NUM_GROUPS), SIZE)
    group_N = np.repeat(np.arange(NUM_GROUPS), SIZE)
    is_other_N = rng.random(len(kind_N)) < impure
    kind_N = np.where(is_other_N, (kind_N + rng.integers(1, NUM_KINDS, len(kind_N))) % NUM_KINDS, kind_N)
    centre_KF = np.eye(NUM_KINDS)
    shift_GF = rng.normal(scale=spread / 2, size=(NUM_GROUPS, NUM_KINDS))
    return centre_KF[kind_N] + shift_GF[group_N] + rng.normal(scale=spread / 2, size=(len(kind_N), NUM_KINDS)), group_N, kind_N


def test_labelled_purity_is_the_share_of_the_most_frequent_class() -> None:
    group_N = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])
    assert labelled_purity([5, 5, 5, 1, 2, 3, 7, 7, 7], group_N).tolist() == [0.75, 0.5, 1.0]
    shuffled = np.random.default_rng(0).permutation(9)
    assert labelled_purity(np.array([5, 5, 5, 1, 2, 3, 7, 7, 7])[shuffled], group_N[shuffled]).tolist() == [0.75, 0.5, 1.0]


def test_unlabelled_purity_follows_the_labelled_one() -> None:
    found: list[float] = []
    for impure in (0.0, 0.1, 0.3):
        rows, group_N, kind_N = _world(impure)
        with_labels, without = float(labelled_purity(kind_N, group_N).mean()), float(unlabelled_purity(rows, group_N).mean())
        assert with_labels - 0.1 <= without <= with_labels + 0.04, "never flattering: an evenly mixed group agrees on nothing"
        found.append(without)
    assert found[0] > 0.97
    assert found == sorted(found, reverse=True)


def test_unlabelled_purity_equals_loops() -> None:
    rows, group_N, _ = _world(0.2, spread=0.6)
    centroids = np.array([rows[group_N == group].mean(0) for group in range(NUM_GROUPS)])
    chosen = [int(np.argmax([np.linalg.norm(centroid - centroids.mean(0)) for centroid in centroids]))]
    while len(chosen) < 12:
        chosen.append(int(np.argmax([min(np.linalg.norm(centroid - centroids[other]) for other in chosen) for centroid in centroids])))
    agrees: Counter[int] = Counter()
    for place, (row, group) in enumerate(zip(rows, group_N.tolist(), strict=True)):
        others = np.mean([other for i, other in enumerate(rows) if group_N[i] == group and i != place], axis=0)
        to_reference = [float(np.linalg.norm(row - centroids[number])) for number in chosen]
        nearest_of_others = int(np.argmin([np.linalg.norm(others - centroids[number]) for number in chosen]))
        agrees[group] += np.linalg.norm(row - others) < min(to_reference) or nearest_of_others == int(np.argmin(to_reference))
    assert unlabelled_purity(rows, group_N).tolist() == pytest.approx([agrees[group] / SIZE for group in range(NUM_GROUPS)])


def test_diversity_is_the_mean_distance_inside_over_that_between() -> None:
    rows, group_N, _ = _world(0.0)
    inside: dict[int, list[float]] = {}
    between: list[float] = []
    for i in range(len(rows)):
        for j in range(len(rows)):
            distance = float(np.linalg.norm(rows[i] - rows[j]))
            if group_N[i] != group_N[j]:
                between.append(distance)
            elif i != j:
                inside.setdefault(int(group_N[i]), []).append(distance)
    assert diversity(rows, group_N).tolist() == pytest.approx([np.mean(inside[group]) / np.mean(between) for group in range(NUM_GROUPS)])
    copies = np.repeat(rows[::SIZE], SIZE, axis=0)
    assert diversity(copies, group_N).tolist() == pytest.approx([0.0] * NUM_GROUPS, abs=1e-6)


def test_the_interval_is_over_groups_and_always_the_same() -> None:
    values = np.array([1.0] * 50 + [0.5] * 50)
    found = estimate(values)
    assert found == estimate(values)
    assert found.value == 0.75
    assert 0.68 < found.low < 0.72
    assert 0.78 < found.high < 0.82
    assert estimate(np.ones(9)) == Estimate(1.0, 1.0, 1.0)
