"""`make monitor`: a Prometheus beside a run on this machine, with the rules of the cluster; before, during or after `make run`.

The tasks of a run tell their ports in `<store>/telemetry/targets` (file_sd), the endpoint in `<store>/endpoints`. Everything listens on
loopback only. Needs the program prometheus (Debian: apt-get install prometheus). Ends with Ctrl-C.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import yaml

from manifests.monitoring.dashboards import RUNS, SERVING, TRAINING
from manifests.monitoring.rules import write_rules
from stablerep.endpoint.local import EndpointState
from stablerep.endpoint.process import claim_port, free_port
from stablerep.errors import ConfigError, LaunchError, StablerepError
from stablerep.launch import stop_signals
from stablerep.stages.exporter import LOOPBACK, WATCHED, slots, targets_folder
from stablerep.store import Store

_READY_SECONDS = 60.0
_LOOK_SECONDS = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until it is interrupted; returns the exit code of `stablerep.errors`."""
    parser = argparse.ArgumentParser(prog="make monitor", description="Watch a run on this machine with Prometheus.")
    parser.add_argument("--root", default="build/run", help="folder of the run: for Prometheus's data (default: build/run)")
    parser.add_argument("--store", default="", help="folder or URI of the results (default: <root>/store)")
    parser.add_argument("--port", type=int, default=9090, help="on loopback, 0: any free one (default: 9090)")
    parser.add_argument("--scrape-seconds", type=int, default=1, help="how often tasks are asked (default: 1)")
    options = parser.parse_args(arguments)
    root = Path(options.root).absolute()
    try:
        monitor(Store(options.store or (root / "store").as_uri()), root, options.port, options.scrape_seconds)
    except StablerepError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return error.exit_code
    return 0


def monitor(store: Store, root: Path, port: int, scrape_seconds: int) -> None:
    """Start Prometheus and keep its targets until SIGINT or SIGTERM.

    Args:
        store: of the run.
        root: folder of the run.
        port: of Prometheus, 0 for any free one.
        scrape_seconds: how often tasks are asked.

    Raises:
        ConfigError: there is no Prometheus on the PATH.
        PortInUseError: the port is taken.
        LaunchError: Prometheus ended.
    """
    program = shutil.which("prometheus")
    if program is None:
        raise ConfigError("expected the program prometheus on the PATH, found none; on Debian or Ubuntu: apt-get install prometheus")
    port = port or free_port(LOOPBACK)
    claim_port(LOOPBACK, port, "port of Prometheus").close()
    targets, folder = targets_folder(store, root), root / "prometheus"
    slots(targets)
    folder.mkdir(parents=True, exist_ok=True)
    configuration = write_configuration(folder, targets, scrape_seconds)
    with (folder / "prometheus.log").open("wb") as log, stop_signals(signal.SIGINT, signal.SIGTERM) as is_stop_asked:
        command = [
            program,
            f"--config.file={configuration}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={LOOPBACK}:{port}",
        ]
        command += ["--scrape.discovery-reload-interval=1s", "--log.level=warn"]
        # In a session of its own: Ctrl-C is for this process, which then ends Prometheus.
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            _wait_until_ready(process, port, folder)
            (targets / WATCHED).touch()
            _say(port)
            while process.poll() is None and not is_stop_asked():
                announce_endpoints(store, targets)
                time.sleep(_LOOK_SECONDS)
            if process.poll() is not None:
                raise LaunchError(f"Prometheus ended with {process.returncode}; its log is {folder / 'prometheus.log'}")
        finally:
            (targets / WATCHED).unlink(missing_ok=True)
            process.terminate()
            process.wait(timeout=60)


def write_configuration(folder: Path, targets: Path, scrape_seconds: int) -> Path:
    """Prometheus's configuration, with the rules beside it.

    Args:
        folder: for both files.
        targets: folder of the files that tell ports.
        scrape_seconds: how often tasks are asked, and rules computed.
    """
    every = f"{scrape_seconds}s"
    content = {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": [str(write_rules(folder / "rules.yml"))],
        "scrape_configs": [  # a port of which nothing is heard belongs to no process at the moment
            {"job_name": "stablerep", "file_sd_configs": [{"files": [f"{targets}/*.json"], "refresh_interval": "1s"}]},
        ],
    }
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def announce_endpoints(store: Store, targets: Path) -> None:
    """One target for every endpoint of the store that runs on this machine; those that do not are taken back."""
    states = [EndpointState.from_json(store.read_text(key)) for key in store.list("endpoints") if key.endswith(".json")]
    running = {f"endpoint-{state.name}.json": state for state in states if state.is_running}
    for path in targets.glob("endpoint-*.json"):
        if path.name not in running:
            path.unlink(missing_ok=True)
    for name, state in running.items():
        text = json.dumps([{"targets": [f"{state.host}:{state.port}"]}])
        if not (targets / name).exists() or (targets / name).read_text(encoding="utf-8") != text:
            (targets / name).write_text(text, encoding="utf-8")


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/-/ready", timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    said = (folder / "prometheus.log").read_text(encoding="utf-8", errors="replace")[-2000:]
    raise LaunchError(f"Prometheus was not ready after {_READY_SECONDS:.0f} s (exit code {process.poll()}):\n{said}")


def _say(port: int) -> None:
    shown = [next(iter(panel.queries.values())) for dashboard in (RUNS, TRAINING, SERVING) for panel in list(dashboard.panels)[:1]]
    lines = [f"Prometheus: http://{LOOPBACK}:{port}  (alerts: http://{LOOPBACK}:{port}/alerts; Ctrl-C ends it)", "ask it, for example:"]
    lines += ["  " + query.replace('{namespace=~"$namespace"}', "") for query in shown]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
