"""KServe's REST server with manners: a limit on requests, answers that say what was wrong, measured requests, a socket of our choice.

kserve 0.21 reads bodies of any size, answers a schema error with 422 and the whole input, and takes its host from nobody.
"""

# pyright: reportUnknownMemberType=false
import asyncio
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, cast

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady, ServerNotReady
from kserve.model_server import app
from kserve.protocol.rest.server import RESTServer

from stablerep.endpoint.meter import Meter, Outcome, Protocol
from stablerep.errors import RequestError
from stablerep.integrations.kserve_page import page_routes

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

KIND_STATUS: dict[type[Exception], int] = {
    InvalidInput: 400,
    ModelNotFound: 404,
    NotImplementedError: 501,
    ModelNotReady: 503,
    ServerNotReady: 503,
}


class EncoderRESTServer(RESTServer):
    """KServe's REST server on a socket that listens already, with our answers to errors."""

    def create_application(self) -> None:
        """Add KServe's routes and handlers, then put ours in the place of those that log a traceback for what a caller did."""
        app.include_router(page_routes(self.dataplane.model_registry))
        super().create_application()
        for kind, status in KIND_STATUS.items():
            app.add_exception_handler(kind, _answering(status))
        app.add_exception_handler(RequestError, _refusal)
        app.add_exception_handler(RequestValidationError, _bad_schema)

    async def serve_on(self, listening: socket.socket, max_request_bytes: int, meter: Meter) -> None:
        """Answer until a signal or `stop`, then let requests in flight finish."""
        app.add_middleware(RequestGate, max_bytes=max_request_bytes, meter=meter)
        self.create_application()
        await self._server.serve(sockets=[listening])

    async def wait_started(self) -> None:
        """Wait until requests are answered, or never will be."""
        while not (self._server.started or self._server.should_exit):
            await asyncio.sleep(0.01)

    def stop(self) -> None:
        """Make `serve_on` return once requests in flight are answered."""
        self._server.should_exit = True


class RequestGate:
    """ASGI middleware: bodies are read up to a limit, inference requests are measured."""

    def __init__(self, application: Application, max_bytes: int, meter: Meter) -> None:
        self._application, self._max_bytes, self._meter = application, max_bytes, meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection scope."""
        protocol = _protocol(scope)
        if protocol is None:
            await self._limited(scope, receive, send)
            return
        with self._meter.request(protocol) as outcome:
            await self._limited(scope, receive, _noting(outcome, send))

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        body = await self._body(receive) if declared.isdigit() and int(declared) <= self._max_bytes else None
        if body is None:
            await _too_large(self._max_bytes)(scope, receive, send)
            return
        pending = [body]

        async def replay() -> Message:
            return {"type": "http.request", "body": pending.pop(), "more_body": False} if pending else await receive()

        await self._application(scope, replay, send)

    async def _body(self, receive: Receive) -> bytes | None:
        """The whole body; None when it is over the limit. The empty body of a caller that went away is refused further down."""
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > self._max_bytes:
                return None
            if not message.get("more_body"):
                return bytes(body)


def _protocol(scope: Scope) -> Protocol | None:
    path = str(scope.get("path", ""))
    if scope["type"] != "http" or scope.get("method") != "POST":
        return None
    return "v1" if path.startswith("/v1/") and path.endswith(":predict") else "v2" if path.endswith("/infer") else None


def _noting(outcome: Outcome, send: Send) -> Send:
    async def noting(message: Message) -> None:
        if message["type"] == "http.response.start":
            outcome.code = str(message["status"])
        await send(message)

    return noting


def _too_large(max_bytes: int) -> JSONResponse:
    return JSONResponse({"error": f"expected a request of at most {max_bytes} bytes, found more; send fewer or smaller images"}, 413)


async def _refusal(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": str(error)}, cast("RequestError", error).http_status)


async def _bad_schema(_: Request, error: Exception) -> JSONResponse:
    errors = cast("RequestValidationError", error).errors()[:3]
    return JSONResponse({"error": "; ".join(f"{'.'.join(str(part) for part in item['loc'][:6])}: {item['msg']}" for item in errors)}, 400)


def _answering(status: int) -> Callable[[Request, Exception], Awaitable[JSONResponse]]:
    async def answer(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status)

    return answer
