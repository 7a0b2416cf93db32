import numpy as np
import pytest
import torch
from scipy.optimize import approx_fprime
from sklearn.linear_model import LogisticRegression

from stablerep.errors import DataError
from stablerep.probes import logistic
from stablerep.probes.logistic import L2_VALUES, fit_path, fit_with_validation


def _blobs(num_images: int, num_classes: int = 4, num_features: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.randint(num_classes, (num_images,), generator=generator)
    centres_KF = torch.randn(num_classes, num_features, generator=torch.Generator().manual_seed(99))
    return centres_KF[labels_N] + 1.5 * torch.randn(num_images, num_features, generator=generator), labels_N


def test_the_values_are_the_papers() -> None:
    assert len(L2_VALUES) == 45
    assert L2_VALUES[0] == pytest.approx(1e-6)
    assert L2_VALUES[-1] == pytest.approx(1e5)
    assert np.diff(np.log10(L2_VALUES)) == pytest.approx(0.25)


def test_every_penalty_ends_where_scikit_learn_ends() -> None:
    x_NF, labels_N = _blobs(200)
    values = [1e3, 30.0, 3.0, 0.3, 0.03, 1e-2, 1e-3]
    path = fit_path(x_NF.double(), labels_N, values, 4, tolerance=1e-7)
    for l2 in values:
        theirs = LogisticRegression(C=1 / l2, tol=1e-9, max_iter=5000).fit(x_NF.double().numpy(), labels_N.numpy())
        ours_FK = path[l2][0] - path[l2][0].mean(1, keepdim=True)
        assert torch.allclose(ours_FK, torch.from_numpy(theirs.coef_.T), atol=2e-4)
        ours_K = path[l2][1] - path[l2][1].mean()
        assert torch.allclose(ours_K, torch.from_numpy(theirs.intercept_) - theirs.intercept_.mean(), atol=2e-4)


def test_the_last_solution_and_principal_axes_change_no_result() -> None:
    x_NF, labels_N = _blobs(120)
    skewed_NF = x_NF.double() @ torch.diag(torch.logspace(-2, 1, 6).double()) + x_NF.double()[:, :1]
    values = [10.0, 1.0, 0.1, 0.05]
    path = fit_path(skewed_NF, labels_N, values, 4, tolerance=1e-8)
    for l2 in values:
        alone = fit_path(skewed_NF, labels_N, [l2], 4, tolerance=1e-8)[l2]
        theirs = LogisticRegression(C=1 / l2, tol=1e-9, max_iter=50_000).fit(skewed_NF.numpy(), labels_N.numpy())
        for weight_FK, bias_K in (path[l2], alone):
            assert torch.allclose(weight_FK - weight_FK.mean(1, keepdim=True), torch.from_numpy(theirs.coef_.T), atol=2e-3, rtol=1e-3)
            shares_NK = (skewed_NF @ weight_FK + bias_K).softmax(1).numpy()
            assert np.abs(shares_NK - theirs.predict_proba(skewed_NF.numpy())).max() < 1e-4


def test_correlated_features_of_no_full_rank_need_few_iterations() -> None:
    x_NF, labels_N = _blobs(200, num_features=8)
    one_N1 = 30 * torch.randn(200, 1, generator=torch.Generator().manual_seed(3))
    twice_NF = torch.cat([x_NF + one_N1, x_NF + one_N1], 1).double()
    weight_FK, bias_K = fit_path(twice_NF, labels_N, [1e-3], 4, max_iterations=40)[1e-3]
    theirs = LogisticRegression(C=1e3, tol=1e-9, max_iter=50_000).fit(twice_NF.numpy(), labels_N.numpy())
    shares_NK = (twice_NF @ weight_FK + bias_K).softmax(1).numpy()
    assert np.abs(shares_NK - theirs.predict_proba(twice_NF.numpy())).max() < 1e-2


def test_a_class_without_images_and_two_classes_are_fitted() -> None:
    x_NF, labels_N = _blobs(60, num_classes=2)
    weight_FK, bias_K = fit_path(x_NF, labels_N, [1.0], 3)[1.0]
    assert weight_FK.shape == (6, 3)
    assert ((x_NF @ weight_FK + bias_K).argmax(1) != 2).all()


def test_a_gradient_is_the_slope_of_its_loss() -> None:
    x_NF, labels_N = _blobs(40, num_classes=3, num_features=2)
    x_NP = torch.cat([x_NF, torch.ones(40, 1)], 1).double()
    problem = logistic._Problem(x_NP, labels_N, torch.tensor([0.7, 3.0]).double(), 50.0, 3)
    at = np.random.default_rng(1).normal(size=9)
    assert np.allclose(problem.loss_and_gradient(at)[1], approx_fprime(at, lambda x: problem.loss_and_gradient(x)[0]), atol=1e-5)


def test_the_penalty_is_chosen_on_validation_images_and_all_are_fitted() -> None:
    train, held_out, test = (_blobs(number, num_features=40, seed=seed) for seed, number in ((1, 60), (2, 60), (3, 2000)))
    values = (1e-6, 10.0, 1e5)
    model = fit_with_validation(*train, *held_out, num_classes=4, l2_values=values)
    assert model.l2 == 10.0
    scores = {}
    for l2 in values:
        one = fit_with_validation(*train, *held_out, num_classes=4, l2_values=(l2,))
        scores[l2] = float((one.predict(test[0]) == test[1]).float().mean())
    assert scores[10.0] == max(scores.values())
    assert torch.equal(model.mean_F, torch.cat([train[0], held_out[0]]).mean(0))


def test_equally_good_penalties_give_the_stronger() -> None:
    x_NF = torch.tensor([[-1.0], [1.0]] * 10)
    labels_N = torch.tensor([0, 1] * 10)
    assert fit_with_validation(x_NF, labels_N, x_NF, labels_N, num_classes=2, l2_values=(1e-3, 1e-2, 1e-1)).l2 == 1e-1


def test_the_scale_of_the_features_does_not_matter() -> None:
    train, held_out = _blobs(80, seed=1), _blobs(80, seed=2)
    a = fit_with_validation(*train, *held_out, num_classes=4)
    scale_F = torch.tensor([1.0, 1e-3, 1e3, 5.0, 2.0, 1.0])
    b = fit_with_validation(train[0] * scale_F + 7, train[1], held_out[0] * scale_F + 7, held_out[1], num_classes=4)
    assert a.l2 == b.l2
    assert torch.equal(a.predict(held_out[0]), b.predict(held_out[0] * scale_F + 7))


def test_a_feature_that_never_changes_is_harmless() -> None:
    train, held_out = _blobs(80, seed=1), _blobs(80, seed=2)
    model = fit_with_validation(
        torch.cat([train[0], torch.ones(80, 1)], 1), train[1], torch.cat([held_out[0], torch.ones(80, 1)], 1), held_out[1], num_classes=4
    )
    assert torch.isfinite(model.weight_FK).all()


def test_an_empty_part_is_refused() -> None:
    x_NF, labels_N = _blobs(10)
    with pytest.raises(DataError, match="expected training and validation images, found 10 and 0"):
        fit_with_validation(x_NF, labels_N, x_NF[:0], labels_N[:0], num_classes=4)
