"""Known images that an answer can be compared with: the nearest neighbours of an embedding, by cosine, exactly.

A reference set is one file beside the encoder, `reference.safetensors`: tensor `embedding` [R, F] in float32 or float16, and as metadata
`ids` (a JSON list of R texts) and `model_id` (whose embeddings these are). It is bounded and searched by one matrix product; whoever wants
millions puts an index of their own behind `ReferenceSet`.

Dimension key: B queries, R references, F embedding, k neighbours.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from stablerep.errors import CheckpointError

Array = np.ndarray[Any, np.dtype[Any]]

REFERENCE_FILE = "reference.safetensors"
MAX_REFERENCES = 200_000


class Neighbours(NamedTuple):
    """For each query its neighbours, nearest first: ids [B][k] and cosines [B, k]."""

    ids: list[list[str]]
    scores_BK: Array


class ReferenceSet(Protocol):
    """Something that knows embeddings and finds the nearest."""

    def __len__(self) -> int:
        """How many it knows."""
        ...

    def search(self, embedding_BD: Array, k: int) -> Neighbours:
        """The k nearest references of each embedding (fewer where there are fewer)."""
        ...


class ExactReferences:
    """Reference embeddings in memory, compared one by one.

    Args:
        ids: one for each row.
        embedding_RF: any length; rows are compared by direction.
    """

    def __init__(self, ids: Sequence[str], embedding_RF: Array) -> None:
        self._ids = list(ids)
        self._unit_RF = _unit(np.asarray(embedding_RF, np.float32))

    def __len__(self) -> int:
        """How many there are."""
        return len(self._ids)

    def search(self, embedding_BD: Array, k: int) -> Neighbours:
        """The k nearest by cosine; of equals the one that stands first."""
        scores_BR = _unit(np.asarray(embedding_BD, np.float32)) @ self._unit_RF.T
        nearest_BK = np.argsort(-scores_BR, axis=1, kind="stable")[:, :k]
        ids = [[self._ids[position] for position in row] for row in nearest_BK.tolist()]
        return Neighbours(ids, np.take_along_axis(scores_BR, nearest_BK, axis=1))


def load_references(folder: Path, model_id: str, embedding_dim: int) -> ExactReferences | None:
    """The references beside an encoder; None where there are none.

    Raises:
        CheckpointError: the file is damaged, too large, or holds embeddings of another model.
    """
    path = folder / REFERENCE_FILE
    if not path.exists():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            facts: dict[str, str] = file.metadata() or {}
            embedding_RF: Array = file.get_tensor("embedding")
        ids = json.loads(facts.get("ids", "[]"))
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(f"{path}: expected a safetensors file with tensor `embedding` and metadata `ids`: {error}") from error
    if facts.get("model_id") != model_id:
        raise CheckpointError(f"{path}: expected references of {model_id}, found those of {facts.get('model_id')!r}; embed them again")
    is_listed = isinstance(ids, list) and all(isinstance(entry, str) for entry in cast("list[Any]", ids))
    if not is_listed or embedding_RF.shape != (len(ids), embedding_dim) or not 0 < len(ids) <= MAX_REFERENCES:
        raise CheckpointError(
            f"{path}: expected 1 to {MAX_REFERENCES} ids and as many embeddings of {embedding_dim}, found {len(ids)} ids and "
            f"embeddings {list(embedding_RF.shape)}"
        )
    if not np.isfinite(embedding_RF).all():
        raise CheckpointError(f"{path}: expected finite embeddings, found NaN or infinity; embed them again")
    return ExactReferences(cast("list[str]", ids), embedding_RF)


def write_references(folder: Path, ids: Sequence[str], embedding_RF: Array, model_id: str) -> Path:
    """Write `reference.safetensors`, which `load_references` reads."""
    from safetensors.numpy import save_file

    path = folder / REFERENCE_FILE
    save_file({"embedding": np.ascontiguousarray(embedding_RF)}, path, metadata={"ids": json.dumps(list(ids)), "model_id": model_id})
    return path


def _unit(embedding_BF: Array) -> Array:
    return embedding_BF / np.maximum(np.linalg.norm(embedding_BF, axis=1, keepdims=True), 1e-12)
