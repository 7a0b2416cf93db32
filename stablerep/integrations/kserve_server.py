"""Serve an exported encoder through KServe: `python -m stablerep.integrations.kserve_server --folder build/store/models/<model_id>`.

Binds 127.0.0.1 unless told otherwise (a container passes `--host 0.0.0.0`). Both ports are taken before the model is loaded. Until a
warm-up forward has run, readiness and inference answer 503. SIGTERM lets requests in flight finish. Ends with the exit code of the
error (stablerep.errors), 6 for a taken port. `--check` loads and warms up, and serves nothing.
"""

import argparse
import dataclasses
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from stablerep.endpoint.access import TOKEN_VARIABLE, Access, read_tokens
from stablerep.endpoint.limits import Limits
from stablerep.endpoint.process import claim_port
from stablerep.errors import StablerepError

if TYPE_CHECKING:
    from stablerep.endpoint.compute import Compute

log = logging.getLogger("stablerep")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    limits = Limits(**{field.name: cast("int", getattr(options, field.name)) for field in dataclasses.fields(Limits)})
    warnings.filterwarnings("ignore", message=".*ORJSONResponse is deprecated|.*decompression bomb")  # KServe's use; Limits refuses bombs
    try:
        access = Access(read_tokens(options.token_file, os.environ.get(TOKEN_VARIABLE, "")))
        if options.check:
            from stablerep.integrations.kserve_model import load_predictor

            log.info("loaded %s: %s", options.folder, load_predictor(options.folder, limits, _compute(options)).model_id)
        else:
            serve(options, limits, access)
        return 0
    except StablerepError as error:
        log.error("%s: %s", type(error).__name__, error)
        return error.exit_code


def serve(options: argparse.Namespace, limits: Limits, access: Access) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        options: of `_parser`.
        limits: what a caller may send.
        access: who may ask.

    Raises:
        PortInUseError: a port is taken.
        CheckpointError: the folder is incomplete or damaged.
    """
    rest_socket = claim_port(options.host, options.port, "REST port")
    claim_port(options.host, options.grpc_port, "gRPC port").close()
    address = f"http://{options.host}:{rest_socket.getsockname()[1]}"
    log.info("%s: %s, gRPC port %s; loading %s", options.name, address, options.grpc_port or "any", options.folder)

    if not options.compile:
        from stablerep.models.light_timm import import_timm_without_compiler

        import_timm_without_compiler()
    from stablerep.endpoint.meter import Meter  # torch, kserve and prometheus_client take seconds: the ports are ours by now
    from stablerep.integrations.kserve_gate import Gate
    from stablerep.integrations.kserve_model import EncoderModel
    from stablerep.integrations.kserve_transport import EncoderServer
    from stablerep.integrations.prometheus_sink import PrometheusSink
    from stablerep.telemetry import Reporter

    meter = Meter(Reporter("serve", (PrometheusSink(prefix="stablerep_endpoint_"),)))
    model = EncoderModel(options.name, limits, meter, _compute(options))
    server = EncoderServer(
        rest_socket, options.grpc_port, Gate(limits, meter, access, is_logging=options.log_requests), grace_seconds=options.grace_seconds
    )
    server.serve(model, options.folder)
    log.info("stopped; requests in flight were answered")


def _compute(options: argparse.Namespace) -> "Compute":
    from stablerep.endpoint.compute import Compute

    return Compute(options.device, options.precision, options.compile, options.cuda_graphs, options.model_workers, options.onnx)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stablerep.integrations.kserve_server", description="Serve an exported encoder.")
    parser.add_argument("--folder", required=True, help="path or store URI of models/<model_id>")
    parser.add_argument("--name", default="stablerep", help="of the model in the paths (default: stablerep)")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (default: 127.0.0.1; 0.0.0.0 in a container)")
    parser.add_argument("--port", type=int, default=8080, help="REST port, 0: any free one (default: 8080)")
    parser.add_argument("--grpc-port", type=int, default=8081, help="gRPC port, 0: any free one (default: 8081)")
    parser.add_argument("--check", action="store_true", help="load and warm up, serve nothing")
    parser.add_argument("--token-file", default="", help=f"one bearer token a line; or one in variable {TOKEN_VARIABLE} (default: none)")
    parser.add_argument("--log-requests", action="store_true", help="a line for each inference request, without its payload")
    parser.add_argument("--grace-seconds", type=int, default=30, help="for requests in flight after SIGTERM (default: 30)")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default: auto)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the model's arithmetic (default: fp32)")
    parser.add_argument("--compile", action="store_true", help="use torch.compile; takes minutes before ready, and a C compiler")
    parser.add_argument("--onnx", action="store_true", help="run the trunk by ONNX Runtime, on a CPU, from the folder's encoder.onnx")
    parser.add_argument("--cuda-graphs", action="store_true", help="record batches on the GPU and replay them")
    parser.add_argument("--model-workers", type=int, default=0, help="threads that run the model (default: 0, one a core, one for a GPU)")
    for field in dataclasses.fields(Limits):
        option, meaning = "--" + field.name.replace("_", "-"), f"limit: {field.metadata['meaning']} (default: {field.default})"
        parser.add_argument(option, type=int, default=field.default, help=meaning)
    return parser


if __name__ == "__main__":
    sys.exit(main())
