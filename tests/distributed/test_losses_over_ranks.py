"""Two and four gloo processes equal one, in value and in gradient: captions that span ranks, uneven and empty ranks."""

import pytest
import torch
from torch import Tensor

from stablerep.losses import image_text, multi_positive

pytestmark = pytest.mark.dist
SPLITS = ("even", "uneven", "empty")


def mean(ranks: list[dict], case: str, name: str) -> Tensor:
    """What data parallelism makes of the ranks' values or of the gradients of shared weights."""
    return torch.stack([rank[case][name] for rank in ranks]).mean(0)


def joined(ranks: list[dict], case: str, name: str) -> Tensor:
    """Gradients of the ranks' own rows, scaled as the mean over ranks scales them."""
    return torch.cat([rank[case][name] for rank in ranks]) / len(ranks)


@pytest.mark.parametrize("way", ["", "ring "], ids=["gathered", "ring"])
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", ["image", "lonely"])
def test_trap_09_and_10_image_loss_equals_one_process(ranks, worker, split, kind, way):
    """Ranks may be uneven, and the gradient is that of all ranks' losses.

    "lonely": the last rank holds no positive, its loss is 0, and its rows get gradients as negatives.
    """
    sizes = worker.SPLITS[len(ranks)][split]
    labels = worker.LABELS if kind == "image" else worker.lonely_labels(sizes)
    rows, weight = worker.batch("rows", 12, worker.DIM).requires_grad_(), worker.batch("weight", worker.DIM, worker.DIM).requires_grad_()
    embedded = rows @ weight
    value = multi_positive(embedded, embedded, labels, labels, torch.arange(12), 0.1)
    value.backward()
    case = f"{way}{kind} {split}"
    torch.testing.assert_close(mean(ranks, case, "value"), value.detach())
    torch.testing.assert_close(mean(ranks, case, "weight"), weight.grad)
    torch.testing.assert_close(joined(ranks, case, "rows"), rows.grad)
    if kind == "lonely":
        assert ranks[-1][case]["value"] == 0
        assert sizes[-1] == 0 or ranks[-1][case]["rows"].abs().sum() > 0


@pytest.mark.parametrize("way", ["", "ring "], ids=["gathered", "ring"])
@pytest.mark.parametrize("split", SPLITS)
def test_text_loss_equals_one_process(ranks, worker, split, way):
    rows, weight = worker.batch("rows", 12, worker.DIM).requires_grad_(), worker.batch("weight", worker.DIM, worker.DIM).requires_grad_()
    texts, scale = worker.batch("texts", 8, worker.DIM).requires_grad_(), torch.tensor(2.5, dtype=torch.float64, requires_grad=True)
    value = image_text(rows @ weight, texts @ weight, worker.LABELS, worker.TEXT_LABELS, scale)
    value.backward()
    case = f"{way}text {split}"
    torch.testing.assert_close(mean(ranks, case, "value"), value.detach())
    torch.testing.assert_close(mean(ranks, case, "weight"), weight.grad)
    torch.testing.assert_close(mean(ranks, case, "scale"), scale.grad)
    torch.testing.assert_close(joined(ranks, case, "rows"), rows.grad)
    torch.testing.assert_close(joined(ranks, case, "texts"), texts.grad)


@pytest.mark.parametrize("split", SPLITS)
def test_weighted_losses_over_the_ring_equal_one_process(ranks, worker, split):
    rows, weight = worker.batch("rows", 12, worker.DIM).requires_grad_(), worker.batch("weight", worker.DIM, worker.DIM).requires_grad_()
    texts, scale = worker.batch("texts", 8, worker.DIM).requires_grad_(), torch.tensor(2.5, dtype=torch.float64, requires_grad=True)
    embedded = rows @ weight
    image = multi_positive(
        embedded, embedded, worker.LABELS, worker.LABELS, torch.arange(12), 0.1, candidate_weights_G=worker.WEIGHTS, backend="plain"
    )
    text = image_text(embedded, texts @ weight, worker.LABELS, worker.TEXT_LABELS, scale, image_weights_B=worker.WEIGHTS, backend="plain")
    for value, case, leaves in ((image, "ring weighted", {"rows": rows}), (text, "ring weighted text", {"rows": rows, "texts": texts})):
        torch.testing.assert_close(mean(ranks, f"{case} {split}", "value"), value.detach())
        grads = torch.autograd.grad(value, [weight, *leaves.values()], retain_graph=True)
        torch.testing.assert_close(mean(ranks, f"{case} {split}", "weight"), grads[0])
        for name, grad in zip(leaves, grads[1:], strict=True):
            torch.testing.assert_close(joined(ranks, f"{case} {split}", name), grad)


def test_ranks_that_weigh_their_losses_differently_are_refused(ranks):
    for rank in ranks:
        assert "expected every rank to scale its loss alike before backward, found factors [" in rank["refusals"]["ring factors"]


def test_a_batch_of_single_images_is_refused_on_every_rank(ranks):
    for rank in ranks:
        assert "at least one caption with 2 or more images" in rank["refusals"]["singles"]
        assert "at least one caption with 2 or more images" in rank["refusals"]["ring singles"]
