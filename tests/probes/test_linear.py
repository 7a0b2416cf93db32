"""The ten-head probe: equal to ten ordinary trainings, blind to the test set, sane with five labels a class, deterministic."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from stablerep.errors import DivergenceError
from stablerep.probes.linear import LinearSettings, _folds, choose_base_lr, fit_heads, one_split, probe_linear
from stablerep.probes.protocol import ALL_LABELS, label_draws

BASE_LRS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
SETTINGS = LinearSettings(num_classes=3, base_lrs=BASE_LRS, num_epochs=12, batch_size=16, is_standardised=False, seed=0)


def clouds(num_per_class: int, seed: int, spread: float = 1.0, num_classes: int = 3, num_features: int = 8) -> tuple[Tensor, Tensor]:
    """Gaussian clouds, one a class, with centres that do not depend on the seed."""
    centres = torch.randn(num_classes, num_features, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(num_classes).repeat_interleave(num_per_class)
    noise = torch.randn(len(labels), num_features, generator=torch.Generator().manual_seed(seed))
    return centres[labels] + spread * noise, labels


def sgd_by_the_book(x: Tensor, y: Tensor, rate: float, settings: LinearSettings) -> Tensor:
    """One head with torch's own layer, loss, optimiser and autograd; returns the weight [K,F]."""
    head = nn.Linear(x.shape[1], settings.num_classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimiser = torch.optim.SGD(head.parameters(), lr=rate, momentum=0.9, weight_decay=0.0)
    num_steps = settings.num_epochs * math.ceil(len(x) / settings.batch_size)
    generator, step = torch.Generator().manual_seed(settings.seed), 0
    for _ in range(settings.num_epochs):
        for chosen in torch.randperm(len(x), generator=generator).split(settings.batch_size):
            optimiser.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / num_steps))
            optimiser.zero_grad()
            nn.functional.cross_entropy(head(x[chosen]), y[chosen]).backward()
            optimiser.step()
            step += 1
    return head.weight.detach()


def test_all_heads_at_once_equal_each_head_trained_by_the_book() -> None:
    x, y = clouds(14, seed=0)  # 42 images in batches of 16: the last batch is smaller
    rates = torch.tensor([[0.01, 0.1, 1.0]])
    heads = fit_heads(x[None], y[None], rates, SETTINGS)
    scaled = (x - heads.mean_P1F[0]) / heads.scale_P1F[0]
    for h, rate in enumerate(rates[0]):
        expected = sgd_by_the_book(scaled, y, float(rate), SETTINGS)
        torch.testing.assert_close(heads.weight_PFO[0].unflatten(1, (3, 3))[:, h].T, expected, rtol=1e-4, atol=1e-6)


def test_problems_at_once_equal_problems_one_by_one() -> None:
    sets = [clouds(10, seed=s) for s in range(3)]
    x, y, rates = torch.stack([s[0] for s in sets]), torch.stack([s[1] for s in sets]), torch.tensor([[0.1], [0.2], [0.3]])
    together = fit_heads(x, y, rates, SETTINGS).logits(x)
    for p in range(3):
        alone = fit_heads(x[p : p + 1], y[p : p + 1], rates[p : p + 1], SETTINGS).logits(x[p : p + 1])
        torch.testing.assert_close(together[p : p + 1], alone, rtol=1e-4, atol=1e-5)


def test_the_learning_rate_does_not_see_the_test_set() -> None:
    x, y = clouds(30, seed=0)
    draws = label_draws(y.numpy(), ("a", "b", "c"), 10, 3, seed=0)
    answers = [probe_linear(x, y, test, draws, SETTINGS, is_balanced=True) for test in (clouds(20, 1)[0], 100 * clouds(20, 2)[0])]
    assert answers[0][1] == answers[1][1]
    assert answers[0][0].shape == (3, 60)
    assert (answers[0][0] != answers[1][0]).any()


@pytest.mark.parametrize("is_balanced", [True, False])
def test_a_rate_that_cannot_learn_is_not_chosen(is_balanced: bool) -> None:
    x, y = clouds(20, seed=0)
    settings = replace(SETTINGS, base_lrs=(1e-9, 0.5, 1e12), num_epochs=30)
    assert choose_base_lr(x, y, settings, is_balanced) == 0.5


@pytest.mark.parametrize("is_standardised", [False, True])
def test_scale_and_shift_of_the_features_do_not_matter(is_standardised: bool) -> None:
    (x, y), (test, _) = clouds(20, seed=0), clouds(40, seed=1)
    settings = replace(SETTINGS, is_standardised=is_standardised)
    draws = label_draws(y.numpy(), ("a", "b", "c"), ALL_LABELS, 1, seed=0)
    plain = probe_linear(x, y, test, draws, settings, is_balanced=False)
    moved = probe_linear(50 * x + 7, y, 50 * test + 7, draws, settings, is_balanced=False)
    assert plain[1] == moved[1]
    assert (plain[0] == moved[0]).mean() > 0.99


def test_batch_norm_makes_the_scale_of_a_dimension_not_matter() -> None:
    (x, y), (test, _) = clouds(20, seed=0), clouds(40, seed=1)
    stretch = torch.tensor([1.0, 30.0, 1.0, 1.0, 0.1, 1.0, 1.0, 1.0])
    draws = label_draws(y.numpy(), ("a", "b", "c"), ALL_LABELS, 1, seed=0)

    def agreement(is_standardised: bool) -> float:
        settings = replace(SETTINGS, is_standardised=is_standardised)
        plain, _ = probe_linear(x, y, test, draws, settings, is_balanced=False)
        stretched, _ = probe_linear(x * stretch, y, test * stretch, draws, settings, is_balanced=False)
        return float((plain == stretched).mean())

    assert agreement(is_standardised=True) > 0.99 > agreement(is_standardised=False)


def test_a_dimension_without_variance_does_no_harm() -> None:
    (x, y), (test, labels) = clouds(20, seed=0, spread=0.3), clouds(40, seed=1, spread=0.3)
    x[:, 0], test[:, 0] = 0.0, 5.0  # a pixel that is dark in every labelled image and bright in the test
    draws = label_draws(y.numpy(), ("a", "b", "c"), ALL_LABELS, 1, seed=0)
    predicted, _ = probe_linear(x, y, test, draws, replace(SETTINGS, is_standardised=True), is_balanced=False)
    assert (predicted == labels.numpy()).mean() > 0.95


def test_features_that_are_not_finite() -> None:
    x, y = clouds(10, seed=0)
    x[3, 2] = math.nan
    with pytest.raises(DivergenceError, match="no probe head is finite"):
        choose_base_lr(x, y, SETTINGS, is_balanced=True)


@pytest.mark.parametrize("num_per_class", [2, 5, 7, 20])
def test_folds_are_balanced_and_leave_out_every_image_equally(num_per_class: int) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), num_per_class)).astype(np.int64)
    kept, held = (part.numpy() for part in _folds(labels, seed=0))
    for a, b in zip(kept, held, strict=True):
        assert sorted([*a, *b]) == list(range(len(labels)))
        assert len(set(np.bincount(labels[b], minlength=4).tolist())) == 1
    counts = np.bincount(held.ravel(), minlength=len(labels))
    assert counts.min() == counts.max() >= 1
    assert held.size >= min(200, 10 * len(labels))  # redrawn until enough held-out answers count


def test_the_single_split_is_stratified_and_keeps_a_lonely_image() -> None:
    labels = np.repeat(np.arange(3), (100, 10, 1)).astype(np.int64)
    kept, held = (part.numpy()[0] for part in one_split(labels, seed=0))
    assert sorted([*kept, *held]) == list(range(111))
    assert np.bincount(labels[held], minlength=3).tolist() == [20, 2, 0]


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    pixels, labels = load_digits(return_X_y=True)
    x, y = (pixels / 16).astype(np.float32), labels.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(x))
    return x[order[:1000]], y[order[:1000]], x[order[1000:]], y[order[1000:]]


@pytest.mark.parametrize(("num_labels", "margin"), [(5, 0.03), (20, 0.02), (ALL_LABELS, 0.02)])
def test_as_good_as_logistic_regression_on_digits(num_labels: int, margin: float) -> None:
    x, y, test, labels = digits()
    draws = label_draws(y, tuple("0123456789"), num_labels, 3, seed=0)
    settings = LinearSettings(10, BASE_LRS, 90, 1024, is_standardised=False, seed=0)
    predicted, _ = probe_linear(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(test), draws, settings, num_labels != ALL_LABELS)
    oracle = []
    for draw in draws:
        scaler = StandardScaler().fit(x[draw])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            regression = LogisticRegression(C=0.1, max_iter=500).fit(scaler.transform(x[draw]), y[draw])
        oracle.append(regression.score(scaler.transform(test), labels))
    assert (predicted == labels).mean() > np.mean(oracle) - margin


def test_equal_seeds_give_equal_digits() -> None:
    (x, y), (test, _) = clouds(20, seed=0), clouds(40, seed=1)
    draws = label_draws(y.numpy(), ("a", "b", "c"), 5, 2, seed=0)
    first, second = (probe_linear(x, y, test, draws, SETTINGS, is_balanced=True) for _ in range(2))
    assert first[1] == second[1]
    assert (first[0] == second[0]).all()
