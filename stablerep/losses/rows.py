"""What goes into a loss: unit rows in full precision, labels and weights that belong to them.

Dimension key: B rows, D embedding. Rows, labels and weights that do not belong together are refused here, before any arithmetic.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import torch
from torch import Tensor
from torch.nn import functional

from stablerep.errors import DataError


def unit_rows(rows_BD: Tensor) -> Tensor:
    """L2-normalised rows, in float32 at least: half-precision inputs are widened *before* their norm is taken."""
    wide_BD = rows_BD if rows_BD.dtype == torch.float64 else rows_BD.float()
    return functional.normalize(wide_BD, dim=1)


def check_rows(rows_BD: Tensor, labels_B: Tensor, what: str) -> None:
    """Refuse embeddings and labels that do not belong together.

    Raises:
        DataError: rows that are not a matrix, or labels that are not one whole number a row.
    """
    if rows_BD.ndim != 2:
        raise DataError(f"{what}: expected a matrix of embeddings, one row each, found shape {tuple(rows_BD.shape)}")
    if labels_B.shape != rows_BD.shape[:1] or labels_B.is_floating_point():
        raise DataError(
            f"{what}: expected one whole-number label for each of {rows_BD.shape[0]} rows, "
            f"found labels of shape {tuple(labels_B.shape)} and type {labels_B.dtype}"
        )


def checked_weights(weights_B: Tensor | None, labels_B: Tensor, what: str) -> Tensor:
    """The weight of every row in float64 and without gradient; ones when there are none.

    Raises:
        DataError: not one finite weight of 0 or more for each row.
    """
    if weights_B is None:
        return torch.ones(labels_B.shape[0], dtype=torch.float64, device=labels_B.device)
    if weights_B.shape != labels_B.shape:
        raise DataError(f"{what}: expected one weight for each of {labels_B.shape[0]} rows, found shape {tuple(weights_B.shape)}")
    wide_B = weights_B.detach().double()
    if not bool((torch.isfinite(wide_B) & (wide_B >= 0)).all()):
        raise DataError(f"{what}: expected finite weights of 0 or more, found {weights_B.tolist()[:8]}")
    return wide_B


def is_narrow(rows_BD: Tensor) -> bool:
    """Whether rows came in half precision."""
    return rows_BD.dtype in (torch.bfloat16, torch.float16)
