"""KServe's REST server with manners: our gate before it, answers that say what was wrong, a socket of our choice, three routes of our own.

kserve 0.21 answers a schema error with 422 and the whole input, checks V2 bodies on the event loop, turns binary image files into text,
drops metadata that it does not know, and has no `/v1/embeddings` without vLLM. Its other routes are left as they are.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any, cast

import orjson
from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response
from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady, ServerNotReady
from kserve.model_server import app
from kserve.protocol.rest.server import RESTServer

from stablerep.errors import NotReadyError, RequestError
from stablerep.integrations.kserve_gate import Gate, RequestGate, refusal
from stablerep.integrations.kserve_model import EncoderModel
from stablerep.integrations.kserve_page import page_routes
from stablerep.integrations.kserve_protocol import read_v2
from stablerep.integrations.kserve_schema import EMBEDDINGS, INFER, METADATA

KIND_STATUS: dict[type[Exception], int] = {
    InvalidInput: 400,
    ModelNotFound: 404,
    NotImplementedError: 501,
    ModelNotReady: 503,
    ServerNotReady: 503,
}
_BINARY_LENGTH = "inference-header-content-length"


class EncoderRESTServer(RESTServer):
    """KServe's REST server on a socket that listens already, with our answers to errors."""

    def create_application(self) -> None:
        """Add our routes, KServe's (the first one that fits answers), then our handlers in place of those that log a traceback."""
        app.include_router(page_routes(self.dataplane.model_registry))
        router = self._routes()
        app.include_router(router)
        super().create_application()
        app.openapi = _describing(router)
        for kind, status in KIND_STATUS.items():
            app.add_exception_handler(kind, _answering(404 if status == 501 else status))
        app.add_exception_handler(RequestError, _refusal)
        app.add_exception_handler(RequestValidationError, _bad_schema)

    async def serve_on(self, listening: socket.socket, gate: Gate) -> None:
        """Answer until a signal or `stop`, then let requests in flight finish."""
        self.config.limit_concurrency = gate.limits.max_connections
        app.add_middleware(RequestGate, gate=gate)
        self.create_application()
        await self._server.serve(sockets=[listening])

    async def wait_started(self) -> None:
        """Wait until requests are answered, or never will be."""
        while not (self._server.started or self._server.should_exit):
            await asyncio.sleep(0.01)

    def stop(self) -> None:
        """Make `serve_on` return once requests in flight are answered."""
        self._server.should_exit = True

    def _routes(self) -> APIRouter:
        router = APIRouter()
        router.add_api_route("/v1/embeddings", self._embeddings, methods=["POST"], tags=["OpenAI"], response_model=None, **EMBEDDINGS)
        infer = "/v2/models/{model_name}/infer"
        router.add_api_route(infer, self._infer, methods=["POST"], tags=["V2"], response_model=None, **INFER)
        router.add_api_route("/v2/models/{model_name}", self._metadata, methods=["GET"], tags=["V2"], response_model=None, **METADATA)
        return router

    async def _embeddings(self, request: Request) -> Response:
        """Embed images and texts, in OpenAI's shape."""
        model = next(iter(self.dataplane.model_registry.get_models().values()))
        answer = await cast("EncoderModel", model).embeddings(await request.body())
        return Response(orjson.dumps(answer), media_type="application/json")

    async def _infer(self, request: Request, model_name: str) -> Response:
        """Embed images: V2, as JSON or in the binary extension."""
        model = self._model(model_name)
        body, length = await request.body(), request.headers.get(_BINARY_LENGTH)
        asked = await model.off_loop(lambda: read_v2(body, length, model_name))
        headers = dict(request.headers)
        response, _ = await self.dataplane.infer(model_name=model_name, request=asked, headers=headers)
        content, answered = self.dataplane.encode(model_name, response, headers, {})
        if isinstance(content, bytes):
            return Response(content, headers=answered, media_type="application/octet-stream")
        return Response(orjson.dumps(content), headers=answered, media_type="application/json")

    async def _metadata(self, model_name: str) -> Any:
        """What is served: tensors, and under `parameters` how images are prepared, the id, the lineage."""
        return await self.dataplane.model_metadata(model_name)

    def _model(self, name: str) -> EncoderModel:
        model = self.dataplane.model_registry.get_model(name)
        if model is None:
            raise ModelNotFound(name)
        if not model.ready:
            raise NotReadyError(f"model {name!r} is loading; send the request again in a moment")
        return cast("EncoderModel", model)


def _describing(router: APIRouter) -> Callable[[], dict[str, Any]]:
    """`app.openapi` with the routes of `router` as they are: of two with one path FastAPI describes the last, and the first answers."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        for path, methods in get_openapi(title=app.title, version=app.version, routes=router.routes)["paths"].items():
            document["paths"].setdefault(path, {}).update(methods)
        return document

    return openapi


async def _refusal(_: Request, error: Exception) -> JSONResponse:
    return refusal(cast("RequestError", error))


async def _bad_schema(_: Request, error: Exception) -> JSONResponse:
    errors = cast("RequestValidationError", error).errors()[:3]
    return JSONResponse({"error": "; ".join(f"{'.'.join(str(part) for part in item['loc'][:6])}: {item['msg']}" for item in errors)}, 400)


def _answering(status: int) -> Callable[[Request, Exception], Awaitable[JSONResponse]]:
    async def answer(_: Request, error: Exception) -> JSONResponse:
        if status == 503:
            return refusal(NotReadyError(str(error)))
        return JSONResponse({"error": str(error)}, status)

    return answer
