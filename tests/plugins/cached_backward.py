"""Backward of a batch that does not fit in memory, with all of it as negatives: embed twice, judge once (GradCache, arXiv 2101.06983).

Splitting a contrastive batch and adding gradients up would take negatives away. Here every chunk is embedded without a graph, the loss is
taken over all embeddings at once and its gradient at them kept, then every chunk is embedded again and the kept gradient sent through it.
Memory is that of one chunk and of the embeddings; the price is one more forward. Equal to the big batch in value and gradient for whatever
treats rows one by one; batch norm does not, so it belongs in `judge` (trunk in chunks, heads and losses over all rows).
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor

from stablerep.errors import DataError

Chunk = TypeVar("Chunk")


def cached_backward(
    chunks: Sequence[Chunk],
    embed: Callable[[Chunk], Tensor],
    judge: Callable[[Tensor], Tensor],
    *,
    unsynchronised: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Tensor:
    """Add the gradient of `judge(cat(embed(chunk) for chunk in chunks))` to all parameters used, a chunk at a time.

    Random numbers are drawn alike in both passes over a chunk (dropout, stochastic depth), on the CPU and the current GPU. Ranks gather in
    `judge`, so all their rows are candidates. Gradients of what only `judge` uses never meet a synchronised chunk: average them over
    ranks afterwards.

    Args:
        chunks: parts of the batch.
        embed: rows [C, ...] of a chunk; each a function of its own input alone. Several outputs go in one tensor, side by side.
        judge: the loss, a scalar, of the rows of all chunks in their order; its parameters (heads, logit scale) get their gradients too.
        unsynchronised: holds gradients back from other ranks (`DistributedDataParallel.no_sync`); entered for `judge` and all
            chunks but the last.

    Returns:
        The loss, without graph.

    Raises:
        DataError: no chunks.
    """
    if not chunks:
        raise DataError("cached backward: expected at least one chunk of the batch, found none")
    states: list[tuple[Tensor, Tensor | None]] = []
    parts: list[Tensor] = []
    with torch.no_grad():
        for chunk in chunks:
            states.append(_random_state())
            parts.append(embed(chunk))
    cached = torch.cat(parts).requires_grad_()
    sizes = [part.shape[0] for part in parts]
    del parts
    with unsynchronised():
        loss = judge(cached)
        loss.backward()
    grads = torch.zeros_like(cached) if cached.grad is None else cached.grad
    after = _random_state()
    for position, (chunk, state, grad) in enumerate(zip(chunks, states, grads.split(sizes), strict=True)):
        is_last = position == len(chunks) - 1
        with nullcontext() if is_last else unsynchronised():
            _restore(state)
            torch.autograd.backward(embed(chunk), grad)
    _restore(after)
    return loss.detach()


def _random_state() -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None


def _restore(state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])
