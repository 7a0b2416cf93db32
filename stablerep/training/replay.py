"""Computes a kept step again, in one process, and names the first tensor that is not finite.

Looked at in the order in which a step makes them: inputs, weights, outputs of the modules, losses, gradients. All ranks' captions are one
batch here, which is what the ranks computed together (docs/architecture.md); the last digits may differ from theirs, so a value
that is not finite by a hair on a GPU can be finite on a CPU. Changes no weight.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import math
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stablerep.batches import Batch
from stablerep.training.capture import KeptStep
from stablerep.training.objective import Objective


@dataclass(frozen=True)
class Replayed:
    """Losses by term, the gradient norm (nan where there was no backward pass), and the first tensor that is not finite, or empty."""

    losses: dict[str, float]
    gradient_norm: float
    first: str


def replay(objective: Objective, kept: KeptStep, *, precision: str, device: torch.device | str = "cpu") -> Replayed:
    """Compute the losses and gradients of a kept step.

    Args:
        objective: as the run builds it; it is given the kept weights.
        kept: the step.
        precision: fp32 or bf16, as the run's.
        device: where to compute.
    """
    device = torch.device(device)
    objective.load_state_dict(kept.state)
    objective.to(device).train()
    found: list[str] = [*_in_inputs(kept.batch), *_in_weights(objective)]
    torch.manual_seed(kept.seed)
    batch = kept.batch.to(device)
    with _watched(objective, found), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        total, image, text = objective(batch.views_MNCHW, batch.tokens_NT, batch.labels_N, **batch.extras())
    losses = {"total": total, "image": image, "text": text}
    found += [f"the {name} loss" for name, value in reversed(losses.items()) if not _is_finite(value)]
    norm = math.nan
    if total.requires_grad:
        with _watched_gradients(objective, found):
            total.backward()
        norm = float(nn.utils.get_total_norm([parameter.grad for parameter in objective.parameters() if parameter.grad is not None]))
    return Replayed({name: float(value.detach()) for name, value in losses.items()}, norm, found[0] if found else "")


def _in_inputs(batch: Batch) -> Iterator[str]:
    """The first view with a value that is not finite."""
    bad = (~batch.views_MNCHW.isfinite()).flatten(2).any(2).nonzero().tolist()
    if bad:
        view, caption = bad[0]
        yield f"the input: view {view} of caption {batch.caption_ids[caption]} (one of {len(bad)} such views)"


def _in_weights(objective: nn.Module) -> Iterator[str]:
    """Weights only: the step itself has already moved the running statistics, which training does not read."""
    for name, value in objective.named_parameters():
        if not _is_finite(value):
            yield f"the weights before the step: {name}, by an earlier update"


@contextmanager
def _watched(objective: nn.Module, found: list[str]) -> Generator[None]:
    """Note every module whose output is not finite; inner modules come before the outer ones."""

    def watch(name: str) -> Any:
        def note(module: nn.Module, arguments: Any, output: Any) -> None:
            parts = output if isinstance(output, tuple) else (output,)
            if any(isinstance(part, Tensor) and not _is_finite(part) for part in parts):
                found.append(f"the output of {name or 'the objective'} ({type(module).__name__})")

        return note

    with ExitStack() as stack:
        for name, module in objective.named_modules():
            stack.callback(module.register_forward_hook(watch(name)).remove)
        yield


@contextmanager
def _watched_gradients(objective: nn.Module, found: list[str]) -> Generator[None]:
    """Note every parameter whose gradient is not finite, in the order of the backward pass."""

    def watch(name: str) -> Any:
        def note(parameter: Tensor) -> None:
            if parameter.grad is not None and not _is_finite(parameter.grad):
                found.append(f"the gradient of {name}")

        return note

    with ExitStack() as stack:
        for name, parameter in objective.named_parameters():
            if parameter.requires_grad:
                stack.callback(parameter.register_post_accumulate_grad_hook(watch(name)).remove)
        yield


def _is_finite(value: Tensor) -> bool:
    return bool(value.isfinite().all())
