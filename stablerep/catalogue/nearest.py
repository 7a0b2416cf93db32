"""Exact nearest neighbours among a bounded set of vectors; no index, no approximation.

Distances are one minus the cosine, computed in float64 and told in float32, so that every way to ask gives the same numbers in the same
order. Equally near vectors come in the order of their ids.

Dimension key: N vectors, D their space, K neighbours.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from stablerep.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]


def nearest(vectors_ND: Array, ids: Sequence[str], query_D: Sequence[float] | Array, count: int) -> list[tuple[int, float]]:
    """Places and distances of the `count` nearest vectors, nearest first.

    Args:
        vectors_ND: float [N, D].
        ids: of the vectors; they decide among equals.
        query_D: float [D].
        count: how many, at most N.

    Raises:
        DataError: dimensions differ, or a number is not finite.
    """
    rows, query = np.asarray(vectors_ND, np.float64), np.asarray(query_D, np.float64)
    if rows.ndim != 2 or query.shape != rows.shape[1:]:
        expected = f"a query of {rows.shape[-1]} numbers as the reference set has"
        raise DataError(f"expected {expected}, found {query.size}; embed it with the model of the set")
    if not np.isfinite(query).all() or not np.isfinite(rows).all():
        raise DataError("expected finite numbers in a vector search, found NaN or infinity; embed query and reference set again")
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
    distance_N = (1 - (rows @ query) / np.maximum(lengths, np.finfo(np.float64).tiny)).astype(np.float32)
    order = sorted(range(len(rows)), key=lambda place: (distance_N[place], ids[place]))[:count]
    return [(place, float(distance_N[place])) for place in order]
