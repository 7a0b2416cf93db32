"""The learned scale of the image-text logits, bounded where it is used.

It starts at ln(1/0.07) and is used clamped to [0, ln 100], as in CLIP (arXiv 2103.00020, section 2.5).
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportIncompatibleMethodOverride=false
import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LOG_SCALE_START = math.log(1 / 0.07)
LOG_SCALE_MAX = math.log(100.0)


def bounded_log_scale(log_scale: Tensor) -> Tensor:
    """`log_scale` clamped to [0, ln 100], with a gradient outside only where a descent step leads back inside.

    The reference clamps the parameter after every optimiser step, which a sharded or bfloat16 optimiser would undo from its master copy;
    a plain clamp would freeze a parameter that once left the range. Here the value used is always in range and the parameter can return.
    """
    return _BoundedLogScale.apply(log_scale)  # pyright: ignore[reportReturnType]


class _BoundedLogScale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_scale: Tensor) -> Tensor:
        ctx.save_for_backward(log_scale)
        return log_scale.clamp(0.0, LOG_SCALE_MAX)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (log_scale,) = ctx.saved_tensors
        grad = grad_outputs[0]
        leads_out = ((log_scale > LOG_SCALE_MAX) & (grad < 0)) | ((log_scale < 0) & (grad > 0))
        return grad.masked_fill(leads_out, 0.0)
