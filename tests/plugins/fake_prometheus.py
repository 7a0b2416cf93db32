"""A Prometheus server's /api/v1/query over real HTTP: the test says which number each kind of query gives."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest


class FakePrometheus(ThreadingHTTPServer):
    """num_requests, error_ratio, p99_seconds: the answers as Prometheus writes them ("NaN"), None: an empty result.

    errors: HTTP statuses of the next answers.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.num_requests: str | None = "100"
        self.error_ratio: str | None = "0"
        self.p99_seconds: str | None = "0.02"
        self.errors: list[int] = []
        self.queries: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/prometheus"

    def number(self, query: str) -> str | None:
        return self.p99_seconds if "histogram_quantile" in query else self.error_ratio if "/" in query else self.num_requests


class _Handler(BaseHTTPRequestHandler):
    server: FakePrometheus

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        query = parse_qs(address.query).get("query", [""])[0]
        self.server.queries.append(query)
        if self.server.errors:
            self._answer(self.server.errors.pop(0), {"status": "error", "errorType": "bad_data", "error": "parse error"})
        elif address.path != "/prometheus/api/v1/query":
            self._answer(404, {"status": "error"})
        else:
            number = self.server.number(query)
            result = [] if number is None else [{"metric": {}, "value": [1763877000.1, number]}]
            self._answer(200, {"status": "success", "data": {"resultType": "vector", "result": result}})

    def _answer(self, status: int, body: dict[str, object]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def fake_prometheus() -> Iterator[FakePrometheus]:
    server = FakePrometheus()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
