"""Whether the pods of a canary may have more traffic: error ratio and p99 latency of one step, asked from Prometheus.

Metrics are the server's own (stablerep.endpoint.meter); `namespace` and `pod` are added by Prometheus. Every counter is compared with
itself at the beginning of the step, and a series that did not exist then counts from zero: `increase` would leave out the first errors
of a kind, because the series of a code begins with them. No data is never good news.
"""

import json
import math
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass

from stablerep.errors import LaunchError

_SINCE = "(clamp_min({metric} - {metric} offset {window}, 0) or {metric})"
_PODS = 'namespace="{namespace}",pod=~"{pods}"'
# what the server is to blame for: HTTP 5xx and the gRPC statuses of the same meaning
SERVER_FAULTS = "5..|UNKNOWN|INTERNAL|UNAVAILABLE|UNIMPLEMENTED|DATA_LOSS|DEADLINE_EXCEEDED|ABORTED"
_ALL = _SINCE.replace("{metric}", f"stablerep_endpoint_requests_total{{{{{_PODS}}}}}")
_FAULTY = _SINCE.replace("{metric}", f'stablerep_endpoint_requests_total{{{{{_PODS},code=~"{SERVER_FAULTS}"}}}}')
_BUCKETS = _SINCE.replace("{metric}", f"stablerep_endpoint_request_seconds_bucket{{{{{_PODS}}}}}")

NUM_REQUESTS = f"sum({_ALL})"
ERROR_RATIO = f"(sum({_FAULTY}) or vector(0)) / sum({_ALL})"
P99_SECONDS = f"histogram_quantile(0.99, sum by (le) ({_BUCKETS}))"


class Prometheus:
    """Asks one Prometheus server instant queries.

    Args:
        url: base URL, a path prefix included.
        timeout_seconds: of one request.
        num_tries: where it does not answer.
    """

    def __init__(self, url: str, timeout_seconds: float = 10.0, num_tries: int = 3) -> None:
        self._url, self._timeout_seconds, self._num_tries = url.rstrip("/"), timeout_seconds, num_tries

    def value(self, query: str) -> float | None:
        """The number a query gives; None where it gives none or NaN.

        Raises:
            LaunchError: the server cannot be reached, refuses the query, or answers with several numbers.
        """
        address = f"{self._url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        for num_left in reversed(range(self._num_tries)):
            try:
                with urllib.request.urlopen(address, timeout=self._timeout_seconds) as answer:
                    return _number(json.loads(answer.read())["data"]["result"], query)
            except urllib.error.HTTPError as error:
                if error.code < 500 or not num_left:
                    said = error.read(400).decode("utf-8", "replace")
                    raise LaunchError(f"Prometheus at {self._url} answered {error.code}: {said}") from error
            except (OSError, ValueError, KeyError, TypeError) as error:
                if not num_left:
                    raise LaunchError(f"Prometheus at {self._url} gave no answer ({error or type(error).__name__})") from error
            time.sleep(0.2)
        raise AssertionError("the loop above returns or raises")


@dataclass(frozen=True)
class Allowed:
    """Limits of a canary, with the words of the configuration."""

    error_ratio: float
    p99_seconds: float


@dataclass(frozen=True)
class Judge:
    """Watches the pods of one endpoint through Prometheus."""

    prometheus: Prometheus
    namespace: str
    allowed: Allowed
    num_for_early_end: int = 20  # requests, before a step is ended ahead of its time

    def watch(self, pods: str, seconds: float, ask: Callable[[], str]) -> str:
        """Send golden requests for `seconds` and judge what the pods said about all requests; a bad step ends early.

        Args:
            pods: regular expression of the pods' names.
            seconds: length of the step.
            ask: sends a request; returns what is wrong with the answer, empty when it is right.

        Returns:
            Why the step failed, empty when it passed.
        """
        started_at = time.monotonic()
        pause, next_look = min(1.0, seconds / 20), seconds / 4
        while (passed := time.monotonic() - started_at) < seconds:
            if problem := ask():
                return problem
            if passed >= next_look:
                next_look = passed + seconds / 4
                if problem := self._verdict(pods, passed, is_final=False):
                    return problem
            time.sleep(min(pause, max(0.0, seconds - passed)))
        return self._verdict(pods, seconds, is_final=True)

    def _verdict(self, pods: str, seconds: float, *, is_final: bool) -> str:
        try:
            num_requests = self._ask(NUM_REQUESTS, pods, seconds)
            if not num_requests:
                return self._no_data("requests", NUM_REQUESTS, pods, seconds) if is_final else ""
            if not is_final and num_requests < self.num_for_early_end:
                return ""
            return self._over("error ratio", ERROR_RATIO, pods, seconds, num_requests, self.allowed.error_ratio) or self._over(
                "p99", P99_SECONDS, pods, seconds, num_requests, self.allowed.p99_seconds, " s"
            )
        except LaunchError as error:
            return str(error) if is_final else ""

    def _over(self, name: str, query: str, pods: str, seconds: float, num_requests: float, limit: float, unit: str = "") -> str:
        found = self._ask(query, pods, seconds)
        if found is None:
            return self._no_data(name, query, pods, seconds)
        if found <= limit:
            return ""
        asked = self._filled(query, pods, seconds)
        return f"{name} {found:.4g}{unit} of {num_requests:.0f} requests in {seconds:.0f} s, allowed {limit:g}{unit}; query: {asked}"

    def _no_data(self, name: str, query: str, pods: str, seconds: float) -> str:
        asked = self._filled(query, pods, seconds)
        return f"Prometheus has no data about {name} of the last {seconds:.0f} s: does it scrape the pods? query: {asked}"

    def _ask(self, query: str, pods: str, seconds: float) -> float | None:
        return self.prometheus.value(self._filled(query, pods, seconds))

    def _filled(self, query: str, pods: str, seconds: float) -> str:
        return query.format(namespace=self.namespace, pods=pods, window=f"{max(1, round(1000 * seconds))}ms")


def _number(result: list[dict[str, list[str]]], query: str) -> float | None:
    if not result:
        return None
    if len(result) > 1:
        raise LaunchError(f"expected one number from Prometheus, found {len(result)} series; query: {query}")
    number = float(result[0]["value"][1])
    return None if math.isnan(number) else number
