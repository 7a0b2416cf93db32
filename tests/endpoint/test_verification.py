"""Every fault that verification is for, injected into an endpoint that answers from memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_encoder import write_encoder

from stablerep.endpoint.client import Answer, EndpointClient
from stablerep.endpoint.limits import Limits
from stablerep.endpoint.predictor import Predictor, Question
from stablerep.endpoint.verification import Findings, Golden, make_golden, verify_endpoint
from stablerep.errors import LaunchError, RequestError


@dataclass
class Faults:
    model_id: str = ""
    is_down: bool = False
    accepts_junk: bool = False
    dies_of_junk: bool = False
    rest: Callable[[np.ndarray], np.ndarray] = lambda embedding: embedding
    grpc: Callable[[np.ndarray], np.ndarray] = lambda embedding: embedding
    scores: Callable[[np.ndarray], np.ndarray] = lambda scores: scores


class MemoryClient(EndpointClient):
    """Answers as the server does, from a predictor in this process, with faults."""

    def __init__(self, predictor: Predictor, faults: Faults) -> None:
        super().__init__("127.0.0.1", 1, "stablerep")
        self.predictor, self.faults = predictor, faults

    def model_id(self) -> str:
        if self.faults.is_down:
            raise LaunchError("down")
        return self.faults.model_id or self.predictor.model_id

    def predict(self, images: Sequence[bytes], **parameters: Any) -> Answer:
        if self.faults.is_down:
            raise LaunchError("down")
        try:
            found = self.predictor.predict(images, Question(tuple(parameters.get("labels", ()))))
        except RequestError as error:
            self.faults.is_down = self.faults.dies_of_junk
            return Answer(200 if self.faults.accepts_junk else error.http_status, {})
        embeddings = self.faults.rest(found.embedding_NF).tolist()
        if found.scores_NK is None:
            return Answer(200, {"predictions": embeddings})
        rows = self.faults.scores(found.scores_NK).tolist()
        return Answer(200, {"predictions": [{"scores": dict(zip(found.labels, row, strict=True))} for row in rows]})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    write_encoder(folder, seed=1)
    return folder


@pytest.fixture(scope="module")
def golden(folder: Path) -> Golden:
    return make_golden(folder, np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8))


def _verify(folder: Path, golden: Golden, faults: Faults) -> Findings:
    client = MemoryClient(Predictor(folder, Limits()), faults)

    def ask_grpc(files: Sequence[bytes]) -> np.ndarray:
        if faults.is_down:
            raise LaunchError("down")
        return faults.grpc(client.predictor.predict(files).embedding_NF)

    return verify_endpoint(client, ask_grpc, golden, max_difference=1e-4, num_latency_requests=3)


def _failed(findings: Findings) -> list[str]:
    return [name for name, is_passed in findings.checks.items() if not is_passed]


def test_a_sound_endpoint_passes_every_check(folder: Path, golden: Golden) -> None:
    findings = _verify(folder, golden, Faults())
    assert _failed(findings) == []
    assert len(findings.checks) == 7
    assert findings.max_difference < 1e-5
    assert 0 < findings.latency_p50_ms <= findings.latency_p99_ms < 10_000


def _with_nan(embedding: np.ndarray) -> np.ndarray:
    broken = embedding.copy()
    broken[0, 0] = np.nan
    return broken


@pytest.mark.parametrize(
    ("faults", "failed"),
    [
        (Faults(model_id="model-other"), ["serves_the_model"]),
        (Faults(rest=lambda e: e + 2e-4), ["rest_embeddings"]),
        (Faults(rest=lambda e: e[::-1]), ["rest_embeddings"]),
        (Faults(rest=lambda e: e[:, :-1]), ["rest_embeddings"]),
        (Faults(grpc=lambda e: e + 2e-4), ["grpc_embeddings"]),
        (Faults(grpc=_with_nan), ["grpc_embeddings", "norms"]),
        (Faults(grpc=np.zeros_like), ["grpc_embeddings", "norms"]),
        (Faults(accepts_junk=True), ["bad_image_refused"]),
        (Faults(dies_of_junk=True), ["answers_after_bad_image", "scores_sum_to_1"]),
        (Faults(scores=lambda s: s * 1.01), ["scores_sum_to_1"]),
        (Faults(scores=lambda s: s[:-1]), ["scores_sum_to_1"]),
    ],
)
def test_each_fault_is_named(folder: Path, golden: Golden, faults: Faults, failed: list[str]) -> None:
    assert _failed(_verify(folder, golden, faults)) == failed


def test_an_endpoint_that_is_down_fails_everything_and_raises_nothing(folder: Path, golden: Golden) -> None:
    findings = _verify(folder, golden, Faults(is_down=True))
    assert not any(findings.checks.values())
    assert findings.max_difference == findings.latency_p99_ms == float("inf")


def test_an_encoder_without_text_is_not_asked_for_scores(tmp_path: Path) -> None:
    write_encoder(tmp_path, seed=3, has_text=False)
    golden = make_golden(tmp_path, np.zeros((1, 3, 32, 32), dtype=np.uint8))
    assert "scores_sum_to_1" not in _verify(tmp_path, golden, Faults()).checks


def test_golden_photographs_are_cut_like_the_server_cuts_them(tmp_path: Path) -> None:
    write_encoder(tmp_path, seed=4, size_px=64)
    golden = make_golden(tmp_path, np.random.default_rng(1).integers(0, 256, (2, 3, 73, 73), dtype=np.uint8))
    assert _failed(_verify(tmp_path, golden, Faults())) == []
