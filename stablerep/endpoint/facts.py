"""What a server says of its encoder: shapes, how images are prepared, where it comes from, how long its embeddings usually are."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, NamedTuple, cast

from stablerep.models import Encoder
from stablerep.typed import object_in_file

LINEAGE_FILE, STATISTICS_FILE = "lineage.json", "statistics.json"


class NormStatistics(NamedTuple):
    """Length of the embeddings of training images, as `export` measured it."""

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
    statistics = object_in_file(folder / STATISTICS_FILE).get("embedding_norm")
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
        "lineage": object_in_file(folder / LINEAGE_FILE),
    }
    return Facts(metadata, _norm(statistics))


def statistics_json(norms: Sequence[float]) -> str:
    """What `statistics.json` holds, in digits that do not depend on how many threads computed the embeddings.

    Trunks that end in a layer norm give lengths that differ by less than a thousandth, so the mean keeps six digits.

    Args:
        norms: lengths of embeddings, at least one.
    """
    mean, std = float(f"{fmean(norms):.6g}"), float(f"{pstdev(norms):.3g}")
    return json.dumps({"embedding_norm": {"mean": mean, "std": std, "num_images": len(norms)}}, indent=1) + "\n"


def _norm(statistics: Any) -> NormStatistics | None:
    values = cast("dict[str, Any]", statistics) if isinstance(statistics, dict) else {}
    mean, std = values.get("mean"), values.get("std")
    return NormStatistics(float(mean), float(std)) if isinstance(mean, int | float) and isinstance(std, int | float) and std > 0 else None
