"""The reference of `models.chunks`: it equals the big batch in value and in the gradients of both parts."""

from contextlib import contextmanager

import pytest
import torch
from cached_backward import cached_backward
from torch import nn

from stablerep.errors import DataError
from stablerep.losses import multi_positive

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 3, 3])


def parts(dropout: float = 0.0) -> tuple[nn.Module, nn.Module]:
    """A trunk that treats rows one by one, and a head with batch norm."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Dropout(dropout), nn.LayerNorm(8)).double()
    return trunk, nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)).double()


def loss_of(head: nn.Module, features: torch.Tensor) -> torch.Tensor:
    rows = head(features)
    return multi_positive(rows, rows, LABELS, LABELS, torch.arange(10), 0.1)


def images() -> torch.Tensor:
    return torch.randn(10, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("sizes", [[10], [5, 5], [1, 4, 3, 2], [1] * 10])
def test_equals_the_big_batch(sizes):
    (trunk, head), (big_trunk, big_head) = parts(), parts()
    value = cached_backward(images().split(sizes), trunk, lambda features: loss_of(head, features))
    expected = loss_of(big_head, big_trunk(images()))
    expected.backward()
    torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=0)
    assert not value.requires_grad
    for ours, theirs in zip([*trunk.parameters(), *head.parameters()], [*big_trunk.parameters(), *big_head.parameters()], strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(head[1].running_mean, big_head[1].running_mean)
    assert head[1].num_batches_tracked == 1


def test_negatives_of_other_chunks_count():
    """Against plain accumulation, which would lose them."""
    trunk, _ = parts()
    labels = torch.arange(5).repeat_interleave(2)

    def judge(rows: torch.Tensor) -> torch.Tensor:
        return multi_positive(rows, rows, labels[: len(rows)], labels[: len(rows)], torch.arange(len(rows)), 0.1)

    whole = cached_backward(images().split(2), trunk, judge)
    alone = torch.stack([judge(trunk(part)) for part in images().split(2)]).mean()
    assert alone.item() == pytest.approx(0.0, abs=1e-9)
    assert whole > 1


def test_random_numbers_are_drawn_alike_in_both_passes():
    (trunk, head), (big_trunk, big_head) = parts(0.5), parts(0.5)
    torch.manual_seed(7)
    value = cached_backward(images().split(3), trunk, lambda features: loss_of(head, features))
    after = torch.rand(1)
    torch.manual_seed(7)
    expected = loss_of(big_head, torch.cat([big_trunk(part) for part in images().split(3)]))
    expected.backward()
    torch.testing.assert_close(value, expected.detach())
    for ours, theirs in zip(trunk.parameters(), big_trunk.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert torch.equal(after, torch.rand(1)), "what follows draws what it would have drawn"


def test_gradients_add_up():
    trunk, head = parts()
    for _ in range(2):
        cached_backward(images().split(4), trunk, lambda features: loss_of(head, features))
    twice = trunk[0].weight.grad.clone()
    trunk.zero_grad()
    cached_backward(images().split(4), trunk, lambda features: loss_of(head, features))
    torch.testing.assert_close(twice, 2 * trunk[0].weight.grad)


def test_only_the_last_chunk_is_sent_to_other_ranks():
    trunk, head = parts()
    held, seen = [], []

    @contextmanager
    def no_sync():
        held.append(True)
        yield
        held.pop()

    trunk[0].weight.register_hook(lambda grad: seen.append(bool(held)))
    head[0].weight.register_hook(lambda grad: seen.append(bool(held)))
    cached_backward(images().split(4), trunk, lambda features: loss_of(head, features), unsynchronised=no_sync)
    assert seen == [True, True, True, False]


def test_an_empty_batch_is_refused():
    with pytest.raises(DataError, match="expected at least one chunk of the batch, found none"):
        cached_backward([], nn.Identity(), torch.sum)
