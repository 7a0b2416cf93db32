"""A detached server process on this machine: started, recognised, waited for and stopped by its id.

A process id alone names nothing for long: ids are reused, and stores are shared between machines. A process is therefore its id, the
clock tick at which it started and the boot it belongs to, all read from /proc; only a process that still is that one is ever
signalled. Servers are started in a session of their own, so they outlive the stage that started them.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stablerep.errors import PortInUseError
from stablerep.records import Record

_PROC = Path("/proc")
_START_TICKS_FIELD = 22  # of /proc/<pid>/stat, counted from 1; see proc(5)
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class ProcessRef(Record):
    """One process and no other: `start_ticks` since the boot `boot_id`, on `host`."""

    process_id: int
    start_ticks: int
    boot_id: str
    host: str


def describe(process_id: int) -> ProcessRef | None:
    """The running process with this id on this machine, or None (a zombie does not run)."""
    try:
        state, *rest = (_PROC / str(process_id) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if state in "ZX":
        return None
    return ProcessRef(process_id, int(rest[_START_TICKS_FIELD - 4]), _boot_id(), socket.gethostname())


def is_running(process: ProcessRef) -> bool:
    """Whether exactly this process still runs here."""
    return describe(process.process_id) == process


def start_detached(arguments: Sequence[str], log_path: Path, environment: Mapping[str, str] | None = None) -> ProcessRef:
    """Start `python <arguments>` in its own session, output appended to a file.

    Args:
        arguments: what follows the interpreter.
        log_path: where standard output and error go; the folder is made.
        environment: default: this process's.

    Raises:
        ProcessLookupError: the process ended before it could be looked at.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    process_id = os.posix_spawn(
        sys.executable,
        [sys.executable, *arguments],
        dict(os.environ if environment is None else environment),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log_path), flags, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    process = describe(process_id)
    if process is None:
        raise ProcessLookupError(f"process {process_id} ended at once; see {log_path}")
    return process


def exit_code(process: ProcessRef) -> int | None:
    """The exit code of an ended process that this one started (minus the signal's number when killed), else None."""
    with suppress(ChildProcessError):
        process_id, status = os.waitpid(process.process_id, os.WNOHANG)
        if process_id:
            return os.waitstatus_to_exitcode(status)
    return None


def stop(process: ProcessRef, grace_seconds: float = 40.0) -> bool:
    """Ask a process to end (SIGTERM), then make it (SIGKILL).

    Returns:
        Whether it ended by itself, or was gone already.
    """
    has_ended = _signal(process, signal.SIGTERM, grace_seconds)
    if not has_ended:
        _signal(process, signal.SIGKILL, 10.0)
    exit_code(process)  # leaves no zombie behind where the process was a child of this one
    return has_ended


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on right now."""
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def claim_port(host: str, port: int, purpose: str) -> socket.socket:
    """Listen on a port, so that nobody else can; port 0 takes a free one.

    Raises:
        PortInUseError: another process listens on it, or the address is not this machine's.
    """
    claimed = socket.socket(_family(host), socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio switches Nagle off only where TCP is spelt out
    try:
        claimed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        claimed.bind((host, port))
        claimed.listen(2048)
    except OSError as error:
        claimed.close()
        raise PortInUseError(
            f"{purpose}: cannot listen on {host}:{port} ({error.strerror}); stop what listens there or choose another port"
        ) from error
    return claimed


def _signal(process: ProcessRef, number: signal.Signals, seconds: float) -> bool:
    """Signal a process and wait for its end; whether it ended in time."""
    deadline = time.monotonic() + seconds
    if is_running(process):
        with suppress(ProcessLookupError):
            os.kill(process.process_id, number)
    while is_running(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
