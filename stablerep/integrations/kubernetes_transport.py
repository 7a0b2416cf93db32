"""Requests to a Kubernetes API server that survive what a cluster does to them: restarts, rotated tokens, busy servers, lost answers.

Every call of ours may be repeated: it reads, or it names the object it is about. So broken connections, 429 and 500 502 503 504 are
tried again with growing pauses (or after Retry-After, where the server says so) until a budget of time is spent; after a 401 the
credentials are read anew, once. What an answer means to a verb is not decided here.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import json
import random
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlencode

import urllib3
from kubernetes.client import ApiClient
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError, ReadTimeoutError, SSLError

from stablerep.cluster import Document
from stablerep.errors import ClusterError
from stablerep.integrations.kubernetes_credentials import Credentials

TEMPORARY = frozenset({429, 500, 502, 503, 504})
CONNECT_SECONDS, READ_SECONDS = 5.0, 30.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 8.0


@dataclass(frozen=True)
class Call:
    """One request; `what` says in messages what it is for, as in `create trainjobs.trainer.kubeflow.org a in namespace b`."""

    method: str
    path: str
    what: str
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    body: Document | None = None
    media_type: str = "application/json"

    @property
    def target(self) -> str:
        """Path and query."""
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path


@dataclass(frozen=True)
class Answer:
    """What came back, whole."""

    status: int
    content: bytes

    @property
    def text(self) -> str:
        """The body; bytes that are no UTF-8 are replaced (logs hold anything)."""
        return self.content.decode("utf-8", errors="replace")

    @property
    def document(self) -> Document:
        """The body as a JSON object; empty where it is something else, as the text a proxy or a missing path is answered with."""
        try:
            parsed = json.loads(self.content)
        except ValueError:
            return {}
        return cast("Document", parsed) if isinstance(parsed, dict) else {}

    @property
    def message(self) -> str:
        """The server's own words."""
        return str(self.document.get("message") or self.text[:500].strip() or "no message")


class Transport:
    """A connection pool and the credentials; threads may share it.

    Args:
        credentials: opened here, and again after a 401.
        budget_seconds: for how long one call is repeated before ClusterError is raised.
        read_seconds: for how long one answer is waited for.
    """

    def __init__(self, credentials: Credentials, budget_seconds: float, read_seconds: float = READ_SECONDS) -> None:
        self.credentials = credentials
        self.budget_seconds = budget_seconds
        self._read_seconds = read_seconds
        self._lock = threading.Lock()
        self._is_closed = False
        self._client = credentials.open_client()

    def close(self) -> None:
        """Close idle connections; a call that still waits for an answer in another thread is not repeated."""
        self._is_closed = True
        self._client.rest_client.pool_manager.clear()

    def send(self, call: Call, *, budget_seconds: float | None = None) -> Answer:
        """The answer, of whatever status, unless repeating may help and time is left.

        Raises:
            ClusterError: no answer, or only temporary refusals, for `budget_seconds`.
        """
        response = self._repeat(call, self._read_seconds, True, self.budget_seconds if budget_seconds is None else budget_seconds)
        return Answer(response.status, response.data)

    def lines(self, call: Call, idle_seconds: float) -> Iterator[bytes]:
        """Lines of a streamed answer as they come; ends when the server ends it, it breaks, or nothing came for `idle_seconds`.

        Raises:
            RefusedError: the status is not 200.
            ClusterError: as `send`.
        """
        try:
            response = self._repeat(call, idle_seconds, False, self.budget_seconds)
        except ReadTimeoutError:
            return
        try:
            if response.status != 200:
                raise RefusedError(Answer(response.status, response.data))
            rest = b""
            for chunk in response.stream():
                *whole, rest = (rest + chunk).split(b"\n")
                yield from whole
        except HTTPError:
            return  # broken or idle: whoever follows the stream takes it up again
        finally:
            response.close()
            response.release_conn()

    def _repeat(self, call: Call, read_seconds: float, is_whole: bool, budget_seconds: float) -> urllib3.BaseHTTPResponse:
        give_up_at = time.monotonic() + budget_seconds
        pause, has_renewed = FIRST_PAUSE_SECONDS, False
        while True:
            client, wait, status = self._client, 0.0, 0
            try:
                response = _exchange(client, call, read_seconds, is_whole)
            except (HTTPError, ConfigException) as error:
                if isinstance(error, ReadTimeoutError) and not is_whole:
                    raise
                problem = self._explained(error)
            else:
                if response.status == 401 and not has_renewed:
                    has_renewed = True
                    response.drain_conn()
                    self._renew(client)
                    continue
                if response.status not in TEMPORARY:
                    return response
                status, wait = response.status, _retry_after_seconds(response)
                problem = f"HTTP {status}, {Answer(status, response.data).message}"
            wait = max(wait, pause * random.uniform(0.5, 1.0))
            if self._is_closed or time.monotonic() + wait > give_up_at:
                raise ClusterError(
                    f"cannot {call.what}: the API server at {client.configuration.host} did not answer properly for {budget_seconds:g} s, "
                    f"last: {problem}; see that it is up and reachable from here (`kubectl get --raw /readyz`), then run this again",
                    status,
                )
            time.sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _renew(self, refused: ApiClient) -> None:
        with self._lock:
            if self._client is refused:  # else another thread was faster
                self._client = self.credentials.open_client()
                refused.rest_client.pool_manager.clear()

    def _explained(self, error: Exception) -> str:
        if isinstance(error, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise ClusterError(
                f"the certificate of the API server at {self._client.configuration.host} is not signed by the authority named in "
                f"{self.credentials.origin}: {error}; take the kubeconfig (or ca.crt) of this cluster"
            ) from error
        return f"{type(error).__name__}: {error}"


class RefusedError(Exception):
    """A stream was answered with a status other than 200; never leaves this package."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.message)
        self.answer = answer


def _exchange(client: ApiClient, call: Call, read_seconds: float, is_whole: bool) -> urllib3.BaseHTTPResponse:
    """One attempt, with the retries and redirects of urllib3 off: those here know the API better."""
    headers = {"Accept": "application/json, */*", "User-Agent": "stablerep"}
    if call.body is not None:
        headers["Content-Type"] = call.media_type
    if authorization := client.configuration.get_api_key_with_prefix("authorization"):
        headers["Authorization"] = str(authorization).strip()  # a token file may end with a newline
    pool = cast("urllib3.PoolManager", client.rest_client.pool_manager)
    return pool.request(
        call.method,
        f"{client.configuration.host}{call.target}",
        body=None if call.body is None else json.dumps(call.body).encode(),
        headers=headers,
        preload_content=is_whole,
        timeout=urllib3.Timeout(connect=min(CONNECT_SECONDS, read_seconds), read=read_seconds),
        retries=False,
    )


def _retry_after_seconds(response: Any) -> float:
    text = str(response.headers.get("Retry-After", ""))
    return float(text) if text.isdigit() else 0.0
