"""The log-sum-exp of the losses as Triton kernels, for CUDA: logits live in registers and never in memory.

Dimension key: B anchors, G candidates, X rows of one program, Y columns of one step, D embedding (padded to a power of two).

Two kernels: the log-sum-exp of every row, and the pull on every row, which makes the logits again. Where anchors are the candidates, one
pull with W_ij = w_i q_ij + w_j q_ji is the whole gradient, since logits are symmetric: 3 matrix products in place of 5. Halving the tiles
as on the CPU would need atomic additions, and with them results that change from run to run; these do not. float32 rows are multiplied
in full precision, rows that came as bf16 or fp16 in TF32 (11 bits, as many as theirs); sums are float32. With TRITON_INTERPRET=1 the
same kernels run on the CPU, slowly: that is how they are tested.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportIndexIssue=false
from typing import Any

import torch
import triton
from torch import Tensor

from stablerep.losses.programs import log_sum_exp_program, pull_program
from stablerep.losses.tiled import offsets, weighted_sum

LARGEST_DIM = 512  # a row of every tile is held whole
_SHARED_BYTES = 232_448  # of an H100


def is_interpreted() -> bool:
    """Whether the kernels run on the CPU in Triton's interpreter."""
    kernel: Any = log_sum_exp_program
    return not isinstance(kernel, triton.JITFunction)


def both_ways(rows_BD: Tensor, weight_B: Tensor, scale: float, is_narrow: bool, has_gradient: bool) -> tuple[Tensor, Tensor | None]:
    """See `tiled.both_ways`."""
    itself_B = torch.arange(rows_BD.shape[0], device=rows_BD.device)
    lse_B = log_sum_exp(rows_BD, rows_BD, itself_B, scale, is_narrow)
    total = weighted_sum(weight_B, lse_B)
    if not has_gradient:
        return total, None
    offset_B = offsets(lse_B, weight_B)
    return total, _pull(rows_BD, rows_BD, offset_B, offset_B, itself_B, None, scale, is_narrow)


def one_way(
    anchor_BD: Tensor,
    candidate_GD: Tensor,
    weight_B: Tensor,
    self_index_B: Tensor | None,
    scale: float,
    is_narrow: bool,
    has_gradient: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """See `tiled.one_way`."""
    lse_B = log_sum_exp(anchor_BD, candidate_GD, self_index_B, scale, is_narrow)
    total = weighted_sum(weight_B, lse_B)
    if not has_gradient:
        return total, None, None
    offset_B = offsets(lse_B, weight_B)
    grad_anchor_BD = _pull(anchor_BD, candidate_GD, offset_B, None, self_index_B, None, scale, is_narrow)
    grad_candidate_GD = _pull(candidate_GD, anchor_BD, None, offset_B, None, self_index_B, scale, is_narrow)
    return total, grad_anchor_BD, grad_candidate_GD


def log_sum_exp(anchor_BD: Tensor, candidate_GD: Tensor, self_index_B: Tensor | None, scale: float, is_narrow: bool) -> Tensor:
    """See `tiled.log_sum_exp`."""
    anchor_BD, candidate_GD = anchor_BD.contiguous(), candidate_GD.contiguous()
    lse_B = anchor_BD.new_empty(anchor_BD.shape[0])
    if anchor_BD.shape[0]:
        self_B = _self(self_index_B, anchor_BD)
        grid, sizes = _launch(anchor_BD, is_narrow)
        log_sum_exp_program[grid](
            anchor_BD, candidate_GD, self_B, lse_B, anchor_BD.shape[0], candidate_GD.shape[0], anchor_BD.shape[1], scale, **sizes
        )
    return lse_B


def pull(
    anchor_BD: Tensor,
    candidate_GD: Tensor,
    anchor_offset_B: Tensor,
    candidate_offset_G: Tensor,
    self_index_B: Tensor | None,
    scale: float,
    is_narrow: bool,
) -> Tensor:
    """See `tiled.pull`."""
    return _pull(anchor_BD, candidate_GD, anchor_offset_B, candidate_offset_G, self_index_B, None, scale, is_narrow)


def _pull(
    row_BD: Tensor,
    column_GD: Tensor,
    row_offset_B: Tensor | None,
    column_offset_G: Tensor | None,
    row_self_B: Tensor | None,
    column_self_G: Tensor | None,
    scale: float,
    is_narrow: bool,
) -> Tensor:
    """The sum scale * sum_j W_ij y_j with the parts of W whose offsets are given; a self index excludes its pair from either side."""
    row_BD, column_GD = row_BD.contiguous(), column_GD.contiguous()
    grad_BD = torch.empty_like(row_BD)
    if row_BD.shape[0]:
        grid, sizes = _launch(row_BD, is_narrow)
        pull_program[grid](
            row_BD,
            column_GD,
            _offset(row_offset_B, row_BD),
            _offset(column_offset_G, column_GD),
            _self(row_self_B, row_BD),
            _self(column_self_G, column_GD),
            grad_BD,
            row_BD.shape[0],
            column_GD.shape[0],
            row_BD.shape[1],
            scale,
            **sizes,
        )
    return grad_BD


def _launch(row_BD: Tensor, is_narrow: bool) -> tuple[tuple[int], dict[str, Any]]:
    """One program for every block of rows; sizes keep a program's rows, columns and sums within registers and shared memory."""
    padded_dim = max(16, triton.next_power_of_2(row_BD.shape[1]))
    shared_bytes = torch.cuda.get_device_properties(row_BD.device).shared_memory_per_block_optin if row_BD.is_cuda else _SHARED_BYTES
    block = 64
    while block > 16 and 12 * block * padded_dim > shared_bytes:  # rows, columns and columns transposed, in float32
        block //= 2
    sizes = {"ROWS": block, "COLUMNS": block, "DIMS": padded_dim, "PRECISION": "tf32" if is_narrow else "ieee"}
    return (triton.cdiv(row_BD.shape[0], block),), sizes if is_interpreted() else sizes | {"num_warps": 8, "num_stages": 1}


def _self(self_index_B: Tensor | None, row_BD: Tensor) -> Tensor:
    return row_BD.new_full((row_BD.shape[0],), -1, dtype=torch.int64) if self_index_B is None else self_index_B.contiguous()


def _offset(offset_B: Tensor | None, row_BD: Tensor) -> Tensor:
    """An infinite offset takes the part of these rows out of W."""
    return row_BD.new_full((row_BD.shape[0],), float("inf")) if offset_B is None else offset_B.contiguous()
