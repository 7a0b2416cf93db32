"""What the endpoint says about its requests: how many by protocol and code, how long they took and waited, how many are open.

It knows the names of the metrics and no sink; the server passes a reporter whose sink is Prometheus. Drift is seen in the length of
the embeddings: photographs of another kind than those of the export (or broken pixels) move its mean.
"""

import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from stablerep.telemetry import Reporter

Protocol = Literal["v1", "v2", "openai", "grpc"]
NORM_WINDOW_IMAGES = 256  # an older image counts 1/e


@dataclass
class Outcome:
    """Set `code` before the request ends: an HTTP status, or the name of a gRPC status."""

    code: str


class Meter:
    """Counts the requests of one server, from any thread."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._num_open = self._num_answered = 0
        self._norm: float | None = None
        self._recorded_norm: tuple[float, float] | None = None
        self._lock = threading.Lock()
        self._open(0)

    @contextmanager
    def request(self, protocol: Protocol) -> Generator[Outcome]:
        """Measure one request; a block that leaves by an exception keeps the code set so far."""
        outcome = Outcome("500" if protocol != "grpc" else "INTERNAL")
        started_at = time.perf_counter()
        self._open(1)
        try:
            yield outcome
        finally:
            self._open(-1)
            self._reporter.report("stablerep_endpoint_requests_total", 1, protocol=protocol, code=outcome.code)
            self._reporter.report("stablerep_endpoint_request_seconds", time.perf_counter() - started_at, protocol=protocol)

    @property
    def num_open(self) -> int:
        """Requests being answered."""
        return self._num_open

    @property
    def num_answered(self) -> int:
        """Requests answered so far."""
        return self._num_answered

    def batch(self, num_images: int) -> None:
        """One model batch ran."""
        self._reporter.report("stablerep_endpoint_batch_images", num_images)

    def waited(self, seconds: float) -> None:
        """A request waited this long for the model."""
        self._reporter.report("stablerep_endpoint_queue_seconds", seconds)

    def embedded(self, norms: Sequence[float]) -> None:
        """Images were embedded; `norms` are the lengths of their embeddings as the trunk gave them."""
        with self._lock:
            for norm in norms:
                self._norm = norm if self._norm is None else self._norm + (norm - self._norm) / NORM_WINDOW_IMAGES
            self._reporter.report("stablerep_endpoint_images_total", len(norms))
            if self._norm is not None:
                self._reporter.report("stablerep_endpoint_embedding_norm", self._norm)
                if self._recorded_norm is not None:
                    mean, std = self._recorded_norm
                    self._reporter.report("stablerep_endpoint_embedding_norm_drift_sigmas", (self._norm - mean) / std)

    def refused(self, reason: str) -> None:
        """A request was refused for one of its images; the reason is the name of the error's class."""
        self._reporter.report("stablerep_endpoint_decode_errors_total", 1, reason=reason)

    def serving(self, model_id: str, norm: tuple[float, float] | None = None) -> None:
        """The model that is served; mean and standard deviation of the length of its embeddings, where the export recorded them."""
        self._recorded_norm = norm
        if norm is not None:
            self._norm = norm[0]  # drift starts at none, not at whatever the first image is
        self._reporter.report("stablerep_endpoint_info", 1, model_id=model_id)

    def _open(self, change: int) -> None:
        with self._lock:
            self._num_open += change
            self._num_answered += change < 0
            self._reporter.report("stablerep_endpoint_in_flight", self._num_open)
