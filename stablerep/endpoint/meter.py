"""What the endpoint says about its requests: how many by protocol and code, how long they took, how many are open.

It knows the names of the metrics and no sink; the server passes a reporter whose sink is Prometheus.
"""

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from stablerep.telemetry import Reporter

Protocol = Literal["v1", "v2", "grpc"]


@dataclass
class Outcome:
    """Set `code` before the request ends: an HTTP status, or the name of a gRPC status."""

    code: str


class Meter:
    """Counts the requests of one server, from any thread."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._num_open = 0
        self._lock = threading.Lock()

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

    def batch(self, num_images: int) -> None:
        """One model batch ran."""
        self._reporter.report("stablerep_endpoint_batch_images", num_images)

    def refused(self, reason: str) -> None:
        """A request was refused for one of its images; the reason is the name of the error's class."""
        self._reporter.report("stablerep_endpoint_decode_errors_total", 1, reason=reason)

    def serving(self, model_id: str) -> None:
        """The model that is served."""
        self._reporter.report("stablerep_endpoint_info", 1, model_id=model_id)

    def _open(self, change: int) -> None:
        with self._lock:
            self._num_open += change
            self._reporter.report("stablerep_endpoint_in_flight", self._num_open)
