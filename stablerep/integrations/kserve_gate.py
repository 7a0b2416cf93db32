"""What stands before KServe's REST routes: the token, a place for the client, the body read up to limits, measured and logged requests.

Raw ASGI: kserve 0.21 reads bodies of any size at any pace. Nothing of a body is ever logged.
"""

import asyncio
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from fastapi.responses import JSONResponse

from stablerep.endpoint.access import Access, Shares
from stablerep.endpoint.limits import Limits
from stablerep.endpoint.meter import Meter, Outcome, Protocol
from stablerep.errors import RequestError, SlowRequestError, TooLargeError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

RETRY_AFTER_SECONDS = 1
_OPEN = re.compile(r"/|/metrics|/v2/health/(live|ready)|/v2/models/[^/]+/ready|/v1/models/[^/:]+")  # of GET: probes, Prometheus, the page
_PROTOCOLS: tuple[tuple[str, Protocol], ...] = (("/v1/embeddings", "openai"), (":predict", "v1"), ("/infer", "v2"))

log = logging.getLogger("stablerep.requests")


@dataclass(frozen=True)
class Gate:
    """What the gate knows.

    Attributes:
        limits: what may be sent.
        meter: told about inference requests.
        access: tokens.
        is_logging: whether inference requests are logged, without their payload.
        shares: what requests hold, over REST and gRPC.
    """

    limits: Limits
    meter: Meter
    access: Access = field(default_factory=Access)
    is_logging: bool = False
    shares: Shares = field(init=False)

    def __post_init__(self) -> None:
        """Nothing is held yet."""
        object.__setattr__(self, "shares", Shares(self.limits.max_in_flight_per_client, self.limits.max_buffered_bytes))

    def log(self, protocol: Protocol, status: str, started_at: float, **facts: str | int) -> None:
        """One line for an inference request, where lines are wanted; facts are never of its payload."""
        if self.is_logging:
            milliseconds = round(1000 * (time.perf_counter() - started_at), 1)
            log.info("%s", json.dumps({"protocol": protocol, "status": status, "ms": milliseconds, **facts}))


class RequestGate:
    """ASGI middleware: bodies are read up to a limit, inference requests are measured."""

    def __init__(self, application: Application, gate: Gate) -> None:
        self._application, self._gate, self._shares = application, gate, gate.shares

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection scope."""
        protocol = _protocol(scope)
        if protocol is None:
            await self._guarded(scope, receive, send)
            return
        started_at = time.perf_counter()
        with self._gate.meter.request(protocol) as outcome:
            try:
                await self._guarded(scope, receive, _noting(outcome, send))
            finally:
                facts = {"client": _client(scope), "bytes": _declared(scope), "id": _header(scope, b"x-request-id")}
                self._gate.log(protocol, outcome.code, started_at, path=str(scope["path"])[:128], **facts)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        held = [0]
        try:
            if not (scope["method"] in ("GET", "HEAD") and _OPEN.fullmatch(scope["path"])):
                self._gate.access.check(dict(scope["headers"]).get(b"authorization"))
            with self._shares.place(_client(scope)):
                body = [await self._body(scope, receive, held)]

                async def replay() -> Message:
                    return {"type": "http.request", "body": body.pop(), "more_body": False} if body else await receive()

                await self._application(scope, replay, send)
        except RequestError as error:  # raised above only: what the routes raise is answered by their handlers
            await refusal(error)(scope, receive, send)
        finally:
            self._shares.give(held[0])

    async def _body(self, scope: Scope, receive: Receive, held: list[int]) -> bytes:
        """The whole body, while `held[0]` bytes are accounted for. That of a caller that went away is empty and refused further down."""
        limit, seconds = self._gate.limits.max_request_bytes, self._gate.limits.max_body_seconds
        if _declared(scope) > limit:
            raise _too_large(limit)
        body = bytearray()
        try:
            async with asyncio.timeout(seconds):
                while True:
                    message = await receive()
                    chunk = message.get("body", b"")
                    if len(body) + len(chunk) > limit:
                        raise _too_large(limit)
                    self._shares.take(len(chunk))
                    held[0] += len(chunk)
                    body += chunk
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError as error:
            raise SlowRequestError(f"expected the whole request within {seconds} s, found {len(body)} bytes; send it faster") from error


def refusal(error: RequestError) -> JSONResponse:
    """The answer to a request that is refused: what was wrong, and for refusals that pass when to come back."""
    headers: dict[str, str] = {}
    if error.is_retryable:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if error.http_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, SlowRequestError):
        headers["Connection"] = "close"  # the rest of the body would be read as the next request
    return JSONResponse({"error": str(error)}, error.http_status, headers)


def _too_large(max_bytes: int) -> TooLargeError:
    return TooLargeError(f"expected a request of at most {max_bytes} bytes, found more; send fewer or smaller images")


def _protocol(scope: Scope) -> Protocol | None:
    if scope["type"] != "http" or scope.get("method") != "POST":
        return None
    path = str(scope.get("path", ""))
    return next((protocol for end, protocol in _PROTOCOLS if path.endswith(end)), None)


def _declared(scope: Scope) -> int:
    text = _header(scope, b"content-length")
    return int(text) if text.isdecimal() else 0


def _header(scope: Scope, name: bytes) -> str:
    return dict(scope["headers"]).get(name, b"").decode("latin-1")[:128]


def _client(scope: Scope) -> str:
    return str((scope.get("client") or ("unknown",))[0])


def _noting(outcome: Outcome, send: Send) -> Send:
    async def noting(message: Message) -> None:
        if message["type"] == "http.response.start":
            outcome.code = str(message["status"])
        await send(message)

    return noting
