"""What updates the weights: a small protocol, and the engine of one process without DeepSpeed.

An engine owns the objective and its optimiser (AdamW). It takes a batch and a learning rate, and returns this rank's losses and the
norm of the gradient of all ranks before clipping. A step whose gradient is not finite changes nothing. Weights and optimiser state are
float32; with precision bf16 the forward pass runs under autocast, so nothing is lost in the running statistics or the small updates.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stablerep.batches import Batch
from stablerep.models import weight_decay_groups
from stablerep.training.average import WeightAverage
from stablerep.training.objective import Objective
from stablerep.training.schedule import decay_at
from stablerep.training.snapshot import copied
from stablerep.training.state import AVERAGE_NAME

_STATE_NAME = "state.pt"
TOWERS_PREFIX = "towers."


@dataclass(frozen=True)
class StepResult:
    """Losses of this rank, and the gradient norm over all."""

    total: float
    image: float
    text: float
    gradient_norm: float

    @property
    def is_finite(self) -> bool:
        """Whether the step can be used."""
        return math.isfinite(self.total) and math.isfinite(self.gradient_norm)


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW and what goes with it; 0 turns off `clip_norm`, `ema_decay` and `weight_decay_end`."""

    weight_decay: float
    beta1: float
    beta2: float
    clip_norm: float
    precision: Literal["fp32", "bf16"]
    ema_decay: float = 0.0
    weight_decay_end: float = 0.0
    num_steps: int = 1

    def weight_decay_at(self, step: int) -> float:
        """Weight decay of an update: the same for all, or towards `weight_decay_end` as half a cosine where that is above 0."""
        return decay_at(step, start=self.weight_decay, end=self.weight_decay_end or self.weight_decay, num_steps=self.num_steps)


class Engine(Protocol):
    """Updates the weights; all methods are collective."""

    kind: str

    def step(self, batch: Batch, lr: float) -> StepResult:
        """One update with learning rate `lr`."""
        ...

    def save(self, folder: Path) -> None:
        """Write this rank's files into an existing folder."""
        ...

    def snapshot(self) -> Callable[[Path], None]:
        """Copy in memory what `save` would write; what is returned writes it, in any thread, on this rank alone."""
        ...

    def load(self, folder: Path) -> None:
        """Continue exactly from what `save` wrote."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """What is exported: full float32 weights and buffers of the two towers, or their average; on the CPU, empty but on rank 0."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Full float32 weights and buffers of the whole objective as they are now, on the CPU, on rank 0; empty elsewhere."""
        ...


class TorchEngine:
    """One process, plain torch."""

    kind = "torch"

    def __init__(self, objective: Objective, settings: OptimizerSettings, device: torch.device) -> None:
        self._objective = objective.to(device).train()
        self._optimizer = build_optimizer(self._objective, settings)
        self._settings, self._device = settings, device
        self._average = WeightAverage(self._objective.towers, settings.ema_decay) if settings.ema_decay else None

    def step(self, batch: Batch, lr: float) -> StepResult:
        """One update."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._settings.precision == "bf16"):
            total, image, text = self._objective(batch.views_MNCHW, batch.tokens_NT, batch.labels_N, **batch.extras())
        self._optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = float(nn.utils.clip_grad_norm_(self._objective.parameters(), self._settings.clip_norm or math.inf))
        if math.isfinite(norm):
            set_rates(self._optimizer, lr, self._settings.weight_decay_at(batch.step))
            self._optimizer.step()
            self._objective.after_step(batch.step)
            if self._average:
                self._average.update(batch.step)
        return StepResult(float(total.detach()), float(image.detach()), float(text.detach()), norm)

    def save(self, folder: Path) -> None:
        """Write model and optimiser."""
        torch.save(self._state(), folder / _STATE_NAME)
        if self._average:
            self._average.save(folder)

    def snapshot(self) -> Callable[[Path], None]:
        """Copy model and optimiser."""
        state = copied(self._state())
        average = self._average.state() if self._average else None

        def write(folder: Path) -> None:
            torch.save(state, folder / _STATE_NAME)
            if average:
                save_file(average, str(folder / AVERAGE_NAME))

        return write

    def load(self, folder: Path) -> None:
        """Read model and optimiser."""
        state: dict[str, Any] = torch.load(folder / _STATE_NAME, map_location=self._device, weights_only=True)
        self._objective.load_state_dict(state["objective"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._average:
            self._average.load(folder)

    def weights(self) -> dict[str, Tensor]:
        """The towers' state, or its average."""
        return self._average.state() if self._average else towers_state(self.state())

    def state(self) -> dict[str, Tensor]:
        """The objective's state."""
        return on_cpu(self._objective.state_dict())

    def _state(self) -> dict[str, Any]:
        return {"objective": self._objective.state_dict(), "optimizer": self._optimizer.state_dict()}


def build_optimizer(objective: Objective, settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW over matrices with decay, and vectors and scalars without; its learning rate is set at every step."""
    parameters = dict(objective.named_parameters())
    decayed, plain = weight_decay_groups(objective)
    groups = [
        {"params": [parameters[name] for name in names], "weight_decay": weight_decay}
        for names, weight_decay in ((decayed, settings.weight_decay), (plain, 0.0))
        if names
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(settings.beta1, settings.beta2))


def set_rates(optimizer: Any, lr: float, weight_decay: float) -> None:
    """Set the learning rate of every group, and the weight decay of those that have one."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        if group["weight_decay"]:
            group["weight_decay"] = weight_decay


def on_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of these tensors on the CPU, contiguous."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.items()}


def towers_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The entries of the two towers, without their prefix."""
    return {name.removeprefix(TOWERS_PREFIX): value for name, value in state.items() if name.startswith(TOWERS_PREFIX)}
