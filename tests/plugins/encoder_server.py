"""The real endpoint in a process of its own, for tests that ask it over the network."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stablerep.endpoint.client import Answer, EndpointClient
from stablerep.endpoint.process import free_port

READY_SECONDS = 180


@dataclass(frozen=True)
class Server:
    process: "subprocess.Popen[str]"
    port: int
    grpc_port: int
    folder: Path
    model_id: str
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> EndpointClient:
        return EndpointClient("127.0.0.1", self.port, "stablerep")

    def post(self, path: str, body: dict[str, Any]) -> Answer:
        with self.client() as client:
            return client.request("POST", path, body)

    def stop(self) -> int:
        """Ask it to end; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def start(folder: Path, model_id: str, log: Path, *options: str) -> Server:
    port, grpc_port = free_port(), free_port()
    where = ["--folder", str(folder), "--port", str(port), "--grpc-port", str(grpc_port)]
    command = [sys.executable, "-m", "stablerep.integrations.kserve_server", *where, *options]
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, text=True)
    return Server(process, port, grpc_port, folder, model_id, log)


def wait_ready(server: Server) -> list[int]:
    """Statuses of the readiness route until it is 200."""
    statuses: list[int] = []
    deadline = time.monotonic() + READY_SECONDS
    while 200 not in statuses:
        assert server.process.poll() is None, server.log.read_text()
        assert time.monotonic() < deadline, server.log.read_text()
        try:
            with server.client() as client:
                statuses.append(client.request("GET", "/v2/models/stablerep/ready").status)
        except Exception:
            time.sleep(0.05)
    return statuses


@contextmanager
def served(folder: Path, model_id: str, log: Path, *options: str) -> Iterator[Server]:
    """A server that is ready, until the block ends."""
    server = start(folder, model_id, log, *options)
    try:
        wait_ready(server)
        yield server
    finally:
        server.process.kill()
        server.process.wait()
