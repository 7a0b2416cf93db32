"""Towers in chunks: the losses and gradients of the big batch, with one chunk in memory."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from cached_backward import cached_backward
from tiny_training import TINY
from torch import Tensor, nn

from stablerep.batches.tokenize import build_tokenizer
from stablerep.models.chunks import in_chunks
from stablerep.stages.pretrain_parts import build_objective, model_spec

NUM_VIEWS, NUM_CAPTIONS, NUM_CHUNKS = 3, 7, 4  # 21 rows: chunks of unequal size


def _objective(num_chunks: int, norm: str, **changes: Any) -> Any:
    tokenizer = build_tokenizer(["one two three"], vocabulary="captions", vocabulary_size=256, context_length=8)
    head = replace(TINY.head, norm=norm)
    pretrain = replace(TINY, head=head, captions_per_batch=7, accumulation_steps=num_chunks, num_processes=1, **changes)
    return build_objective(pretrain, model_spec(pretrain, tokenizer)).train()


def _batch(objective: Any) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    eot = objective.towers.spec.text.eot_id
    tokens_NT = torch.randint(1, eot, (NUM_CAPTIONS, 8), generator=generator)
    tokens_NT[:, 5] = eot
    return torch.randn(NUM_VIEWS, NUM_CAPTIONS, 3, 16, 16, generator=generator), tokens_NT, torch.tensor([7, 3, 7, 9, 1, 2, 4])


def _gradients(objective: Any) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in objective.named_parameters()}


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_chunks_are_the_big_batch_in_value_gradient_and_statistics(norm: str) -> None:
    whole, parts = _objective(1, norm).double(), _objective(NUM_CHUNKS, norm).double()
    views_MNCHW, tokens_NT, labels_N = _batch(whole)
    losses = []
    for objective in (whole, parts):
        total, *terms = objective(views_MNCHW.double(), tokens_NT, labels_N)
        total.backward()
        losses.append([float(value.detach()) for value in (total, *terms)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-12)
    expected = _gradients(whole)
    for name, gradient in _gradients(parts).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-12, msg=name)
    buffers = dict(whole.named_buffers())
    for name, value in parts.named_buffers():
        torch.testing.assert_close(value, buffers[name], msg=name)  # running statistics moved once, by all rows


def test_no_more_than_a_chunk_is_embedded_at_once_and_each_twice() -> None:
    objective = _objective(NUM_CHUNKS, "layer")
    rows: list[tuple[str, int]] = []
    for name, module in (("trunk", objective.towers.trunk), ("text", objective.towers.text)):
        module.register_forward_pre_hook(lambda _, arguments, name=name: rows.append((name, len(arguments[0]))))
    total, _, _ = objective(*_batch(objective))
    forward = [("trunk", 6), ("trunk", 5), ("trunk", 5), ("trunk", 5), ("text", 2), ("text", 2), ("text", 2), ("text", 1)]
    assert rows == forward
    total.backward()
    assert sorted(rows[8:]) == sorted(forward)


def test_between_forward_and_backward_nothing_but_rows_is_kept() -> None:
    sizes: dict[int, int] = {}
    for num_chunks in (1, NUM_CHUNKS):
        objective = _objective(num_chunks, "layer")
        inputs = _batch(objective)
        own = {value.untyped_storage().data_ptr() for value in (*objective.parameters(), *inputs)}
        kept: list[int] = []

        def keep(value: Tensor, own: set[int] = own, kept: list[int] = kept) -> Tensor:
            kept.append(0 if value.untyped_storage().data_ptr() in own else value.numel())
            return value

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            objective.towers.embed_images(inputs[0].flatten(0, 1))
        sizes[num_chunks] = sum(kept)
    assert sizes[NUM_CHUNKS] == 0 < sizes[1]


def test_random_numbers_of_backward_are_those_of_forward() -> None:
    module = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.Linear(64, 2)).double()
    rows_BF = torch.randn(10, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def judge(rows: Tensor) -> Tensor:
        return (rows @ rows.T).logsumexp(1).mean()

    torch.manual_seed(3)
    loss = judge(in_chunks(module, rows_BF, 3))
    torch.rand(5)  # what else a step draws
    loss.backward()
    found = [parameter.grad.clone() for parameter in module.parameters()]
    module.zero_grad()
    torch.manual_seed(3)
    expected = cached_backward(rows_BF.tensor_split(3), module, judge)
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-12)
    for gradient, parameter in zip(found, module.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-12, atol=1e-14)


def test_without_gradients_and_with_few_rows() -> None:
    module = nn.Linear(4, 2)
    rows_BF = torch.randn(3, 4)
    with torch.no_grad():
        torch.testing.assert_close(in_chunks(module, rows_BF, 2), module(rows_BF))
        assert in_chunks(module, rows_BF, 100).shape == (3, 2)
        assert in_chunks(module, rows_BF[:0], 2).shape == (0, 2)
