"""The multi-positive loss: the paper as loops, closed forms, invariances, the traps of the reference code."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from stablerep.errors import DataError
from stablerep.losses import count_singletons, multi_positive, multi_positive_plain

TAU = 0.1
CAPTION_IDS = torch.tensor([2**63 - 1, 5, 7_000_000_000_000_000_001, 0, 123, 999, 31337])  # hashes: any order, any size
RAGGED = torch.tensor([0, 1, 0, 2, 1, 0, 3, 1, 2, 0, 4, 1, 1])  # groups of 4, 5, 2, 1 and 1
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def rows(num: int, dim: int = 6, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def loss(x: Tensor, labels: Tensor, temperature: float = TAU, **keywords: int) -> Tensor:
    return multi_positive(x, x, labels, labels, torch.arange(len(x)), temperature, **keywords)


def as_the_paper_writes_it(x: Tensor, labels: Tensor, temperature: float) -> float:
    """Equations 1 to 3 over Python floats."""
    unit = [[value / math.sqrt(sum(v * v for v in row)) for value in row] for row in x.tolist()]
    label = labels.tolist()
    costs = []
    for i, anchor in enumerate(unit):
        similarity = {j: sum(a * b for a, b in zip(anchor, other, strict=True)) / temperature for j, other in enumerate(unit) if j != i}
        denominator = sum(math.exp(s) for s in similarity.values())
        positives = [j for j in similarity if label[j] == label[i]]
        if positives:
            costs.append(-sum(1 / len(positives) * math.log(math.exp(similarity[j]) / denominator) for j in positives))
    return sum(costs) / len(costs)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
@pytest.mark.parametrize("function", [multi_positive, multi_positive_plain])
def test_equals_the_paper(function, temperature):
    x, labels = rows(13), CAPTION_IDS[RAGGED]
    value = function(x, x, labels, labels, torch.arange(13), temperature)
    assert value.item() == pytest.approx(as_the_paper_writes_it(x, labels, temperature), rel=1e-12)


@pytest.mark.parametrize("tile_rows", [0, 1, 4, 13, 100])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_fast_path_equals_plain_path(tile_rows, dtype):
    tolerance = TOLERANCES[dtype]
    labels = CAPTION_IDS[RAGGED]
    fast, plain = (rows(13, dtype=dtype).requires_grad_() for _ in range(2))
    value = loss(fast, labels, tile_rows=tile_rows)
    expected = multi_positive_plain(plain, plain, labels, labels, torch.arange(13), TAU)
    value.backward()
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=min(tolerance, 2e-6), atol=0)
    torch.testing.assert_close(fast.grad, plain.grad, rtol=tolerance, atol=tolerance / 10)


def test_gradient_is_the_numerical_one():
    x, labels = rows(9, 4).requires_grad_(), RAGGED[:9]
    assert torch.autograd.gradcheck(lambda x: loss(x, labels, tile_rows=4), (x,))


def test_gradient_of_anchors_and_candidates_apart():
    candidate, labels = rows(9, 4).requires_grad_(), RAGGED[:9]
    anchor = rows(3, 4, seed=1).requires_grad_()
    index = torch.tensor([4, 0, 7])
    assert torch.autograd.gradcheck(lambda a, c: multi_positive(a, c, labels[index], labels, index, TAU), (anchor, candidate))


@pytest.mark.parametrize("num_groups", [2, 5])
@pytest.mark.parametrize("num_images", [2, 3, 6])
def test_identical_embeddings_cost_log_of_the_other_candidates(num_groups, num_images):
    labels = torch.arange(num_groups).repeat(num_images)
    x = torch.ones(len(labels), 8, dtype=torch.float64)
    assert loss(x, labels).item() == pytest.approx(math.log(len(labels) - 1), rel=1e-12)
    assert loss(x.float(), labels).item() == pytest.approx(math.log(len(labels) - 1), rel=1e-5)


@pytest.mark.parametrize("num_images", [2, 4, 6])
def test_minimum_is_log_of_the_other_images(num_images):
    """Trap 6: perfect groups cost log(m-1), not 0."""
    labels = torch.arange(5).repeat(num_images)
    x = torch.eye(5, dtype=torch.float64)[labels]
    others = len(labels) - num_images
    exact = math.log((num_images - 1) * math.exp(1 / TAU) + others) - 1 / TAU
    assert loss(x, labels).item() == pytest.approx(exact, rel=1e-12)
    assert loss(x, labels, 0.01).item() == pytest.approx(math.log(num_images - 1), abs=1e-12)


def test_order_scale_and_label_names_do_not_matter():
    x, labels = rows(13), CAPTION_IDS[RAGGED]
    order = torch.randperm(13, generator=torch.Generator().manual_seed(3))
    value = loss(x, labels)
    torch.testing.assert_close(loss(x[order], labels[order]), value)
    torch.testing.assert_close(loss(x, RAGGED - 7), value)
    torch.testing.assert_close(loss(x * torch.linspace(0.01, 300, 13)[:, None], labels), value)
    assert not torch.isclose(loss(x[order], labels), value)


def test_two_views_an_image_are_nt_xent():
    """Trap 22: SimCLR is this loss with one label per image."""
    x, num_images = rows(12), 6
    unit = functional.normalize(x, dim=1)
    similarity = (unit @ unit.T / TAU).fill_diagonal_(float("-inf"))
    nt_xent = functional.cross_entropy(similarity, (torch.arange(12) + num_images) % 12)
    torch.testing.assert_close(loss(x, torch.arange(num_images).repeat(2)), nt_xent)


def test_view_major_labels_repeat_and_do_not_interleave():
    """Trap 7: [views x captions] rows with `repeat`ed labels are perfect groups; interleaved labels are wrong, and cost more."""
    captions, num_views = torch.arange(5), 4
    x = torch.eye(5).repeat(num_views, 1)
    assert loss(x, captions.repeat(num_views)).item() == pytest.approx(math.log(3), abs=1e-2)
    assert loss(x, captions.repeat_interleave(num_views)).item() > 5


def test_labels_are_read_anew_in_every_batch():
    """Trap 1: the reference keeps the mask of the first batch of a size."""
    generator = torch.Generator().manual_seed(0)
    batches = [(rows(12, seed=s), torch.randint(0, 4, (12,), generator=generator)) for s in range(3)]
    for x, labels in batches:
        assert loss(x, labels).item() == pytest.approx(as_the_paper_writes_it(x, labels, TAU), rel=1e-12)


def test_two_rows_of_one_caption_are_positives_wherever_they_are():
    """Trap 2: labels are content. A caption that occurs twice in a batch is one group, not two."""
    x = rows(8)
    by_row, by_caption = torch.tensor([0, 1, 2, 3]).repeat(2), torch.tensor([0, 1, 2, 0]).repeat(2)
    assert loss(x, by_caption).item() == pytest.approx(as_the_paper_writes_it(x, by_caption, TAU), rel=1e-12)
    assert not torch.isclose(loss(x, by_caption), loss(x, by_row))


def test_one_image_a_caption_is_refused():
    """Trap 3: the reference's defaults train on a loss of exactly 0."""
    with pytest.raises(DataError, match=r"expected at least one caption with 2 or more images in the batch, found none among 5 images"):
        loss(rows(5), torch.arange(5))
    with pytest.raises(DataError, match="images_per_caption"):
        loss(rows(5), torch.arange(5), num_ranks=2)
    with pytest.raises(DataError, match="row with a target"):
        multi_positive_plain(rows(5), rows(5), torch.arange(5), torch.arange(5), torch.arange(5), TAU)


def test_images_without_a_positive_are_counted_and_left_out_of_the_mean():
    """Trap 3: singletons stay candidates (negatives of the others) but do not dilute the mean."""
    x = rows(13).requires_grad_()
    value = loss(x, RAGGED)
    assert count_singletons(RAGGED) == 2
    assert count_singletons(CAPTION_IDS) == 7
    anchors = torch.tensor([i for i in range(13) if RAGGED[i] not in (3, 4)])
    only_paired = multi_positive(x[anchors], x, RAGGED[anchors], RAGGED, anchors, TAU)
    torch.testing.assert_close(value, only_paired)
    value.backward()
    assert (x.grad[[6, 10]].abs().sum(1) > 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("temperature", [0.01, 0.1])
def test_finite_and_computed_wide_for_every_type(dtype, temperature):
    """Traps 4 and 5: no -1e9 in half precision, no norm or product in half precision."""
    x = (rows(13) * 200).to(dtype).requires_grad_()
    value = loss(x, RAGGED, temperature)
    value.backward()
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert torch.isfinite(x.grad).all()
    wide = x.detach().float()
    assert value.item() == loss(wide, RAGGED, temperature).item()


def test_autocast_changes_no_digit():
    x = rows(13, dtype=torch.float32).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(x, RAGGED)
        inside.backward()
    grad_inside, x.grad = x.grad, None
    outside = loss(x, RAGGED)
    outside.backward()
    assert inside.item() == outside.item()
    assert torch.equal(grad_inside, x.grad)


def test_zero_rows_are_finite():
    x = rows(6, dtype=torch.float32)
    x[2] = 0
    x.requires_grad_()
    value = loss(x, torch.tensor([0, 0, 0, 1, 1, 1]))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(x.grad).all()


def test_one_caption_alone():
    """Trap 8: the smallest batches keep their shapes."""
    pair = loss(rows(2), torch.zeros(2, dtype=torch.int64))
    assert pair.shape == ()
    assert pair.item() == pytest.approx(0.0, abs=1e-12)  # the only candidate is the positive
    assert loss(rows(3), torch.zeros(3, dtype=torch.int64)).item() == pytest.approx(
        as_the_paper_writes_it(rows(3), torch.zeros(3, dtype=torch.int64), TAU), rel=1e-12
    )


@pytest.mark.parametrize("cuts", [(6,), (2, 3, 11), (0, 6), (13,)])
def test_parts_of_the_anchors_average_to_the_whole(cuts):
    """What ranks compute: their rows against all rows; the mean over ranks is the loss of one process, for any split."""
    whole, parts = rows(13).requires_grad_(), rows(13).requires_grad_()
    expected = loss(whole, RAGGED)
    expected.backward()
    bounds = (0, *cuts, 13)
    ranks = [torch.arange(a, b) for a, b in pairwise(bounds)]
    values = [multi_positive(parts[own], parts, RAGGED[own], RAGGED, own, TAU, num_ranks=len(ranks)) for own in ranks]
    mean = torch.stack(values).mean()
    mean.backward()
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(parts.grad, whole.grad)


def test_a_rank_without_positives_costs_nothing_and_keeps_its_graph():
    x = rows(13).requires_grad_()
    own = torch.tensor([6, 10])
    value = multi_positive(x[own], x, RAGGED[own], RAGGED, own, TAU, num_ranks=2)
    assert value.item() == 0
    value.backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_keeps_no_matrix_of_logits():
    """Nothing of B x G elements waits for backward (the plain path keeps several)."""

    def largest_saved(function) -> int:
        x, sizes = rows(64, 4).requires_grad_(), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            function(x, x, torch.arange(64) // 4, torch.arange(64) // 4, torch.arange(64), TAU)
        return max(sizes)

    assert largest_saved(multi_positive) <= 64 * 4
    assert largest_saved(multi_positive_plain) >= 64 * 64


def test_values_need_no_gradient():
    with torch.no_grad():
        assert not loss(rows(13).requires_grad_(), RAGGED).requires_grad
    assert loss(rows(13), RAGGED).item() == pytest.approx(as_the_paper_writes_it(rows(13), RAGGED, TAU))


def test_inputs_that_do_not_belong_together_are_refused():
    x, labels, index = rows(4), torch.tensor([0, 0, 1, 1]), torch.arange(4)
    with pytest.raises(DataError, match=r"anchors: expected one whole-number label for each of 4 rows, found labels of shape \(3,\)"):
        multi_positive(x, x, labels[:3], labels, index, TAU)
    with pytest.raises(DataError, match=r"candidates: expected one whole-number label .* type torch\.float32"):
        multi_positive(x, x, labels, labels.float(), index, TAU)
    with pytest.raises(DataError, match="anchors: expected a matrix"):
        multi_positive(x[0], x, labels, labels, index, TAU)
    with pytest.raises(DataError, match="self_index: expected positions from 0 to 3"):
        multi_positive(x, x, labels, labels, index + 1, TAU)
    with pytest.raises(DataError, match="self_index: expected one candidate for each of 4 anchors"):
        multi_positive(x, x, labels, labels, index[:2], TAU)
    with pytest.raises(DataError, match="gather both in the same order"):  # trap 9: the self mask assumed equal ranks
        multi_positive(x, x, labels, labels, (index + 2) % 4, TAU)
    with pytest.raises(DataError, match=r"temperature: expected above 0, found 0\.0"):
        multi_positive(x, x, labels, labels, index, 0.0)
