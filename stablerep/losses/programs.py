"""What one program of a Triton kernel does; `losses/kernels.py` launches them and says what they are for.

Dimension key: X rows of one program, Y columns of one step, D embedding (padded to a power of two). Rows and columns that are not there are
read as zeros and masked out of every sum.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportMissingParameterType=false, reportUntypedFunctionDecorator=false, reportIndexIssue=false
import triton
import triton.language as tl


@triton.jit
def _rows(pointer, first, num_rows, dim, BLOCK: tl.constexpr, DIMS: tl.constexpr):
    """A block of rows, zero where there is none."""
    row_X = first + tl.arange(0, BLOCK)
    dim_D = tl.arange(0, DIMS)
    is_there_XD = (row_X[:, None] < num_rows) & (dim_D[None, :] < dim)
    return tl.load(pointer + row_X[:, None].to(tl.int64) * dim + dim_D[None, :], mask=is_there_XD, other=0.0)


@triton.jit
def log_sum_exp_program(
    anchors,
    candidates,
    self_index,
    lse,
    num_rows,
    num_columns,
    dim,
    scale,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DIMS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write log sum_{j != self_i} exp(scale x_i.y_j) of a block of anchors, walking over all candidates."""
    first = tl.program_id(0) * ROWS
    row_X = first + tl.arange(0, ROWS)
    x_XD = _rows(anchors, first, num_rows, dim, ROWS, DIMS)
    self_X = tl.load(self_index + row_X, mask=row_X < num_rows, other=-1)
    most_X = tl.full([ROWS], float("-inf"), tl.float32)
    sum_X = tl.zeros([ROWS], tl.float32)
    for start in range(0, num_columns, COLUMNS):
        column_Y = start + tl.arange(0, COLUMNS)
        y_YD = _rows(candidates, start, num_columns, dim, COLUMNS, DIMS)
        logits_XY = tl.dot(x_XD, tl.trans(y_YD), input_precision=PRECISION) * scale
        is_kept_XY = (column_Y[None, :] < num_columns) & (column_Y[None, :] != self_X[:, None])
        logits_XY = tl.where(is_kept_XY, logits_XY, float("-inf"))
        new_X = tl.maximum(most_X, tl.max(logits_XY, 1))
        base_X = tl.where(new_X == float("-inf"), 0.0, new_X)  # no candidate yet: avoid inf - inf
        sum_X = sum_X * tl.exp(most_X - base_X) + tl.sum(tl.exp(logits_XY - base_X[:, None]), 1)
        most_X = new_X
    tl.store(lse + row_X, most_X + tl.log(sum_X), mask=row_X < num_rows)


@triton.jit
def pull_program(
    rows,
    columns,
    row_offset,
    column_offset,
    row_self,
    column_self,
    grad,
    num_rows,
    num_columns,
    dim,
    scale,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DIMS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write scale * sum_j (exp(s_ij - row_offset_i) + exp(s_ij - column_offset_j)) y_j of a block of rows, s = scale x.y."""
    first = tl.program_id(0) * ROWS
    row_X = first + tl.arange(0, ROWS)
    is_row_X = row_X < num_rows
    x_XD = _rows(rows, first, num_rows, dim, ROWS, DIMS)
    row_self_X = tl.load(row_self + row_X, mask=is_row_X, other=-1)
    row_offset_X = tl.load(row_offset + row_X, mask=is_row_X, other=float("inf"))
    grad_XD = tl.zeros([ROWS, DIMS], tl.float32)
    for start in range(0, num_columns, COLUMNS):
        column_Y = start + tl.arange(0, COLUMNS)
        is_column_Y = column_Y < num_columns
        y_YD = _rows(columns, start, num_columns, dim, COLUMNS, DIMS)
        column_self_Y = tl.load(column_self + column_Y, mask=is_column_Y, other=-1)
        column_offset_Y = tl.load(column_offset + column_Y, mask=is_column_Y, other=float("inf"))
        logits_XY = tl.dot(x_XD, tl.trans(y_YD), input_precision=PRECISION) * scale
        is_kept_XY = is_row_X[:, None] & is_column_Y[None, :]
        is_kept_XY &= (column_Y[None, :] != row_self_X[:, None]) & (row_X[:, None] != column_self_Y[None, :])
        logits_XY = tl.where(is_kept_XY, logits_XY, float("-inf"))  # before exp, which may overflow for what does not count
        share_XY = tl.exp(logits_XY - row_offset_X[:, None]) + tl.exp(logits_XY - column_offset_Y[None, :])
        grad_XD += tl.dot(share_XY, y_YD, input_precision=PRECISION)
    dim_D = tl.arange(0, DIMS)
    place_XD = row_X[:, None].to(tl.int64) * dim + dim_D[None, :]
    tl.store(grad + place_XD, grad_XD * scale, mask=is_row_X[:, None] & (dim_D[None, :] < dim))
