"""Prometheus as a sink: the catalogue's metrics on an HTTP port while a stage runs, pulled by a PodMonitor.

The exporter is off unless a stage is told to have one (`stablerep.stages.exporter` reads the environment).
https://prometheus.github.io/client_python/
"""

import threading
from collections.abc import Iterator
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client import Metric as CollectedMetric
from prometheus_client.exposition import make_wsgi_app  # pyright: ignore[reportUnknownVariableType]
from prometheus_client.registry import Collector

from stablerep.errors import PortInUseError
from stablerep.telemetry import METRICS, Metric

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

_POLL_SECONDS = 0.05  # how soon the server sees that it is to stop


class PrometheusSink:
    """Takes reports into `registry`; a metric is there from its first report on, so that no process shows a step 0 of a training it is not.

    Args:
        registry: where the metrics are declared.
        prefix: counters and histograms whose names start with it are there from the beginning, as 0; empty for none.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY, prefix: str = "") -> None:
        self._registry, self._lock = registry, threading.Lock()
        known = [metric for metric in METRICS.values() if prefix and metric.name.startswith(prefix) and metric.kind != "gauge"]
        self._declared = {metric.name: _declare(metric, registry) for metric in known}

    def report(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        """Set, increase or observe, as the metric's kind says."""
        with self._lock:
            if metric.name not in self._declared:
                self._declared[metric.name] = _declare(metric, self._registry)
            declared = self._declared[metric.name]
        child = declared.labels(**labels) if labels else declared
        if isinstance(child, Gauge):
            child.set(value)
        elif isinstance(child, Counter):
            child.inc(value)
        else:
            child.observe(value)

    def close(self) -> None:
        """Nothing is buffered: Prometheus pulls."""


class Exporter:
    """Metrics of this process on an HTTP port: those of the catalogue and those of the process (CPU, memory, files).

    Args:
        port: 0 takes any free one.
        host: address to bind.

    Raises:
        PortInUseError: another process listens on the port.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        registry, self._scrapes = CollectorRegistry(), _Scrapes()
        ProcessCollector(registry=registry)
        self.sink = PrometheusSink(registry)
        registry.register(self._scrapes)
        try:
            self._server = make_server(host, port, cast("WSGIApplication", make_wsgi_app(registry)), _Server, _Quiet)
        except OSError as error:
            raise PortInUseError(f"metrics port {port} on {host} is taken; set STABLEREP_METRICS_PORT to a free one") from error
        self.port = int(self._server.server_port)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_POLL_SECONDS,), daemon=True)
        self._thread.start()

    def stop(self, linger_seconds: float = 0.0) -> None:
        """Stop; wait for one more scrape before, at most so long, so that the last values are seen."""
        self._scrapes.wait_for_next(linger_seconds)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """A scrape is no event."""


class _Scrapes(Collector):
    """Exports nothing and notes that there was a scrape."""

    def __init__(self) -> None:
        self._seen = threading.Event()

    def collect(self) -> Iterator[CollectedMetric]:
        self._seen.set()
        return iter(())

    def describe(self) -> Iterator[CollectedMetric]:
        return iter(())

    def wait_for_next(self, seconds: float) -> None:
        self._seen.clear()
        self._seen.wait(seconds)


def _declare(metric: Metric, registry: CollectorRegistry) -> Gauge | Counter | Histogram:
    if metric.kind == "gauge":
        return Gauge(metric.name, metric.help, metric.labels, registry=registry)
    if metric.kind == "counter":
        return Counter(metric.name, metric.help, metric.labels, registry=registry)
    return Histogram(metric.name, metric.help, metric.labels, registry=registry, buckets=metric.buckets)
