"""Whether and where this process exports its metrics; read from the environment, for stages and for training processes.

STABLEREP_METRICS_PORT and STABLEREP_METRICS_HOST: a port that is known beforehand, on a cluster. STABLEREP_METRICS_FOLDER: any free
port of loopback, told to Prometheus by a file in that folder (file_sd) while the process works; `make run` sets it for `make monitor`.
STABLEREP_METRICS_LINGER_SECONDS: how long a process waits at its end for one more scrape, so that its last values are seen; in a folder
it waits only while WATCHED lies there, the sign of a running monitor. A process that cannot export works on without.
"""

import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stablerep.errors import ConfigError, PortInUseError
from stablerep.store import Store
from stablerep.telemetry import Sink

log = logging.getLogger("stablerep")

FOLDER_VARIABLE = "STABLEREP_METRICS_FOLDER"
WATCHED = "WATCHED"
_LINGER_IN_FOLDER_SECONDS = 5.0


@dataclass(frozen=True)
class OpenExporter:
    """The sinks of this process, none where it exports nothing; `stop(can_wait)` ends them, with a scrape before where it can wait."""

    sinks: tuple[Sink, ...] = ()
    stop: Callable[[bool], None] = lambda can_wait: None


def open_exporter(name: str) -> OpenExporter:
    """Export the metrics of this process where the environment asks for it.

    Args:
        name: of the process, for the label `task` of its target.

    Raises:
        ConfigError: a variable is no port or no duration.
    """
    port, folder = os.environ.get("STABLEREP_METRICS_PORT", ""), os.environ.get(FOLDER_VARIABLE, "")
    if not port and not folder:
        return OpenExporter()
    if port and (not port.isdigit() or not 0 < int(port) < 65536):
        raise ConfigError(f"STABLEREP_METRICS_PORT: expected a port from 1 to 65535, found {port!r}")
    linger = _linger_seconds()
    from stablerep.integrations.prometheus_sink import Exporter

    try:
        exporter = Exporter(int(port or 0), os.environ.get("STABLEREP_METRICS_HOST", "127.0.0.1") if port else "127.0.0.1")
        target = None if port else _announce(Path(folder), name, exporter.port)
    except (PortInUseError, OSError) as error:  # two lanes on one machine, a full disk: the work matters more
        log.warning("this stage exports no metrics: %s", error)
        return OpenExporter()

    def stop(can_wait: bool) -> None:
        is_watched = target is None or (target.parent / WATCHED).exists()
        exporter.stop(linger if can_wait and is_watched else 0.0)
        if target:
            target.unlink(missing_ok=True)

    return OpenExporter((exporter.sink,), stop)


def _announce(folder: Path, name: str, port: int) -> Path:
    """Write the target for Prometheus, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}-{os.getpid()}.json"
    unfinished = target.with_suffix(".unfinished")
    unfinished.write_text(json.dumps([{"targets": [f"127.0.0.1:{port}"], "labels": {"task": name}}]), encoding="utf-8")
    unfinished.replace(target)
    return target


def targets_folder(store: Store, root: Path) -> Path:
    """Where the processes of a run on this machine tell their ports: in the store, or under `root` where the store is elsewhere."""
    return store.local_path("telemetry/targets") or root / "targets"


def forget_targets(folder: Path) -> None:
    """Remove targets whose process is gone."""
    for target in folder.glob("*-*.json"):
        number = target.stem.rpartition("-")[2]
        if number.isdigit() and not Path(f"/proc/{number}").exists():
            with suppress(OSError):
                target.unlink()


def _linger_seconds() -> float:
    default = 0.0 if os.environ.get("STABLEREP_METRICS_PORT") else _LINGER_IN_FOLDER_SECONDS
    text = os.environ.get("STABLEREP_METRICS_LINGER_SECONDS", str(default))
    try:
        return max(float(text), 0.0)
    except ValueError as error:
        raise ConfigError(f"STABLEREP_METRICS_LINGER_SECONDS: expected seconds, found {text!r}") from error
