"""The traps of the released code that concern the losses, one property each; number and list: quickstart study, section 6.

9 and 10 again over real processes in `tests/distributed/test_losses_over_ranks.py`. Every property holds for every backend.
"""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from stablerep.errors import DataError
from stablerep.losses import LOG_SCALE_MAX, image_text, multi_positive

TAU = 0.1


def rows(num: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(num, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.fixture(params=["plain", "tiled", "triton"])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


def loss(x: Tensor, labels: Tensor, backend: str, temperature: float = TAU, **keywords: object) -> Tensor:
    return multi_positive(x, x, labels, labels, torch.arange(len(x)), temperature, backend=backend, **keywords)


def as_loops(x: Tensor, labels: Tensor, temperature: float = TAU) -> float:
    """Equations 1 to 3 as two loops over Python floats."""
    unit = functional.normalize(x.double(), dim=1).tolist()
    costs = []
    for i, anchor in enumerate(unit):
        exponents = {j: sum(a * b for a, b in zip(anchor, unit[j], strict=True)) / temperature for j in range(len(unit)) if j != i}
        positives = [j for j in exponents if labels[j] == labels[i]]
        if positives:
            log_sum = math.log(sum(math.exp(exponent) for exponent in exponents.values()))
            costs.append(sum(log_sum - exponents[j] for j in positives) / len(positives))
    return sum(costs) / len(costs)


def test_trap_01_labels_are_read_anew_in_every_batch(backend):
    for seed in range(3):
        labels = torch.randint(0, 4, (12,), generator=torch.Generator().manual_seed(seed))
        assert loss(rows(12, seed), labels, backend).item() == pytest.approx(as_loops(rows(12, seed), labels), rel=1e-5)


@pytest.mark.parametrize("num", [8, 7, 5])
def test_trap_02_rows_of_one_caption_are_positives_in_duplicates_and_partial_batches(backend, num):
    by_caption = torch.tensor([0, 1, 2, 0, 0, 1, 2, 0])[:num]  # caption 0 is in the batch twice; the last batch is shorter
    by_row = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])[:num]
    assert loss(rows(num), by_caption, backend).item() == pytest.approx(as_loops(rows(num), by_caption), rel=1e-5)
    assert loss(rows(num), by_caption, backend).item() != pytest.approx(loss(rows(num), by_row, backend).item(), rel=1e-3)


def test_trap_03_images_without_a_positive_are_refused_or_left_out(backend):
    with pytest.raises(DataError, match="at least one caption with 2 or more images"):
        loss(rows(5), torch.arange(5), backend)
    labels = torch.tensor([0, 0, 1, 1, 2, 3, 4, 5])  # half singletons: the reference's mean would be half
    assert loss(rows(8), labels, backend).item() == pytest.approx(as_loops(rows(8), labels), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_trap_04_finite_in_every_type(backend, dtype):
    for temperature in (0.1, 0.01):
        x = (rows(9) * 200).to(dtype).requires_grad_()
        value = loss(x, torch.arange(9) % 3, backend, temperature)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_trap_05_half_precision_is_widened_before_the_norm(backend, dtype):
    x, labels = rows(9).to(dtype), torch.arange(9) % 3
    assert loss(x, labels, backend, 0.01).item() == pytest.approx(as_loops(x, labels, 0.01), rel=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(x.float(), labels, backend, 0.01)
    assert inside.item() == pytest.approx(as_loops(x, labels, 0.01), rel=1e-5)


@pytest.mark.parametrize("num_images", [2, 4, 6])
def test_trap_06_minimum_is_log_of_the_other_images(backend, num_images):
    labels = torch.arange(5).repeat(num_images)
    assert loss(torch.eye(5)[labels], labels, backend, 0.02).item() == pytest.approx(math.log(num_images - 1), abs=1e-5)


def test_trap_07_rows_and_labels_may_be_permuted_together_only(backend):
    labels, x = torch.arange(5).repeat(4), torch.eye(5).repeat(4, 1)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    assert loss(x, labels, backend).item() == pytest.approx(math.log(3), abs=1e-2)
    assert loss(x[order], labels[order], backend).item() == pytest.approx(loss(x, labels, backend).item(), rel=1e-6)
    assert loss(x, torch.arange(5).repeat_interleave(4), backend).item() > 5


def test_trap_08_one_caption_alone_keeps_its_shapes(backend):
    for num in (2, 3):
        value = loss(rows(num), torch.zeros(num, dtype=torch.int64), backend)
        assert value.shape == ()
        assert value.item() == pytest.approx(as_loops(rows(num), torch.zeros(num)), abs=1e-5)
    lone = image_text(rows(1), rows(1, 1), torch.tensor([3]), torch.tensor([3]), torch.tensor(1.0), backend=backend)
    assert lone.item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("cut", [0, 1, 5, 12])
def test_trap_09_uneven_ranks_mask_their_own_rows(backend, cut):
    """Also with weights, as two ranks would; and an index of another row is refused."""
    x, labels = rows(12), torch.arange(12) % 5
    weights = torch.rand(12, generator=torch.Generator().manual_seed(1))
    for each in (None, weights):
        parts = [
            multi_positive(x[own], x, labels[own], labels, own, TAU, candidate_weights_G=each, num_ranks=2, backend=backend)
            for own in torch.arange(12).split([cut, 12 - cut])
        ]
        expected = loss(x, labels, "plain", candidate_weights_G=each)
        assert torch.stack(parts).mean().item() == pytest.approx(expected.item(), rel=1e-5)
    with pytest.raises(DataError, match="gather both in the same order"):
        multi_positive(x, x, labels, labels, torch.arange(12).roll(1), TAU, backend=backend)


def test_trap_10_rows_of_other_ranks_get_their_gradient(backend):
    labels, whole, gathered = torch.arange(12) % 5, rows(12).requires_grad_(), rows(12).requires_grad_()
    parts = [
        multi_positive(gathered[own], gathered, labels[own], labels, own, TAU, num_ranks=2, backend=backend)
        for own in torch.arange(12).split([8, 4])
    ]
    torch.stack(parts).mean().backward()
    loss(whole, labels, "plain").backward()
    torch.testing.assert_close(gathered.grad, whole.grad, rtol=1e-4, atol=1e-6)


def test_trap_21_logit_scale_is_never_over_100(backend):
    image, text, labels = rows(6), rows(3, 1), torch.arange(6) % 3
    values = [
        image_text(image, text, labels, torch.arange(3), torch.tensor(log_scale), backend=backend).item()
        for log_scale in (9.0, LOG_SCALE_MAX, -3.0, 0.0)
    ]
    assert values[0] == values[1]
    assert values[2] == values[3]
    assert math.exp(LOG_SCALE_MAX) == pytest.approx(100)


def test_trap_22_two_views_an_image_are_nt_xent(backend):
    x = rows(12)
    unit = functional.normalize(x, dim=1)
    similarity = (unit @ unit.T / TAU).fill_diagonal_(float("-inf"))
    nt_xent = functional.cross_entropy(similarity, (torch.arange(12) + 6) % 12)
    assert loss(x, torch.arange(6).repeat(2), backend).item() == pytest.approx(nt_xent.item(), rel=1e-5)


def test_an_image_of_weight_0_is_an_image_of_a_caption_of_its_own(backend):
    x, labels = rows(9), torch.arange(9) % 3
    weights, alone = torch.ones(9), labels.clone()
    weights[[4, 5, 8]], alone[[4, 5, 8]] = 0.0, torch.tensor([77, 78, 79])  # caption 2 keeps one image that counts: it has no positive
    assert loss(x, labels, backend, candidate_weights_G=weights).item() == pytest.approx(loss(x, alone, backend).item(), rel=1e-5)
    assert loss(x, labels, backend, candidate_weights_G=weights * 7e3).item() == pytest.approx(loss(x, alone, backend).item(), rel=1e-5)


def test_weights_count_in_the_mean_and_in_the_targets(backend):
    x, labels, weights = rows(9), torch.tensor([0, 1, 0, 1, 0, 1, 2, 2, 3]), torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0, 1.0, 2.0, 1.0, 5.0])
    logits = functional.normalize(x.double(), dim=1) @ functional.normalize(x.double(), dim=1).T / TAU
    total = norm = 0.0
    for i in range(8):
        others = [j for j in range(9) if j != i]
        log_sum = math.log(sum(math.exp(logits[i, j]) for j in others))
        positives = [j for j in others if labels[j] == labels[i]]
        weight = sum(float(weights[j]) for j in positives)
        total += float(weights[i]) * sum(float(weights[j]) / weight * (log_sum - float(logits[i, j])) for j in positives)
        norm += float(weights[i])
    assert loss(x, labels, backend, candidate_weights_G=weights).item() == pytest.approx(total / norm, rel=1e-5)
