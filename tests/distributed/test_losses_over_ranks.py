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


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", ["image", "lonely"])
def test_image_loss_equals_one_process(ranks, worker, split, kind):
    """Traps 9 and 10. "lonely": the last rank holds no positive, its loss is 0, and its rows get gradients as negatives."""
    sizes = worker.SPLITS[len(ranks)][split]
    labels = worker.LABELS if kind == "image" else worker.lonely_labels(sizes)
    rows, weight = worker.batch("rows", 12, worker.DIM).requires_grad_(), worker.batch("weight", worker.DIM, worker.DIM).requires_grad_()
    embedded = rows @ weight
    value = multi_positive(embedded, embedded, labels, labels, torch.arange(12), 0.1)
    value.backward()
    case = f"{kind} {split}"
    torch.testing.assert_close(mean(ranks, case, "value"), value.detach())
    torch.testing.assert_close(mean(ranks, case, "weight"), weight.grad)
    torch.testing.assert_close(joined(ranks, case, "rows"), rows.grad)
    if kind == "lonely":
        assert ranks[-1][case]["value"] == 0
        assert sizes[-1] == 0 or ranks[-1][case]["rows"].abs().sum() > 0


@pytest.mark.parametrize("split", SPLITS)
def test_text_loss_equals_one_process(ranks, worker, split):
    rows, weight = worker.batch("rows", 12, worker.DIM).requires_grad_(), worker.batch("weight", worker.DIM, worker.DIM).requires_grad_()
    texts, scale = worker.batch("texts", 8, worker.DIM).requires_grad_(), torch.tensor(2.5, dtype=torch.float64, requires_grad=True)
    value = image_text(rows @ weight, texts @ weight, worker.LABELS, worker.TEXT_LABELS, scale)
    value.backward()
    case = f"text {split}"
    torch.testing.assert_close(mean(ranks, case, "value"), value.detach())
    torch.testing.assert_close(mean(ranks, case, "weight"), weight.grad)
    torch.testing.assert_close(mean(ranks, case, "scale"), scale.grad)
    torch.testing.assert_close(joined(ranks, case, "rows"), rows.grad)
    torch.testing.assert_close(joined(ranks, case, "texts"), texts.grad)


def test_a_batch_of_single_images_is_refused_on_every_rank(ranks):
    for rank in ranks:
        assert "at least one caption with 2 or more images" in rank["refusals"]["singles"]
