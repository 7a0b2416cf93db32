"""Serve an exported encoder through KServe: `python -m stablerep.integrations.kserve_server --folder build/store/models/<model_id>`.

Binds 127.0.0.1 unless told otherwise (a container passes `--host 0.0.0.0`). Both ports are taken before the model is loaded. Until a
warm-up forward has run, readiness and inference answer 503. SIGTERM lets requests in flight finish. Ends with the exit code of the
error (stablerep.errors), 6 for a taken port. `--check` loads and warms up, and serves nothing.
"""

import argparse
import dataclasses
import logging
import sys
import warnings
from collections.abc import Sequence
from typing import cast

from stablerep.endpoint.limits import Limits
from stablerep.endpoint.process import claim_port
from stablerep.errors import StablerepError

log = logging.getLogger("stablerep")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    limits = Limits(**{field.name: cast("int", getattr(options, field.name)) for field in dataclasses.fields(Limits)})
    warnings.filterwarnings("ignore", message=".*ORJSONResponse is deprecated|.*decompression bomb")  # KServe's use; Limits refuses bombs
    try:
        if options.check:
            from stablerep.integrations.kserve_model import load_predictor

            log.info("loaded %s: %s", options.folder, load_predictor(options.folder, limits).model_id)
        else:
            serve(options.folder, options.name, options.host, options.port, options.grpc_port, limits)
        return 0
    except StablerepError as error:
        log.error("%s: %s", type(error).__name__, error)
        return error.exit_code


def serve(folder_uri: str, name: str, host: str, port: int, grpc_port: int, limits: Limits) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        folder_uri: path or store URI of `models/<model_id>`.
        name: of the model in the paths.
        host: address to bind.
        port: of REST; 0 takes any free one.
        grpc_port: of gRPC; 0 takes any free one.
        limits: what a caller may send.

    Raises:
        PortInUseError: a port is taken.
        CheckpointError: the folder is incomplete or damaged.
    """
    rest_socket = claim_port(host, port, "REST port")
    claim_port(host, grpc_port, "gRPC port").close()
    log.info("%s: http://%s:%d, gRPC port %s; loading %s", name, host, rest_socket.getsockname()[1], grpc_port or "any", folder_uri)

    from stablerep.endpoint.meter import Meter  # torch, kserve and prometheus_client take seconds: the ports are ours by now
    from stablerep.integrations.kserve_model import EncoderModel
    from stablerep.integrations.kserve_transport import EncoderServer
    from stablerep.integrations.prometheus_sink import PrometheusSink
    from stablerep.telemetry import Reporter

    meter = Meter(Reporter("serve", (PrometheusSink(prefix="stablerep_endpoint_"),)))
    model = EncoderModel(name, limits, meter)
    server = EncoderServer(rest_socket, grpc_port, max_request_bytes=limits.max_request_bytes, meter=meter)
    server.serve(model, folder_uri)
    log.info("stopped; requests in flight were answered")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stablerep.integrations.kserve_server", description="Serve an exported encoder.")
    parser.add_argument("--folder", required=True, help="path or store URI of models/<model_id>")
    parser.add_argument("--name", default="stablerep", help="of the model in the paths (default: stablerep)")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (default: 127.0.0.1; 0.0.0.0 in a container)")
    parser.add_argument("--port", type=int, default=8080, help="REST port, 0: any free one (default: 8080)")
    parser.add_argument("--grpc-port", type=int, default=8081, help="gRPC port, 0: any free one (default: 8081)")
    parser.add_argument("--check", action="store_true", help="load and warm up, serve nothing")
    for field in dataclasses.fields(Limits):
        option = "--" + field.name.replace("_", "-")
        parser.add_argument(option, type=int, default=field.default, help=f"limit (default: {field.default})")
    return parser


if __name__ == "__main__":
    sys.exit(main())
