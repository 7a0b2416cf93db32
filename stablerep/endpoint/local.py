"""The endpoint on this machine: one named server, started, found again, replaced, rolled back.

`<store>/endpoints/<name>.json` says which process serves which model where; it is written as soon as the process exists, so a stage
that was killed while the server loaded finds it again. What is served is asked from the server itself. Replacing a model first loads
the new one beside the old in a process without a port, then swaps: the port is closed for one start of the server, never for longer,
and when the new server does not come up the old model is served again. On a cluster KServe's rollout does this without a gap.
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from stablerep.endpoint.access import TOKEN_VARIABLE
from stablerep.endpoint.client import EndpointClient
from stablerep.endpoint.limits import Limits
from stablerep.endpoint.process import ProcessRef, claim_port, exit_code, free_port, is_running, start_detached
from stablerep.endpoint.process import stop as stop_process
from stablerep.errors import DataError, LaunchError, PortInUseError
from stablerep.records import Record
from stablerep.store import Store

SERVER_MODULE = "stablerep.integrations.kserve_server"
ENGINE_OPTIONS: dict[str, tuple[str, ...]] = {"torch": (), "torch_compile": ("--compile",), "onnx": ("--onnx",)}
"""`deploy.runtime_engine` -> what the server is told."""

_POLL_SECONDS = 0.1
_TAIL_LINES = 20


@dataclass(frozen=True)
class Served(Record):
    """A model that is or was served: its id and the URI of its folder."""

    model_id: str
    folder_uri: str


@dataclass(frozen=True)
class EndpointState(Record):
    """What `endpoints/<name>.json` holds; `previous` is the last verified model before this one.

    `deployed_process_id` is the process that `deploy` started and told of, where `start_again` has replaced it since; else 0.
    """

    name: str
    served: Served
    is_verified: bool
    previous: Served | None
    host: str
    port: int
    grpc_port: int
    process: ProcessRef
    log_path: str
    deployed_process_id: int = 0
    runtime_engine: str = "torch"
    is_guarded: bool = False  # whether a token is asked for; which one is written nowhere

    @property
    def url(self) -> str:
        """The V1 predict URL."""
        return f"http://{self.host}:{self.port}/v1/models/{self.name}:predict"

    @property
    def is_running(self) -> bool:
        """Whether the server's process runs on this machine."""
        return is_running(self.process)

    def is_deployed_as(self, process_id: int) -> bool:
        """Whether `deploy` told of this server, or of the one that it stands in for, as `process_id`."""
        return process_id in (self.process.process_id, self.deployed_process_id)

    @property
    def grpc_address(self) -> str:
        """Host and port of the V2 gRPC service."""
        return f"{self.host}:{self.grpc_port}"

    def client(self, timeout_seconds: float = 30.0, token: str = "") -> EndpointClient:
        """A client of this endpoint."""
        return EndpointClient(self.host, self.port, self.name, timeout_seconds, token=token)


@dataclass(frozen=True)
class Placement:
    """Where and how a model is to be served; port 0 means any free one, an empty token that none is asked for."""

    name: str
    port: int
    grpc_port: int
    limits: Limits
    host: str = "127.0.0.1"
    ready_timeout_seconds: float = 90.0
    runtime_engine: str = "torch"
    token: str = field(default="", repr=False)


def read_state(store: Store, name: str) -> EndpointState | None:
    """The state file of an endpoint, whether or not its process still runs."""
    key = _key(name)
    return EndpointState.from_json(store.read_text(key)) if store.exists(key) else None


def find(store: Store, name: str, timeout_seconds: float = 90.0, token: str = "") -> EndpointState | None:
    """The endpoint that runs on this machine and serves what its state file says, or None.

    Args:
        store: where the state file is.
        name: of the endpoint.
        timeout_seconds: how long a server that still loads is waited for.
        token: that it asks for.
    """
    state = read_state(store, name)
    if state is None or not is_running(state.process):
        return None
    try:
        _wait(state, timeout_seconds, token)
    except LaunchError:
        return None
    return state


def serve(store: Store, placement: Placement, wanted: Served) -> EndpointState:
    """Have `wanted` served as `placement` says: found as it is, started, or put in the place of another model.

    Raises:
        PortInUseError: another program listens on a port.
        LaunchError: the server did not become ready; what was served before is served again.
    """
    running = find(store, placement.name, placement.ready_timeout_seconds, placement.token)
    if running and running.served.model_id == wanted.model_id and _is_placed(running, placement):
        return running
    state = read_state(store, placement.name)
    previous = _fall_back(state, wanted)
    if running is None:
        stop(store, placement.name)  # a process of ours that hangs
        return _start(store, placement, wanted, previous)
    check_loads(wanted.folder_uri, placement.ready_timeout_seconds, placement.runtime_engine)
    stop_process(running.process)
    try:
        return _start(store, _at_same_ports(placement, running), wanted, previous)
    except LaunchError:
        _start(store, _in_place_of(running, placement), running.served, running.previous, running.is_verified)
        raise


def start_again(store: Store, placement: Placement) -> EndpointState | None:
    """Serve what the state file says once more where it was, when its process is gone: the machine was restarted, or this is another one.

    Returns:
        The endpoint as it is now, None where there is no state file.

    Raises:
        PortInUseError: another program listens on its ports now.
        LaunchError: the server did not become ready.
    """
    state = read_state(store, placement.name)
    if state is None or state.is_running:
        return state
    started = _start(store, _in_place_of(state, placement), state.served, state.previous, state.is_verified)
    started = replace(started, deployed_process_id=state.deployed_process_id or state.process.process_id)
    store.write(_key(placement.name), started.to_json())
    return started


def mark_verified(store: Store, name: str) -> None:
    """Keep in the state file that what is served passed its verification: from now on it is what a failure falls back to."""
    state = read_state(store, name)
    if state is not None:
        store.write(_key(name), replace(state, is_verified=True).to_json())


def roll_back(store: Store, placement: Placement) -> EndpointState | None:
    """Stop the endpoint and serve what it replaced, if anything; returns what is served now."""
    state = read_state(store, placement.name)
    if state is None:
        return None
    stop_process(state.process)
    if state.previous is None:
        store.delete(_key(placement.name))
        return None
    return _start(store, _in_place_of(state, placement), state.previous, previous=None, is_verified=True)


def stop(store: Store, name: str) -> bool:
    """Stop the endpoint if its process runs on this machine; whether there was one."""
    state = read_state(store, name)
    if state is None or not is_running(state.process):
        return False
    stop_process(state.process)
    return True


def serve_foreground(store: Store, placement: Placement, wanted: Served) -> NoReturn:
    """Replace this process by the server; an endpoint of the same name in the background is stopped first.

    Raises:
        PortInUseError: another program listens on a port.
    """
    stop(store, placement.name)
    _check_ports(placement)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *server_arguments(placement, wanted.folder_uri)])


def check_loads(folder_uri: str, timeout_seconds: float, runtime_engine: str = "torch") -> None:
    """Load and warm up a model in a process without a port.

    Raises:
        LaunchError: it does not load.
    """
    command = [sys.executable, "-m", SERVER_MODULE, "--folder", folder_uri, "--check", *ENGINE_OPTIONS[runtime_engine]]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise LaunchError(f"{folder_uri} did not load within {timeout_seconds:.0f} s; raise deploy.ready_timeout_seconds") from error
    if done.returncode:
        raise LaunchError(f"{folder_uri} does not load (exit code {done.returncode}):\n{_last_lines(done.stderr)}")


def server_arguments(placement: Placement, folder_uri: str) -> list[str]:
    """What follows `python` to serve a folder in the foreground."""
    limits = placement.limits
    options: dict[str, object] = {
        "folder": folder_uri,
        "name": placement.name,
        "host": placement.host,
        "port": placement.port,
        "grpc-port": placement.grpc_port,
        "max-image-bytes": limits.max_image_bytes,
        "max-image-pixels": limits.max_image_pixels,
        "max-batch": limits.max_batch,
    }
    return ["-m", SERVER_MODULE, *(f"--{name}={value}" for name, value in options.items()), *ENGINE_OPTIONS[placement.runtime_engine]]


def _fall_back(state: EndpointState | None, wanted: Served) -> Served | None:
    """The last verified model that is not the wanted one."""
    if state is None:
        return None
    known = (state.served if state.is_verified else None, state.previous)
    return next((served for served in known if served and served.model_id != wanted.model_id), None)


def _start(store: Store, placement: Placement, served: Served, previous: Served | None, is_verified: bool = False) -> EndpointState:
    port, grpc_port = (chosen or free_port(placement.host) for chosen in (placement.port, placement.grpc_port))
    placement = replace(placement, port=port, grpc_port=grpc_port)
    _check_ports(placement)
    log_path = store.local_path(f"endpoints/{placement.name}.log") or Path(tempfile.gettempdir()) / f"stablerep-{placement.name}.log"
    environment = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
    if placement.token:
        environment[TOKEN_VARIABLE] = placement.token
    process = start_detached(server_arguments(placement, served.folder_uri), log_path, environment)
    state = EndpointState(
        name=placement.name,
        served=served,
        is_verified=is_verified,
        previous=previous,
        host=placement.host,
        port=port,
        grpc_port=grpc_port,
        process=process,
        log_path=str(log_path),
        runtime_engine=placement.runtime_engine,
        is_guarded=bool(placement.token),
    )
    store.write(_key(placement.name), state.to_json())
    try:
        _wait(state, placement.ready_timeout_seconds, placement.token)
    except LaunchError:
        stop_process(process, grace_seconds=5.0)
        raise
    return state


def _wait(state: EndpointState, timeout_seconds: float, token: str) -> None:
    """Wait until the process of `state` is ready and says that it serves the model of `state`."""
    deadline = time.monotonic() + timeout_seconds
    with state.client(timeout_seconds=5.0, token=token) as client:
        while not client.is_ready():
            if not is_running(state.process):
                raise _ended(state)
            if time.monotonic() > deadline:
                raise LaunchError(
                    f"endpoint {state.name!r} was not ready after {timeout_seconds:.0f} s; raise deploy.ready_timeout_seconds or read "
                    f"{state.log_path}:\n{_tail(state)}"
                )
            time.sleep(_POLL_SECONDS)
        found = client.model_id()
    if found != state.served.model_id:
        raise LaunchError(f"endpoint {state.name!r}: expected model {state.served.model_id}, found {found or 'none'} at {state.url}")


def _ended(state: EndpointState) -> LaunchError:
    code = exit_code(state.process)
    kind = PortInUseError if code == PortInUseError.exit_code else LaunchError
    return kind(f"endpoint {state.name!r} ended before it was ready (exit code {code}); {state.log_path} ends with:\n{_tail(state)}")


def _tail(state: EndpointState) -> str:
    return _last_lines(Path(state.log_path).read_text(encoding="utf-8", errors="replace"))


def _last_lines(text: str) -> str:
    return "\n".join(text.splitlines()[-_TAIL_LINES:])


def _check_ports(placement: Placement) -> None:
    for purpose, port in (("REST port", placement.port), ("gRPC port", placement.grpc_port)):
        claim_port(placement.host, port, purpose).close()


def _is_placed(state: EndpointState, placement: Placement) -> bool:
    wanted = (placement.port or state.port, placement.grpc_port or state.grpc_port)
    is_there = (state.port, state.grpc_port) == wanted and state.host == placement.host
    return is_there and (state.runtime_engine, state.is_guarded) == (placement.runtime_engine, bool(placement.token))


def _at_same_ports(placement: Placement, state: EndpointState) -> Placement:
    """`placement` with the ports of `state` where any port will do."""
    return replace(placement, port=placement.port or state.port, grpc_port=placement.grpc_port or state.grpc_port)


def _in_place_of(state: EndpointState, placement: Placement) -> Placement:
    """`placement` where and how `state` was."""
    return replace(placement, host=state.host, port=state.port, grpc_port=state.grpc_port, runtime_engine=state.runtime_engine)


def _key(name: str) -> str:
    if not name.replace("-", "").isalnum():
        raise DataError(f"endpoint name: expected letters, digits and hyphens, found {name!r}")
    return f"endpoints/{name}.json"
