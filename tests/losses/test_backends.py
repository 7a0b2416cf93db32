"""One parity suite for all backends: value and gradient of the plain one, for every type, ragged and weighted groups, parts of ranks."""

import pytest
import torch
from torch import Tensor

from stablerep.errors import ConfigError, DataError
from stablerep.losses import BACKENDS, image_text, multi_positive

RAGGED = torch.tensor([0, 1, 0, 2, 1, 0, 3, 1, 2, 0, 4, 1, 1])  # groups of 4, 5, 2, 1 and 1
WEIGHTS = torch.tensor([1.0, 0.5, 2.0, 1.0, 0.0, 3.0, 1.0, 0.25, 0.0, 1.0, 2.0, 1.5, 1.0])  # group 2 has one image of weight 0
TEXT_LABELS = torch.tensor([2, 0, 1, 4, 1, 9])  # 3 has no caption, 9 no image, 1 is there twice
VALUE = {torch.float64: 1e-12, torch.float32: 3e-6, torch.bfloat16: 3e-6, torch.float16: 3e-6}  # inputs alike, so digits alike
GRADIENT = {torch.float64: 1e-10, torch.float32: 3e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}  # gradients are rounded to the type


def rows(num: int, seed: int, dtype: torch.dtype = torch.float32, dim: int = 20) -> Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype).requires_grad_()


def many_labels(num: int) -> Tensor:
    return torch.randint(0, num // 3, (num,), generator=torch.Generator().manual_seed(5))


def compare(found: Tensor, expected: Tensor, found_leaves: list[Tensor], expected_leaves: list[Tensor]) -> None:
    dtype = found_leaves[0].dtype
    torch.testing.assert_close(found, expected, rtol=VALUE[dtype], atol=1e-7)
    found.backward()
    expected.backward()
    for left, right in zip(found_leaves, expected_leaves, strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=GRADIENT[dtype], atol=GRADIENT[dtype] * float(right.grad.abs().max()) / 3)


def check_image(backend: str, num: int, labels: Tensor, weights: Tensor | None, tau: float, dtype: torch.dtype, tile_rows: int = 0) -> None:
    """Anchors that are the candidates, given as one tensor and as two, and as one part of two ranks."""
    index = torch.arange(num)
    for own, is_one_tensor, num_ranks in ((index, True, None), (index, False, None), (index[num // 3 :], False, 2)):
        leaves = [rows(num, 0, dtype) for _ in range(2)]
        values = []
        for leaf, name in zip(leaves, (backend, "plain"), strict=True):
            anchors = leaf if is_one_tensor else leaf[own]
            values.append(
                multi_positive(
                    anchors,
                    leaf,
                    labels[own],
                    labels,
                    own,
                    tau,
                    candidate_weights_G=weights,
                    num_ranks=num_ranks,
                    backend=name,
                    tile_rows=tile_rows,
                )
            )
        compare(values[0], values[1], [leaves[0]], [leaves[1]])


def types_of(backend: str) -> list[torch.dtype]:
    return [dtype for dtype in VALUE if backend == "tiled" or dtype != torch.float64]


@pytest.mark.parametrize("tau", [0.1, 0.01])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
def test_image_loss_equals_plain(backend, weights, tau):
    for dtype in types_of(backend):
        check_image(backend, 13, RAGGED, weights, tau, dtype)


@pytest.mark.parametrize("tau", [0.1, 0.02])
@pytest.mark.parametrize("tile_rows", [1, 3, 4, 13, 100])
def test_uneven_last_tile(tile_rows, tau):
    for weights in (None, WEIGHTS):
        check_image("tiled", 13, RAGGED, weights, tau, torch.float64, tile_rows)


@pytest.mark.parametrize("num", [64, 65, 150])
def test_more_rows_than_a_tile(backend, num, monkeypatch):
    """Also tiles of the automatic size: several of them, the last one uneven."""
    monkeypatch.setattr("stablerep.losses.tiled._SQUARE_ROWS", 32)
    monkeypatch.setattr("stablerep.losses.tiled._FEWEST_ROWS", 32)
    monkeypatch.setattr("stablerep.losses.tiled._TILE_ELEMENTS", 1)
    check_image(backend, num, many_labels(num), None, 0.1, torch.float32)
    check_image(backend, num, many_labels(num), torch.rand(num, generator=torch.Generator().manual_seed(6)), 0.02, torch.float32)


@pytest.mark.parametrize("dim", [1, 16, 300])
def test_any_width(backend, dim):
    labels = many_labels(12)
    leaves = [rows(12, 1, dim=dim) for _ in range(2)]
    values = [
        multi_positive(leaf, leaf, labels, labels, torch.arange(12), 0.1, backend=name)
        for leaf, name in zip(leaves, (backend, "plain"), strict=True)
    ]
    compare(values[0], values[1], leaves[:1], leaves[1:])


@pytest.mark.parametrize("num_ranks", [None, 2])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
def test_image_text_loss_equals_plain(backend, weights, num_ranks):
    own, own_text = (slice(4, 13), slice(1, 4)) if num_ranks else (slice(0, 13), slice(0, 6))
    for dtype in types_of(backend):
        leaves = [[rows(13, 0, dtype), rows(6, 1, dtype), torch.tensor(2.6, dtype=torch.float32, requires_grad=True)] for _ in range(2)]
        values = [
            image_text(
                leaf[0][own],
                leaf[1][own_text],
                RAGGED[own],
                TEXT_LABELS[own_text],
                leaf[2],
                all_image_GD=leaf[0],
                all_text_HD=leaf[1],
                all_image_labels_G=RAGGED,
                all_text_labels_H=TEXT_LABELS,
                image_weights_B=None if weights is None else weights[own],
                all_image_weights_G=weights,
                num_ranks=num_ranks,
                backend=name,
            )
            for leaf, name in zip(leaves, (backend, "plain"), strict=True)
        ]
        compare(values[0], values[1], leaves[0], leaves[1])


@pytest.mark.parametrize("tau", [0.1, 0.02, 0.005])
def test_a_row_opposite_to_all_others(backend, tau):
    """Every logit of the first row is the least there is: a common reference for all rows would underflow to a logarithm of 0."""
    labels, base = torch.tensor([0, 0, 1, 1]), torch.randn(20, generator=torch.Generator().manual_seed(0))
    leaves = [torch.stack([base, -base, -base, -base]).requires_grad_() for _ in range(2)]
    values = [
        multi_positive(one, one, labels, labels, torch.arange(4), tau, backend=name)
        for one, name in zip(leaves, (backend, "plain"), strict=True)
    ]
    torch.testing.assert_close(values[0], values[1], rtol=1e-5, atol=0)
    for value, leaf in zip(values, leaves, strict=True):
        value.backward()
        assert float(leaf.grad.abs().max()) < 1e-5 / tau  # all cosines are -1 or 1: nothing pulls sideways


def test_a_rank_without_rows(backend):
    leaf = rows(13, 0)
    none = torch.arange(0)
    value = multi_positive(leaf[none], leaf, RAGGED[none], RAGGED, none, 0.1, num_ranks=2, backend=backend)
    value.backward()
    assert value.item() == 0
    assert torch.equal(leaf.grad, torch.zeros_like(leaf))


def test_results_do_not_change_from_run_to_run(backend):
    grads = []
    for _ in range(2):
        leaf, labels = rows(70, 0), many_labels(70)
        multi_positive(leaf, leaf, labels, labels, torch.arange(70), 0.1, backend=backend).backward()
        grads.append(leaf.grad)
    assert torch.equal(grads[0], grads[1])


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
def test_values_need_no_gradient(backend, weights):
    leaf = rows(13, 0)
    for anchors in (leaf, leaf.clone()):
        arguments = (anchors, leaf, RAGGED, RAGGED, torch.arange(13), 0.1)
        with torch.no_grad():
            value = multi_positive(*arguments, candidate_weights_G=weights, backend=backend)
        assert not value.requires_grad
        torch.testing.assert_close(value, multi_positive(*arguments, candidate_weights_G=weights, backend="plain").detach())


def test_anchors_in_another_order_than_the_candidates(backend):
    """The half-work path is for the same rows in the same order only."""
    order = torch.randperm(13, generator=torch.Generator().manual_seed(1))
    leaf = rows(13, 0)
    labels = RAGGED[torch.argsort(order)]
    same = multi_positive(leaf, leaf, RAGGED, RAGGED, torch.arange(13), 0.1, backend=backend)
    swapped = torch.tensor([2, 1, 0, *range(3, 13)])  # 0 and 2 have one label: what is left out is what the index says
    leaves = [rows(13, 0) for _ in range(2)]
    values = [
        multi_positive(one, one, RAGGED, RAGGED, swapped, 0.1, backend=name) for one, name in zip(leaves, (backend, "plain"), strict=True)
    ]
    compare(values[0], values[1], leaves[:1], leaves[1:])
    torch.testing.assert_close(
        multi_positive(leaf[torch.argsort(order)], leaf[torch.argsort(order)], labels, labels, torch.arange(13), 0.1, backend=backend), same
    )


def test_unknown_backend_is_refused():
    leaf = rows(4, 0)
    labels = torch.tensor([0, 0, 1, 1])
    with pytest.raises(ConfigError, match="backend of the loss: expected one of auto, plain, tiled, triton, found 'dense'"):
        multi_positive(leaf, leaf, labels, labels, torch.arange(4), 0.1, backend="dense")
    with pytest.raises(ConfigError, match="found 'dense'"):
        image_text(leaf, leaf, labels, labels, torch.tensor(0.0), backend="dense")
    assert BACKENDS == ("auto", "plain", "tiled", "triton")


def test_triton_on_a_cpu_is_refused(compiled_triton):
    leaf, labels = rows(4, 0), torch.tensor([0, 0, 1, 1])
    with pytest.raises(ConfigError, match=r"backend triton: expected rows on a CUDA device .*, found cpu; choose tiled, or auto"):
        multi_positive(leaf, leaf, labels, labels, torch.arange(4), 0.1, backend="triton")
    assert torch.isfinite(multi_positive(leaf, leaf, labels, labels, torch.arange(4), 0.1, backend="auto"))


@pytest.mark.parametrize(
    ("dtype", "dim", "found"), [(torch.float64, 8, "found float64"), (torch.float32, 513, "512 numbers at most, found 513")]
)
def test_rows_triton_cannot_take_are_refused(dtype, dim, found):
    leaf, labels = rows(4, 0, dtype, dim), torch.tensor([0, 0, 1, 1])
    with pytest.raises(ConfigError, match=found):
        multi_positive(leaf, leaf, labels, labels, torch.arange(4), 0.1, backend="triton")


def test_missing_triton_is_named(monkeypatch):
    monkeypatch.setattr("stablerep.losses.backends.find_spec", lambda name: None)
    leaf, labels = rows(4, 0), torch.tensor([0, 0, 1, 1])
    with pytest.raises(ConfigError, match="expected the triton package"):
        multi_positive(leaf, leaf, labels, labels, torch.arange(4), 0.1, backend="triton")


@pytest.mark.parametrize(
    ("weights", "found"), [([1.0, 1.0], r"found shape \(2,\)"), ([1.0, -1.0, 1.0, 1.0], "-1.0"), ([1.0, float("nan"), 1.0, 1.0], "nan")]
)
def test_useless_weights_are_refused(weights, found):
    leaf, labels = rows(4, 0), torch.tensor([0, 0, 1, 1])
    with pytest.raises(DataError, match=f"candidate_weights: expected .*{found}"):
        multi_positive(leaf, leaf, labels, labels, torch.arange(4), 0.1, candidate_weights_G=torch.tensor(weights))
