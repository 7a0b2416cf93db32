"""Prometheus as a sink: the catalogue's metrics on an HTTP port while a stage runs, pulled by a PodMonitor.

The exporter is off unless STABLEREP_METRICS_PORT is set (stages read it); port 0 is refused because nobody could find it.
https://prometheus.github.io/client_python/
"""

from collections.abc import Callable

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from stablerep.errors import PortInUseError
from stablerep.telemetry import METRICS, Metric


class PrometheusSink:
    """Declares the metrics of the catalogue whose names start with `prefix` in `registry` and takes reports of them."""

    def __init__(self, registry: CollectorRegistry = REGISTRY, prefix: str = "stablerep_") -> None:
        self._metrics = {metric.name: _declare(metric, registry) for metric in METRICS.values() if metric.name.startswith(prefix)}

    def report(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        """Set, increase or observe, as the metric's kind says."""
        declared = self._metrics[metric.name]
        child = declared.labels(**labels) if labels else declared
        if isinstance(child, Gauge):
            child.set(value)
        elif isinstance(child, Counter):
            child.inc(value)
        else:
            child.observe(value)

    def close(self) -> None:
        """Nothing is buffered: Prometheus pulls."""


def serve_metrics(port: int, host: str = "127.0.0.1") -> tuple[PrometheusSink, Callable[[], None]]:
    """Start the exporter; returns the sink and a function that stops it.

    Raises:
        PortInUseError: another process listens on the port.
    """
    registry = CollectorRegistry()
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise PortInUseError(f"metrics port {port} on {host} is taken; set STABLEREP_METRICS_PORT to a free one") from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return PrometheusSink(registry), stop


def _declare(metric: Metric, registry: CollectorRegistry) -> Gauge | Counter | Histogram:
    if metric.kind == "gauge":
        return Gauge(metric.name, metric.help, metric.labels, registry=registry)
    if metric.kind == "counter":
        return Counter(metric.name, metric.help, metric.labels, registry=registry)
    return Histogram(metric.name, metric.help, metric.labels, registry=registry, buckets=metric.buckets)
