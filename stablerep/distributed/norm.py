"""Batch norm over the rows of all ranks, on CPU (gloo) and GPU (nccl) alike; torch's SyncBatchNorm refuses the CPU.

Dimension key: R ranks, B rows of this rank, N rows of all ranks, C channels. Values, gradients and running statistics equal nn.BatchNorm1d
on the concatenated rows. Each rank sends its count, mean and sum of squared deviations, merged pairwise-exactly (Chan et al. 1983), so no
variance is a difference of large squares. In evaluation, and in a world of one, it is nn.BatchNorm1d. It takes [B, C] rows only.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportIncompatibleMethodOverride=false
from collections.abc import Callable
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from stablerep.distributed.world import current_world
from stablerep.errors import DataError


class SyncBatchNorm1d(nn.BatchNorm1d):
    """nn.BatchNorm1d whose statistics in training are those of all ranks; same parameters, same state, same defaults.

    Every rank must call it, with any number of rows (also none). Running statistics stay in float32 when the module is cast to a
    half-precision type: a momentum of 0.1 would be lost in bfloat16. The gradient of weight and bias is this rank's part: data
    parallelism averages it as it does every other.

    Raises:
        DataError: fewer than 2 rows over all ranks, or input that is not [B, C].
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `input` [B, C] over the rows of all ranks."""
        if input.ndim != 2 or input.shape[1] != self.num_features:
            raise DataError(f"batch norm: expected rows of {self.num_features} channels, found shape {tuple(input.shape)}")
        with torch.autocast(input.device.type, enabled=False):
            rows_BC = input if input.dtype == torch.float64 else input.float()
            is_measured = self.training or self.running_mean is None
            if is_measured and current_world().world_size > 1:
                return self._over_ranks(rows_BC).to(input.dtype)
            if is_measured:
                _check_rows(rows_BC.shape[0], self.num_features)
            return self._alone(rows_BC, is_measured).to(input.dtype)

    def _over_ranks(self, rows_BC: Tensor) -> Tensor:
        unit_BC, num_rows, mean_C, variance_C = _Standardise.apply(rows_BC, self.eps)  # pyright: ignore[reportGeneralTypeIssues]
        if self.training and self.running_mean is not None and self.running_var is not None:
            momentum = self._count_batch()
            self.running_mean.lerp_(mean_C.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_((variance_C * (num_rows / (num_rows - 1))).to(self.running_var.dtype), momentum)
        return unit_BC * self.weight.to(rows_BC.dtype) + self.bias.to(rows_BC.dtype) if self.affine else unit_BC

    def _alone(self, rows_BC: Tensor, is_measured: bool) -> Tensor:
        weight_C = self.weight.to(rows_BC.dtype) if self.affine else None
        bias_C = self.bias.to(rows_BC.dtype) if self.affine else None
        is_tracked = not self.training or self.track_running_stats
        mean_C, variance_C = (self.running_mean, self.running_var) if is_tracked else (None, None)
        momentum = self._count_batch() if self.training else 0.0
        return functional.batch_norm(rows_BC, mean_C, variance_C, weight_C, bias_C, is_measured, momentum, self.eps)

    def _count_batch(self) -> float:
        """Count one more batch; the weight of its statistics in the running ones."""
        if self.num_batches_tracked is None:
            return 0.0
        self.num_batches_tracked.add_(1)
        return 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        kept = (self.running_mean, self.running_var)
        super()._apply(fn, recurse)
        for name, before in zip(("running_mean", "running_var"), kept, strict=True):
            after = getattr(self, name)
            if before is not None and after.dtype in (torch.float16, torch.bfloat16):
                setattr(self, name, before.to(after.device, torch.float32))
        return self


class _Standardise(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) with mean and variance of all ranks."""

    @staticmethod
    def forward(ctx: Any, rows_BC: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        num_rows, mean_C, variance_C = _merged_statistics(rows_BC)
        if rows_BC.shape[0] < 2:  # enough rows here are enough everywhere; the sum is read only where it can be too small
            _check_rows(int(num_rows), rows_BC.shape[1])
        inverse_C = (variance_C + eps).rsqrt()
        unit_BC = (rows_BC - mean_C) * inverse_C
        ctx.save_for_backward(unit_BC, inverse_C, num_rows)
        ctx.mark_non_differentiable(num_rows, mean_C, variance_C)
        return unit_BC, num_rows, mean_C, variance_C

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        unit_BC, inverse_C, num_rows = ctx.saved_tensors
        grad_BC = grad_outputs[0]
        # d mean and d variance reach every row of every rank: both sums cross the ranks.
        sums_2C = torch.stack([grad_BC.sum(0), (grad_BC * unit_BC).sum(0)])
        dist.all_reduce(sums_2C)
        mean_grad_C, mean_slope_C = sums_2C / num_rows
        return (grad_BC - mean_grad_C - unit_BC * mean_slope_C) * inverse_C, None


def _merged_statistics(rows_BC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number, mean and biased variance of the rows of all ranks."""
    num_local, num_channels = rows_BC.shape
    mean_C = rows_BC.sum(0) / max(1, num_local)
    deviation_C = (rows_BC - mean_C).square().sum(0)
    own = torch.cat([rows_BC.new_tensor([num_local]), mean_C, deviation_C])
    parts = [torch.empty_like(own) for _ in range(current_world().world_size)]
    dist.all_gather(parts, own)
    num_R1, mean_RC, deviation_RC = torch.stack(parts).split([1, num_channels, num_channels], dim=1)
    num_rows = num_R1.sum()
    total_mean_C = (num_R1 * mean_RC).sum(0) / num_rows
    between_C = (num_R1 * (mean_RC - total_mean_C).square()).sum(0)
    return num_rows, total_mean_C, (deviation_RC.sum(0) + between_C) / num_rows


def _check_rows(num_rows: int, num_channels: int) -> None:
    if num_rows < 2:
        raise DataError(
            f"batch norm over {num_channels} channels: expected 2 or more rows over all ranks, found {num_rows}; "
            "raise captions_per_batch, or set the head's norm to layer"
        )
