"""The exponential moving average of the weights: what is exported when `pretrain.ema_decay` is above 0.

    average <- d * average + (1 - d) * weights after step t,    d = min(decay, (1 + t) / (10 + t))

It starts from the initial weights; the growing d lets it leave them soon (as TensorFlow's ExponentialMovingAverage does with a count of
updates). Running statistics are averaged likewise, so they fit the averaged weights; counters are copied. Kept in float32 beside the
weights, on one rank, never read by training: losses and gradients are those of a run without it.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stablerep.training.state import AVERAGE_NAME


class WeightAverage:
    """The average of a module's weights and buffers.

    Args:
        module: what trains; its tensors are read in place after every update.
        decay: in (0, 1).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module, self._decay = module, decay
        self._average = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights after update number `step`, counted from 0."""
        weight = 1 - min(self._decay, (1 + step) / (10 + step))
        for name, value in self._module.state_dict().items():
            average = self._average[name]
            if average.is_floating_point():
                average.lerp_(value, weight)
            else:
                average.copy_(value)

    def state(self) -> dict[str, Tensor]:
        """Copies of the average, on the CPU."""
        return {name: value.to("cpu", copy=True).contiguous() for name, value in self._average.items()}

    def save(self, folder: Path) -> None:
        """Write the average."""
        save_file(self.state(), str(folder / AVERAGE_NAME))

    def load(self, folder: Path) -> None:
        """Continue from what `save` wrote."""
        for name, value in load_file(str(folder / AVERAGE_NAME)).items():
            self._average[name].copy_(value)
