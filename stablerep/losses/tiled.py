"""The log-sum-exp of the losses in tiles of plain torch, on any device: no B x G matrix is ever in memory.

Dimension key: B anchors, G candidates, T rows of a tile, U columns of a tile, D embedding. Logits are scale * x.y.

- `both_ways`: anchors that are the candidates. The logits are symmetric, so half of the tiles are made, and each serves its rows and its
  columns: a first pass sums exponentials, a second forms the gradients.
- `one_way`: other anchors than candidates. One pass over strips of whole rows gives value and both gradients.
- `log_sum_exp` and `pull`: the two halves apart, for candidates that arrive block by block (`losses/blocks.py`).

`losses/kernels.py` has the same four functions for CUDA.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Iterator

import torch
from torch import Tensor

_TILE_ELEMENTS = 1 << 20  # logits held at a time (4 MiB in float32): a tile stays in cache on CPU and fills a GPU
_FEWEST_ROWS = 128  # a thinner strip would leave matrix products memory-bound; still linear in the candidates
_SQUARE_ROWS = 512  # side of a square tile: 1 MiB in float32
_LARGEST_EXPONENT = 80.0  # exp(80) and exp(-80) are normal float32 numbers


def both_ways(rows_BD: Tensor, weight_B: Tensor, scale: float, tile_rows: int, has_gradient: bool) -> tuple[Tensor, Tensor | None]:
    """sum_i weight_i log sum_{j != i} exp(scale x_i.x_j) of unit rows, and its gradient.

    Args:
        rows_BD: rows of norm 1 at most, so that no logit is above `scale`.
        weight_B: 0 or more.
        scale: 1 / temperature.
        tile_rows: rows and columns of a tile; 0 chooses.
        has_gradient: whether the gradient is wanted.
    """
    tiles = list(_half(rows_BD.shape[0], tile_rows or _SQUARE_ROWS))
    if 2 * scale > _LARGEST_EXPONENT:
        lse_B = _running_log_sum_exp(rows_BD, scale, tiles)
    else:
        lse_B = scale + _sums_below(rows_BD, scale, tiles).log()
    total = weighted_sum(weight_B, lse_B)
    if not has_gradient:
        return total, None
    return total, _half_gradient(rows_BD, offsets(lse_B, weight_B), scale, tiles)


def one_way(
    anchor_BD: Tensor,
    candidate_GD: Tensor,
    weight_B: Tensor,
    self_index_B: Tensor | None,
    scale: float,
    tile_rows: int,
    has_gradient: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """sum_i weight_i log sum_{j != self_i} exp(scale a_i.c_j), and its gradients P'C for the anchors and P'^T A for the candidates."""
    total = anchor_BD.new_zeros(())
    grad_anchor_BD = torch.zeros_like(anchor_BD) if has_gradient else None
    grad_candidate_GD = torch.zeros_like(candidate_GD) if has_gradient else None
    for tile in _strips(anchor_BD.shape[0], candidate_GD.shape[0], tile_rows):
        scaled_TD, weight_T = anchor_BD[tile] * scale, weight_B[tile]
        share_TG = _logits(scaled_TD, candidate_GD, None if self_index_B is None else self_index_B[tile])
        most_T = share_TG.amax(1).nan_to_num(neginf=0.0)
        sum_T = share_TG.sub_(most_T[:, None]).exp_().sum(1)
        total += weighted_sum(weight_T, most_T + sum_T.log())
        if grad_anchor_BD is not None and grad_candidate_GD is not None:
            factor_T1 = torch.where(weight_T > 0, weight_T / sum_T, 0)[:, None]
            torch.mul(share_TG @ candidate_GD, factor_T1 * scale, out=grad_anchor_BD[tile])
            grad_candidate_GD.addmm_(share_TG.T, scaled_TD * factor_T1)
    return total, grad_anchor_BD, grad_candidate_GD


def log_sum_exp(anchor_BD: Tensor, candidate_GD: Tensor, self_index_B: Tensor | None, scale: float) -> Tensor:
    """The logarithm of sum_{j != self_i} exp(scale a_i.c_j) of every anchor; -inf where nothing is left."""
    lse_B = anchor_BD.new_empty(anchor_BD.shape[0])
    for tile in _strips(anchor_BD.shape[0], candidate_GD.shape[0], 0):
        logits_TG = _logits(anchor_BD[tile] * scale, candidate_GD, None if self_index_B is None else self_index_B[tile])
        lse_B[tile] = logits_TG.logsumexp(1)
    return lse_B


def pull(
    anchor_BD: Tensor, candidate_GD: Tensor, anchor_offset_B: Tensor, candidate_offset_G: Tensor, self_index_B: Tensor | None, scale: float
) -> Tensor:
    """Gradient at the anchors of everybody's log-sum-exp, their own and the candidates': scale * sum_j W_ij c_j.

    W_ij = exp(s_ij - offset_i) + exp(s_ij - offset_j), s = scale a.c, with offset = log-sum-exp less the logarithm of the weight.
    """
    grad_BD = torch.zeros_like(anchor_BD)
    for tile in _strips(anchor_BD.shape[0], candidate_GD.shape[0], 0):
        logits_TG = _logits(anchor_BD[tile] * scale, candidate_GD, None if self_index_B is None else self_index_B[tile])
        share_TG = (logits_TG - anchor_offset_B[tile, None]).exp_().add_(logits_TG.sub_(candidate_offset_G).exp_())
        torch.mul(share_TG @ candidate_GD, scale, out=grad_BD[tile])
    return grad_BD


def weighted_sum(weight_B: Tensor, lse_B: Tensor) -> Tensor:
    """sum_i weight_i lse_i, where an anchor of weight 0 may have no candidate at all (its lse is -inf)."""
    return (weight_B * lse_B.masked_fill(weight_B == 0, 0.0)).sum()


def offsets(lse_B: Tensor, weight_B: Tensor) -> Tensor:
    """What to subtract from a logit before exp to get weight * softmax; infinite for weight 0."""
    return (lse_B - weight_B.log()).masked_fill(weight_B == 0, float("inf"))


def _half(num_rows: int, tile_rows: int) -> Iterator[tuple[slice, slice]]:
    """The tiles on and above the diagonal."""
    for top in range(0, num_rows, tile_rows):
        for left in range(top, num_rows, tile_rows):
            yield slice(top, top + tile_rows), slice(left, left + tile_rows)


def _tile(rows_BD: Tensor, scale: float, tile: tuple[slice, slice]) -> Tensor:
    """One tile of logits, self masked."""
    logits_TU = (rows_BD[tile[0]] * scale) @ rows_BD[tile[1]].T
    return logits_TU.fill_diagonal_(float("-inf")) if tile[0] == tile[1] else logits_TU


def _sums_below(rows_BD: Tensor, scale: float, tiles: list[tuple[slice, slice]]) -> Tensor:
    """sum_{j != i} exp(s_ij - scale): no logit is above `scale`, so one exponential serves row and column."""
    sum_B = rows_BD.new_zeros(rows_BD.shape[0])
    for tile in tiles:
        share_TU = _tile(rows_BD, scale, tile).sub_(scale).exp_()
        sum_B[tile[0]] += share_TU.sum(1)
        if tile[0] != tile[1]:
            sum_B[tile[1]] += share_TU.sum(0)
    return sum_B


def _running_log_sum_exp(rows_BD: Tensor, scale: float, tiles: list[tuple[slice, slice]]) -> Tensor:
    """The same for small temperatures, where a common reference would underflow: a running log-sum-exp of every row."""
    lse_B = rows_BD.new_full((rows_BD.shape[0],), float("-inf"))
    for tile in tiles:
        logits_TU = _tile(rows_BD, scale, tile)
        lse_B[tile[0]] = torch.logaddexp(lse_B[tile[0]], logits_TU.logsumexp(1))
        if tile[0] != tile[1]:
            lse_B[tile[1]] = torch.logaddexp(lse_B[tile[1]], logits_TU.logsumexp(0))
    return lse_B


def _half_gradient(rows_BD: Tensor, offset_B: Tensor, scale: float, tiles: list[tuple[slice, slice]]) -> Tensor:
    """The gradient scale * sum_j W_ij x_j with the symmetric W of `pull`."""
    grad_BD = torch.zeros_like(rows_BD)
    is_bounded = 2 * scale <= _LARGEST_EXPONENT
    factor_B = (scale - offset_B).exp()
    for tile in tiles:
        share_TU = _tile(rows_BD, scale, tile)
        if is_bounded:
            share_TU.sub_(scale).exp_().mul_(factor_B[tile[0], None] + factor_B[tile[1]])
        else:
            share_TU = (share_TU - offset_B[tile[0], None]).exp_().add_(share_TU.sub_(offset_B[tile[1]]).exp_())
        grad_BD[tile[0]].addmm_(share_TU, rows_BD[tile[1]], alpha=scale)
        if tile[0] != tile[1]:
            grad_BD[tile[1]].addmm_(share_TU.T, rows_BD[tile[0]], alpha=scale)
    return grad_BD


def _strips(num_anchors: int, num_candidates: int, tile_rows: int) -> Iterator[slice]:
    """Strips of whole rows of logits."""
    tile_rows = tile_rows or max(_FEWEST_ROWS, _TILE_ELEMENTS // max(1, num_candidates))
    for start in range(0, num_anchors, tile_rows):
        yield slice(start, start + tile_rows)


def _logits(scaled_TD: Tensor, candidate_GD: Tensor, self_index_T: Tensor | None) -> Tensor:
    """Logits of a strip, self masked."""
    logits_TG = scaled_TD @ candidate_GD.T
    if self_index_T is not None:
        logits_TG.scatter_(1, self_index_T[:, None], float("-inf"))
    return logits_TG
