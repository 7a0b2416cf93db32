"""What a served encoder must do before it is promoted: answer golden images as the exported folder does, and refuse a bad one.

Golden embeddings are computed here from the folder, by a way that shares no code with the server beyond the encoder itself: pixels are
normalised as arrays, while the server gets them as PNG files. A check that fails is named and does not keep the others from running.

Dimension key: N golden images, S pixels a side, F embedding.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from stablerep.endpoint.client import EndpointClient
from stablerep.errors import LaunchError
from stablerep.models import load_encoder

Array = np.ndarray[Any, np.dtype[Any]]
_BAD_IMAGE = b"\x89PNG\r\n\x1a\n this is not an image"
_LABELS = ("zero", "one", "two")


@dataclass(frozen=True)
class Golden:
    """Images as files, and what the exported encoder says about them."""

    files: tuple[bytes, ...]
    embedding_NF: Array
    model_id: str
    has_text: bool


@dataclass(frozen=True)
class Findings:
    """Named checks, the largest difference of a golden embedding over all protocols, and latency of one image over V1."""

    checks: dict[str, bool]
    max_difference: float
    latency_p50_ms: float
    latency_p99_ms: float


def make_golden(folder: Path, images_N3SS: Array) -> Golden:
    """Embed images with the exported encoder.

    Args:
        folder: `models/<model_id>` on this machine.
        images_N3SS: uint8, as large as the preprocessor's `resize`.

    Raises:
        CheckpointError: the folder is damaged.
    """
    encoder = load_encoder(folder, "cuda" if torch.cuda.is_available() else "cpu")
    edge = (images_N3SS.shape[-1] - encoder.size_px) // 2
    kept = images_N3SS[:, :, edge : edge + encoder.size_px, edge : edge + encoder.size_px] / np.float32(255)
    mean, std = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (encoder.mean, encoder.std))
    embedding_NF = encoder.embed(torch.from_numpy((kept - mean) / std)).float().cpu().numpy()
    return Golden(tuple(_png(image) for image in images_N3SS), embedding_NF, encoder.model_id, encoder.has_text)


def verify_endpoint(
    client: EndpointClient,
    ask_grpc: Callable[[Sequence[bytes]], Array] | None,
    golden: Golden,
    *,
    max_difference: float,
    num_latency_requests: int = 50,
) -> Findings:
    """Run every check.

    Args:
        client: of the endpoint, REST.
        ask_grpc: encoded images to embeddings [N, F], over gRPC; None where gRPC does not reach the server, as through Knative: the check
            `grpc_embeddings` is then replaced by `grpc_not_offered`.
        golden: images and the expected answers.
        max_difference: of any number of an embedding.
        num_latency_requests: of one image each, one after the other.
    """
    answers = [_or_none(lambda: _rest(client, golden.files)), *([_or_none(lambda: ask_grpc(golden.files))] if ask_grpc else [])]
    differences = [largest_difference(answer, golden.embedding_NF) for answer in answers]
    norms = [np.linalg.norm(answer, axis=-1) for answer in answers if answer is not None and answer.size]
    checks = {
        "serves_the_model": _or_none(client.model_id) == golden.model_id,
        "rest_embeddings": differences[0] <= max_difference,
        **({"grpc_embeddings": differences[1] <= max_difference} if ask_grpc else {"grpc_not_offered": True}),
        "norms": len(norms) == len(answers) and all(bool(np.isfinite(norm).all() and (norm > 0).all()) for norm in norms),
        "bad_image_refused": _or_none(lambda: client.predict([_BAD_IMAGE]).status) == 400,
        "answers_after_bad_image": _or_none(lambda: client.predict(golden.files[:1]).status) == 200,
        **({"scores_sum_to_1": bool(_or_none(lambda: _scores_sum_to_1(client, golden.files)))} if golden.has_text else {}),
    }
    latencies_ms = _or_none(lambda: measure_latency(client, golden.files[0], num_latency_requests))
    p50, p99 = (float(np.percentile(latencies_ms, q)) if latencies_ms else float("inf") for q in (50, 99))
    return Findings(checks, max(differences), p50, p99)


def largest_difference(found: Array | None, expected: Array) -> float:
    """Largest difference of any number; infinite when there is no answer, another shape, or a number that is not finite."""
    if found is None or found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found.astype(np.float64) - expected).max(initial=0.0))


def measure_latency(client: EndpointClient, file: bytes, num_requests: int) -> list[float]:
    """Milliseconds of each of `num_requests` requests of one image over V1.

    Raises:
        LaunchError: the server does not answer.
    """
    latencies_ms: list[float] = []
    for _ in range(num_requests):
        started_at = time.perf_counter()
        client.predict([file])
        latencies_ms.append(1000 * (time.perf_counter() - started_at))
    return latencies_ms


def _rest(client: EndpointClient, files: Sequence[bytes]) -> Array:
    return np.array(client.predict(files).body.get("predictions", []), dtype=np.float64)


def _scores_sum_to_1(client: EndpointClient, files: Sequence[bytes]) -> bool:
    rows: list[dict[str, Any]] = client.predict(files, labels=list(_LABELS)).body.get("predictions", [])
    sums = [sum(row["scores"].values()) for row in rows]
    return len(sums) == len(files) and all(abs(total - 1) < 1e-4 for total in sums)


def _or_none(ask: Callable[[], Any]) -> Any:
    """The answer, or None where the server does not answer or answers with something else."""
    try:
        return ask()
    except (LaunchError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _png(image_3SS: Array) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image_3SS.transpose(1, 2, 0))).save(content, "PNG")
    return content.getvalue()
