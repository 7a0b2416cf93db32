"""The image-text loss: loops, CLIP's loss, duplicates, the bounded scale."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from stablerep.errors import DataError
from stablerep.losses import LOG_SCALE_MAX, LOG_SCALE_START, bounded_log_scale, image_text, image_text_plain

IMAGE_LABELS = torch.tensor([30, 10, 20, 10, 40, 30, 30, 20, 40])
TEXT_LABELS = torch.tensor([20, 10, 30, 40])


def rows(num: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(num, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def scale(value: float = LOG_SCALE_START) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def as_loops(image: Tensor, text: Tensor, image_labels: Tensor, text_labels: Tensor, log_scale: float) -> float:
    def unit(x: Tensor) -> list[list[float]]:
        return [[value / math.sqrt(sum(v * v for v in row)) for value in row] for row in x.tolist()]

    def direction(anchors, candidates, anchor_labels, candidate_labels) -> float:
        costs = []
        for anchor, label in zip(anchors, anchor_labels, strict=True):
            logits = [math.exp(log_scale) * sum(a * b for a, b in zip(anchor, other, strict=True)) for other in candidates]
            total = sum(math.exp(value) for value in logits)
            targets = [j for j, other in enumerate(candidate_labels) if other == label]
            if targets:
                costs.append(-sum(math.log(math.exp(logits[j]) / total) / len(targets) for j in targets))
        return sum(costs) / len(costs)

    images, texts, labels_i, labels_t = unit(image), unit(text), image_labels.tolist(), text_labels.tolist()
    return (direction(images, texts, labels_i, labels_t) + direction(texts, images, labels_t, labels_i)) / 2


@pytest.mark.parametrize("function", [image_text, image_text_plain])
def test_equals_loops(function):
    image, text = rows(9, 0), rows(4, 1)
    value = function(image, text, IMAGE_LABELS, TEXT_LABELS, scale())
    assert value.item() == pytest.approx(as_loops(image, text, IMAGE_LABELS, TEXT_LABELS, LOG_SCALE_START), rel=1e-12)


@pytest.mark.parametrize("tile_rows", [0, 1, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_fast_path_equals_plain_path(dtype, tile_rows):
    inputs = [[rows(9, 0, dtype).requires_grad_(), rows(4, 1, dtype).requires_grad_(), scale().float().requires_grad_()] for _ in range(2)]
    tolerance = {torch.float64: 1e-7, torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]
    functions = (partial(image_text, tile_rows=tile_rows), image_text_plain)
    for (image, text, log_scale), function in zip(inputs, functions, strict=True):
        value = function(image, text, IMAGE_LABELS, TEXT_LABELS, log_scale)
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        value.backward()
    for ours, plain in zip(*inputs, strict=True):
        torch.testing.assert_close(ours.grad, plain.grad, rtol=tolerance, atol=tolerance / 10)


def test_gradient_is_the_numerical_one():
    image, text, log_scale = rows(9, 0).requires_grad_(), rows(4, 1).requires_grad_(), scale(1.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda i, t, s: image_text(i, t, IMAGE_LABELS, TEXT_LABELS, s, tile_rows=2), (image, text, log_scale))


def test_one_image_a_caption_is_the_loss_of_clip():
    image, text, labels = rows(6, 0), rows(6, 1), torch.randperm(6, generator=torch.Generator().manual_seed(0))
    logits = math.exp(LOG_SCALE_START) * functional.normalize(image, dim=1) @ functional.normalize(text, dim=1).T
    diagonal = torch.arange(6)
    clip = (functional.cross_entropy(logits, diagonal) + functional.cross_entropy(logits.T, diagonal)) / 2
    torch.testing.assert_close(image_text(image, text, labels, labels, scale()), clip)


def test_a_caption_that_occurs_twice_is_one_label():
    """Trap 2 on the text side: both its rows are targets, neither is a negative of the other's images."""
    image, text = rows(9, 0), rows(5, 1)
    labels = torch.tensor([20, 10, 30, 40, 10])
    value = image_text(image, text, IMAGE_LABELS, labels, scale())
    assert value.item() == pytest.approx(as_loops(image, text, IMAGE_LABELS, labels, LOG_SCALE_START), rel=1e-12)
    perfect = torch.eye(5)[:4][[0, 1, 2, 3, 1]]
    images = torch.eye(5)[:4][[2, 1, 0, 1, 3, 2, 2, 0, 3]]
    one_way = math.log(2) * 2 / 9  # the 2 images of caption 10 share their mass over its 2 rows
    other_way = (2 * math.log(2) + math.log(2) + math.log(3) + math.log(2)) / 5
    assert image_text(images, perfect, IMAGE_LABELS, labels, scale(LOG_SCALE_MAX)).item() == pytest.approx(
        (one_way + other_way) / 2, abs=2e-5
    )


def test_identical_embeddings_cost_the_logarithms_of_the_candidates():
    value = image_text(torch.ones(9, 4), torch.ones(4, 4), IMAGE_LABELS, TEXT_LABELS, torch.tensor(0.0))
    assert value.item() == pytest.approx((math.log(4) + math.log(9)) / 2, rel=1e-6)


def test_order_and_scale_of_rows_do_not_matter():
    image, text = rows(9, 0), rows(4, 1)
    order, text_order = torch.randperm(9), torch.tensor([2, 0, 3, 1])
    value = image_text(image, text, IMAGE_LABELS, TEXT_LABELS, scale())
    shuffled = image_text(7 * image[order], text[text_order] / 9, IMAGE_LABELS[order], TEXT_LABELS[text_order], scale())
    torch.testing.assert_close(shuffled, value)


def test_rows_without_counterpart_are_left_out():
    image, text = rows(9, 0), rows(4, 1)
    labels = IMAGE_LABELS.clone()
    labels[labels == 40] = 41  # an image without caption, a caption without image
    value = image_text(image, text, labels, TEXT_LABELS, scale())
    assert value.item() == pytest.approx(as_loops(image, text, labels, TEXT_LABELS, LOG_SCALE_START), rel=1e-12)
    with pytest.raises(DataError, match="expected images and captions with common labels, found none among 9 and 4 rows"):
        image_text(image, text, IMAGE_LABELS + 100, TEXT_LABELS, scale())


@pytest.mark.parametrize(("cut", "text_cut"), [(5, 2), (1, 3), (0, 4), (9, 0)])
def test_parts_average_to_the_whole(cut, text_cut):
    """What two ranks compute, for any split of images and captions, also of an image from its caption."""
    whole = [rows(9, 0).requires_grad_(), rows(4, 1).requires_grad_(), scale().requires_grad_()]
    parts = [rows(9, 0).requires_grad_(), rows(4, 1).requires_grad_(), scale().requires_grad_()]
    labels = torch.where(IMAGE_LABELS == 40, 41, IMAGE_LABELS)
    expected = image_text(whole[0], whole[1], labels, TEXT_LABELS, whole[2])
    values = [
        image_text(
            parts[0][own],
            parts[1][own_text],
            labels[own],
            TEXT_LABELS[own_text],
            parts[2],
            all_image_GD=parts[0],
            all_text_HD=parts[1],
            all_image_labels_G=labels,
            all_text_labels_H=TEXT_LABELS,
            num_ranks=2,
        )
        for own, own_text in ((slice(0, cut), slice(0, text_cut)), (slice(cut, 9), slice(text_cut, 4)))
    ]
    mean = torch.stack(values).mean()
    expected.backward()
    mean.backward()
    torch.testing.assert_close(mean, expected)
    for part, one in zip(parts, whole, strict=True):
        torch.testing.assert_close(part.grad, one.grad)


def test_scale_is_never_over_100():
    """Trap 21: clamped where it is used, not after the step."""
    image, text = rows(9, 0), rows(4, 1)
    over = image_text(image, text, IMAGE_LABELS, TEXT_LABELS, scale(9.0))
    torch.testing.assert_close(over, image_text(image, text, IMAGE_LABELS, TEXT_LABELS, scale(LOG_SCALE_MAX)))
    under = image_text(image, text, IMAGE_LABELS, TEXT_LABELS, scale(-3.0))
    torch.testing.assert_close(under, image_text(image, text, IMAGE_LABELS, TEXT_LABELS, scale(0.0)))
    assert math.exp(LOG_SCALE_MAX) == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("value", "incoming", "kept"),
    [
        (9.0, 1.0, 1.0),
        (9.0, -1.0, 0.0),
        (-2.0, -1.0, -1.0),
        (-2.0, 1.0, 0.0),
        (2.0, 1.0, 1.0),
        (2.0, -1.0, -1.0),
        (LOG_SCALE_MAX, -1.0, -1.0),
    ],
)
def test_a_scale_out_of_range_can_come_back(value, incoming, kept):
    log_scale = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    (bounded_log_scale(log_scale) * incoming).backward()
    assert log_scale.grad.item() == kept


def test_a_scale_that_left_the_range_returns_by_descent():
    """Against the frozen parameter of a plain clamp: embeddings whose best scale is small pull it down from above the limit."""
    log_scale = torch.tensor(6.0, dtype=torch.float64, requires_grad=True)
    for _ in range(60):
        (grad,) = torch.autograd.grad(image_text(rows(9, 0), rows(4, 1), IMAGE_LABELS, TEXT_LABELS, log_scale), log_scale)
        log_scale = (log_scale - 0.1 * grad.sign()).detach().requires_grad_()
    assert log_scale.item() < 2.0


def test_autocast_changes_no_digit():
    image, text = rows(9, 0, torch.float32), rows(4, 1, torch.float32)
    outside = image_text(image, text, IMAGE_LABELS, TEXT_LABELS, scale().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = image_text(image, text, IMAGE_LABELS, TEXT_LABELS, scale().float())
    assert inside.item() == outside.item()


def test_inputs_that_do_not_belong_together_are_refused():
    image, text = rows(9, 0), rows(4, 1)
    with pytest.raises(DataError, match="captions: expected one whole-number label for each of 4 rows"):
        image_text(image, text, IMAGE_LABELS, TEXT_LABELS[:3], scale())
    with pytest.raises(DataError, match="images of all ranks: expected one whole-number label for each of 18 rows"):
        image_text(image, text, IMAGE_LABELS, TEXT_LABELS, scale(), all_image_GD=image.repeat(2, 1))
