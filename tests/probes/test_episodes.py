import numpy as np
import pytest
import torch

from stablerep.errors import DataError
from stablerep.probes.episodes import draw_episodes, probe_few_shot

NAMES = tuple("abcdefg")


def _labels(num_per_class: int) -> np.ndarray:
    return np.tile(np.arange(7), num_per_class).astype(np.int64)


def test_episodes_have_five_classes_five_shots_fifteen_queries_and_no_repeats() -> None:
    labels_N, labels_Q = _labels(9), _labels(20)
    support_EWS, queries_EWR = draw_episodes(labels_N, labels_Q, NAMES, seed=3, num_episodes=40)
    assert support_EWS.shape == (40, 5, 5)
    assert queries_EWR.shape == (40, 5, 15)
    for support_WS, queries_WR in zip(support_EWS, queries_EWR, strict=True):
        ways = labels_N[support_WS][:, 0]
        assert len(set(ways)) == 5
        assert (labels_N[support_WS] == ways[:, None]).all()
        assert (labels_Q[queries_WR] == ways[:, None]).all()
        assert len(np.unique(support_WS)) == 25
        assert len(np.unique(queries_WR)) == 75
    assert len(np.unique(labels_N[support_EWS])) == 7


def test_equal_seeds_give_equal_episodes() -> None:
    first, again, other = (draw_episodes(_labels(9), _labels(20), NAMES, seed, 5) for seed in (1, 1, 2))
    assert (first[0] == again[0]).all()
    assert (first[1] == again[1]).all()
    assert (first[0] != other[0]).any()


def test_features_that_are_the_class_score_one_and_noise_scores_chance() -> None:
    labels_N, labels_Q = _labels(30), _labels(30)
    episodes = draw_episodes(labels_N, labels_Q, NAMES, seed=0, num_episodes=200)
    perfect = torch.eye(7)
    assert probe_few_shot(perfect[labels_N], perfect[labels_Q], episodes) == (1.0, 1.0, 1.0)
    generator = torch.Generator().manual_seed(0)
    noise_NF, noise_QF = (torch.randn(210, 16, generator=generator) for _ in range(2))
    mean, low, high = probe_few_shot(noise_NF, noise_QF, episodes)
    assert low < mean < high
    assert mean == pytest.approx(0.2, abs=0.03)


def test_a_shift_and_a_scale_of_all_features_change_nothing() -> None:
    labels_N, labels_Q = _labels(10), _labels(20)
    episodes = draw_episodes(labels_N, labels_Q, NAMES, seed=0, num_episodes=50)
    generator = torch.Generator().manual_seed(0)
    centre_KF = torch.randn(7, 8, generator=generator).double()
    train_NF = centre_KF[labels_N] + torch.randn(70, 8, generator=generator).double()
    test_QF = centre_KF[labels_Q] + torch.randn(140, 8, generator=generator).double()
    plain = probe_few_shot(train_NF, test_QF, episodes)
    assert 0.5 < plain[0] < 1
    assert probe_few_shot(train_NF * 100 + 1e4, test_QF * 100 + 1e4, episodes) == pytest.approx(plain)


@pytest.mark.parametrize(("num_train", "num_test"), [(4, 20), (9, 14)])
def test_too_few_images_are_refused(num_train: int, num_test: int) -> None:
    with pytest.raises(DataError, match=f"expected 5 training and 15 test images of class 'a', found {num_train} and {num_test}"):
        draw_episodes(_labels(num_train), _labels(num_test), NAMES, seed=0)
