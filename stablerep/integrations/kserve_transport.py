"""KServe's server bound where it is told: one encoder over REST and gRPC.

What kserve 0.21 lacks and this adds beside `kserve_rest`: a host to bind (it always takes all interfaces), readiness of the server that
follows the model, metadata that names the model, statuses for our errors, refusal to load or unload models over the network, and a
gRPC port that is refused when taken (gRPC shares ports silently).
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportIncompatibleMethodOverride=false, reportUnknownParameterType=false, reportMissingParameterType=false
import asyncio
import logging
import signal
import socket
import time
from typing import Any, NoReturn, cast

import grpc
from grpc import aio
from kserve import ModelServer
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension

from stablerep import __version__
from stablerep.endpoint.memory import give_back
from stablerep.errors import PortInUseError, RequestError, TimeLimitError
from stablerep.integrations.kserve_gate import RETRY_AFTER_SECONDS, Gate
from stablerep.integrations.kserve_model import EncoderModel
from stablerep.integrations.kserve_rest import KIND_STATUS, EncoderRESTServer

_GRPC_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.FAILED_PRECONDITION,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
_GRPC_OVERHEAD_BYTES = 65_536
_TIDY_SECONDS = 5.0
_OPEN_METHODS = ("/ServerLive", "/ServerReady", "/ModelReady")  # probes need no token


class EncoderServer(ModelServer):
    """One encoder over REST (V1, V2, OpenAI's embeddings) and gRPC (V2).

    Args:
        rest_socket: listens already; its host is where gRPC is bound, too.
        grpc_port: free; 0 takes any.
        gate: limits, tokens and meter of both transports.
        grace_seconds: for requests in flight after SIGTERM.
    """

    def __init__(self, rest_socket: socket.socket, grpc_port: int, gate: Gate, *, grace_seconds: int = 30) -> None:
        host, port = rest_socket.getsockname()[:2]
        super().__init__(http_port=port, grpc_port=grpc_port, enable_latency_logging=False, grace_period=grace_seconds)
        for name in ("uvicorn.access", "kserve.trace"):  # a line or two for every probe; metrics count and time requests
            logging.getLogger(name).setLevel(logging.WARNING)
        self.host = str(host)
        self.dataplane = _EncoderDataPlane(model_registry=self.registered_models)
        self.model_repository_extension = _FixedRepository(model_registry=self.registered_models)
        self._socket, self._gate = rest_socket, gate

    def serve(self, model: EncoderModel, folder_uri: str) -> None:
        """Answer until SIGTERM or SIGINT; the model is loaded meanwhile.

        Raises:
            PortInUseError: the gRPC port is taken.
            StablerepError: the model cannot be loaded.
        """
        self.register_model(model)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _ignore)  # uvicorn's handlers stand in front of these and repeat the signal when done
        asyncio.run(self._serve_until_stopped(model, folder_uri))

    async def _serve_until_stopped(self, model: EncoderModel, folder_uri: str) -> None:
        grpc_server = await self._started_grpc_server()
        rest_server = EncoderRESTServer(
            "kserve.model_server:app", self.dataplane, self.model_repository_extension, self.http_port, grace_period=self.grace_period
        )
        loading = asyncio.create_task(self._load(model, folder_uri, rest_server))
        tidying = asyncio.create_task(self._tidy())
        await rest_server.serve_on(self._socket, self._gate)
        tidying.cancel()
        await grpc_server.stop(self.grace_period)
        await loading
        model.close()

    async def _tidy(self) -> None:
        """Give memory back whenever requests were answered and none is open."""
        num_answered = 0
        while True:
            await asyncio.sleep(_TIDY_SECONDS)
            if self._gate.meter.num_open == 0 and self._gate.meter.num_answered != num_answered:
                num_answered = self._gate.meter.num_answered
                await asyncio.to_thread(give_back)

    async def _load(self, model: EncoderModel, folder_uri: str, rest_server: "EncoderRESTServer") -> None:
        await rest_server.wait_started()
        try:
            await asyncio.to_thread(model.load_folder, folder_uri)
        except BaseException:
            rest_server.stop()
            raise

    async def _started_grpc_server(self) -> aio.Server:
        limit = self._gate.limits.max_request_bytes + _GRPC_OVERHEAD_BYTES
        options = [("grpc.max_send_message_length", limit), ("grpc.max_receive_message_length", limit), ("grpc.so_reuseport", 0)]
        most = self._gate.limits.max_connections
        server = aio.server(interceptors=(_ErrorsToStatus(self._gate),), options=options, maximum_concurrent_rpcs=most)
        servicer = InferenceServicer(self.dataplane, self.model_repository_extension)
        grpc_predict_v2_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
        host = f"[{self.host}]" if ":" in self.host else self.host
        try:
            self.grpc_port = server.add_insecure_port(f"{host}:{self.grpc_port}")
        except RuntimeError as error:
            raise PortInUseError(f"gRPC port: cannot listen on {host}:{self.grpc_port}; choose another port") from error
        await server.start()
        return server


class _EncoderDataPlane(DataPlane):
    """Readiness follows the models, metadata names the model."""

    def metadata(self) -> dict[str, Any]:
        return {"name": "stablerep", "version": __version__, "extensions": ["binary_tensor_data"]}

    async def ready(self) -> bool:
        models = self.model_registry.get_models()
        return bool(models) and all([await self.model_registry.is_model_ready(name) for name in models])

    async def model_metadata(self, model_name: str) -> dict[str, Any]:
        metadata = await super().model_metadata(model_name)
        model = cast("EncoderModel", self.get_model_from_registry(model_name))
        versions = [model.model_id] if model.model_id else []
        return metadata | {"platform": "stablerep", "versions": versions, "parameters": model.facts}


class _FixedRepository(ModelRepositoryExtension):
    """What is served is decided where the server is started, not by a caller."""

    async def load(self, model_name: str) -> NoReturn:
        raise RequestError(f"model {model_name!r}: this server serves one model and loads no other; deploy the other one instead")

    async def unload(self, model_name: str) -> NoReturn:
        raise RequestError(f"model {model_name!r}: this server serves one model and does not unload it; stop the server instead")


class _ErrorsToStatus(ExceptionToStatusInterceptor):
    """Tokens and places of clients are asked for, our errors leave as gRPC statuses, inference calls are measured."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._gate = gate

    async def intercept(self, method: Any, request_or_iterator: Any, context: Any, method_name: str) -> Any:
        if not method_name.endswith("/ModelInfer"):
            return await super().intercept(self._guarded(method, method_name), request_or_iterator, context, method_name)
        started_at = time.perf_counter()
        with self._gate.meter.request("grpc") as outcome:
            try:
                response = await super().intercept(self._guarded(method, method_name), request_or_iterator, context, method_name)
                outcome.code = "OK"
                return response
            except aio.AbortError:
                outcome.code = _code_name(context.code())
                raise
            except asyncio.CancelledError:  # the caller went away, or its deadline passed
                outcome.code = "CANCELLED"
                raise
            finally:
                self._gate.log("grpc", outcome.code, started_at, client=_host(context.peer()))

    def _guarded(self, method: Any, method_name: str) -> Any:
        async def guarded(request: Any, context: Any) -> Any:
            if not method_name.endswith(_OPEN_METHODS):
                self._gate.access.check(dict(context.invocation_metadata() or ()).get("authorization"))
            with self._gate.shares.place(_host(context.peer())):
                return await method(request, context)

        return guarded

    async def handle_exception(self, ex: Exception, request_or_iterator: Any, context: Any, method_name: str) -> None:
        if isinstance(ex, aio.AbortError):
            raise ex
        status = next((KIND_STATUS[kind] for kind in KIND_STATUS if isinstance(ex, kind)), 0)
        if isinstance(ex, RequestError):
            status = ex.http_status
        if status:
            code = grpc.StatusCode.DEADLINE_EXCEEDED if isinstance(ex, TimeLimitError) else _GRPC_CODES[status]
            wait = (("grpc-retry-pushback-ms", str(1000 * RETRY_AFTER_SECONDS)),) if status in (429, 503) else ()
            await context.abort(code, str(ex), wait)
        await super().handle_exception(ex, request_or_iterator, context, method_name)


def _host(peer: str) -> str:
    """Address of a gRPC peer such as `ipv4:127.0.0.1:50000`, without its port, as REST has it."""
    return peer.partition(":")[2].rpartition(":")[0].strip("[]").replace("%5B", "").replace("%5D", "") or peer


def _code_name(code: Any) -> str:
    names = {status.value[0]: status.name for status in grpc.StatusCode}
    return code.name if isinstance(code, grpc.StatusCode) else names.get(code, "UNKNOWN")


def _ignore(number: int, frame: Any) -> None:
    """A signal that has been acted upon."""
