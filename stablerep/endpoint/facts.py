"""What a server says of its encoder: shapes, how images are prepared, where it comes from, how long its embeddings usually are."""

import json
from pathlib import Path
from typing import Any, NamedTuple, cast

from stablerep.models import Encoder

LINEAGE_FILE, STATISTICS_FILE = "lineage.json", "statistics.json"


class NormStatistics(NamedTuple):
    """Length of the embeddings of the images that the encoder was exported with."""

    mean: float
    std: float


class Facts(NamedTuple):
    """Plain data about an encoder (JSON), and the lengths of its embeddings where the export recorded them."""

    metadata: dict[str, Any]
    norm: NormStatistics | None


def facts_of(folder: Path, encoder: Encoder, num_references: int = 0) -> Facts:
    """Read what stands beside the weights; files that are not there are left out.

    Args:
        folder: of the encoder.
        encoder: loaded from there.
        num_references: that neighbours are found among.
    """
    preprocessor, spec = encoder.preprocessor, encoder.spec
    statistics = _json(folder / STATISTICS_FILE).get("embedding_norm")
    metadata: dict[str, Any] = {
        "model_id": encoder.model_id,
        "architecture": spec.trunk.architecture,
        "embedding_dim": encoder.embedding_dim,
        "text_dim": spec.text.out_dim if spec.text else None,
        "input": {
            "size_px": preprocessor.size_px,
            "resize_px": preprocessor.resize,
            "crop_px": preprocessor.crop,
            "interpolation": preprocessor.interpolation,
            "mean": list(preprocessor.mean),
            "std": list(preprocessor.std),
        },
        "embedding_norm": statistics,
        "num_references": num_references,
        "lineage": _json(folder / LINEAGE_FILE),
    }
    return Facts(metadata, _norm(statistics))


def _norm(statistics: Any) -> NormStatistics | None:
    values = cast("dict[str, Any]", statistics) if isinstance(statistics, dict) else {}
    mean, std = values.get("mean"), values.get("std")
    return NormStatistics(float(mean), float(std)) if isinstance(mean, int | float) and isinstance(std, int | float) and std > 0 else None


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
