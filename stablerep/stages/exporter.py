"""Whether and where this process exports its metrics; read from the environment, for stages and for training processes.

STABLEREP_METRICS_PORT and STABLEREP_METRICS_HOST: a port that is known beforehand, on a cluster. STABLEREP_METRICS_FOLDER: a port of
loopback that is free among those which a file in that folder tells Prometheus (file_sd); `make run` sets it for `make monitor`.
STABLEREP_METRICS_LINGER_SECONDS: how long a process waits at its end for one more scrape, so that its last values are seen; in a folder
it waits only while WATCHED lies there, the sign of a running monitor. A process that cannot export works on without.
"""

import json
import logging
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from stablerep.errors import ConfigError, DataError, PortInUseError
from stablerep.store import Store
from stablerep.telemetry import Sink

log = logging.getLogger("stablerep")

FOLDER_VARIABLE = "STABLEREP_METRICS_FOLDER"
SLOTS_NAME = "slots.json"
WATCHED = "WATCHED"
LOOPBACK = "127.0.0.1"
_NUM_SLOTS = 8
_Opened = TypeVar("_Opened")
_LINGER_IN_FOLDER_SECONDS = 5.0


@dataclass(frozen=True)
class OpenExporter:
    """The sinks of this process, none where it exports nothing; `stop(can_wait)` ends them, with a scrape before where it can wait."""

    sinks: tuple[Sink, ...] = ()
    stop: Callable[[bool], None] = lambda can_wait: None


def open_exporter() -> OpenExporter:
    """Export the metrics of this process where the environment asks for it.

    Raises:
        ConfigError: a variable is no port or no duration.
    """
    port = os.environ.get("STABLEREP_METRICS_PORT", "")
    if not port and not os.environ.get(FOLDER_VARIABLE):
        return OpenExporter()
    if port and (not port.isdigit() or not 0 < int(port) < 65536):
        raise ConfigError(f"STABLEREP_METRICS_PORT: expected a port from 1 to 65535, found {port!r}")
    linger = _linger_seconds()
    folder = None if port else Path(os.environ[FOLDER_VARIABLE])
    from stablerep.integrations.prometheus_sink import Exporter

    try:
        ports = slots(folder) if folder else [int(port)]
        exporter = _first_free(
            ports, lambda port: Exporter(port, os.environ.get("STABLEREP_METRICS_HOST", LOOPBACK) if not folder else LOOPBACK)
        )
    except (PortInUseError, DataError, OSError) as error:  # two lanes on one machine, a full disk: the work matters more
        log.warning("this process exports no metrics: %s", error)
        return OpenExporter()

    def stop(can_wait: bool) -> None:
        is_watched = folder is None or (folder / WATCHED).exists()
        exporter.stop(linger if can_wait and is_watched else 0.0)

    return OpenExporter((exporter.sink,), stop)


def _first_free(ports: Sequence[int], open_at: Callable[[int], _Opened]) -> _Opened:
    for port in ports[:-1]:
        with suppress(PortInUseError):
            return open_at(port)
    return open_at(ports[-1])


def slots(folder: Path) -> list[int]:
    """The ports of loopback that processes of a run take, as Prometheus reads them (file_sd); chosen once for a folder.

    They are told beforehand because Prometheus takes new targets up to five seconds late, and a short stage is over by then.

    Raises:
        DataError: the file is not ours.
    """
    path = folder / SLOTS_NAME
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        targets = [f"{LOOPBACK}:{port}" for port in _free_ports(_NUM_SLOTS)]
        unfinished = folder / f"{SLOTS_NAME}.{os.getpid()}"
        unfinished.write_text(json.dumps([{"targets": targets}]), encoding="utf-8")
        try:
            path.hardlink_to(unfinished)  # whoever is first decides
        except FileExistsError:
            pass
        finally:
            unfinished.unlink()
    try:
        (group,) = json.loads(path.read_text(encoding="utf-8"))
        return [int(target.rpartition(":")[2]) for target in group["targets"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: expected targets of Prometheus, found something else ({error}); delete it") from error


def _free_ports(number: int) -> list[int]:
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [int(each.getsockname()[1]) for each in sockets]


def targets_folder(store: Store, root: Path) -> Path:
    """Where the processes of a run on this machine tell their ports: in the store, or under `root` where the store is elsewhere."""
    return store.local_path("telemetry/targets") or root / "targets"


def _linger_seconds() -> float:
    default = 0.0 if os.environ.get("STABLEREP_METRICS_PORT") else _LINGER_IN_FOLDER_SECONDS
    text = os.environ.get("STABLEREP_METRICS_LINGER_SECONDS", str(default))
    try:
        return max(float(text), 0.0)
    except ValueError as error:
        raise ConfigError(f"STABLEREP_METRICS_LINGER_SECONDS: expected seconds, found {text!r}") from error
