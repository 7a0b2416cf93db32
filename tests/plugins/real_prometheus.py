"""A real Prometheus beside a real run, as `make monitor` starts it, and what it knows afterwards."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

PROJECT = Path(__file__).resolve().parents[2]


@contextmanager
def monitored(root: Path) -> Iterator[str]:
    """`make monitor` on a run's folder; yields the URL that it prints."""
    command = [sys.executable, "-m", "manifests.monitoring.monitor", "--root", str(root), "--port", "0"]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout
    try:
        line = process.stdout.readline()
        assert line.startswith("Prometheus: http://127.0.0.1:"), line
        yield line.split()[1]
        children = psutil.Process(process.pid).children(recursive=True)
        listening = [c.laddr.ip for child in children for c in _connections(child) if c.status == psutil.CONN_LISTEN]
        assert listening, "Prometheus listens nowhere"
        assert set(listening) == {"127.0.0.1"}
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=120)
        process.stdout.close()
        assert code == 0
        assert not (root / "store" / "telemetry" / "targets" / "WATCHED").exists()


def ask(url: str, path: str, **arguments: object) -> Any:
    """One request of Prometheus's API."""
    with urllib.request.urlopen(f"{url}/api/v1/{path}?{urllib.parse.urlencode(arguments)}", timeout=60) as answer:
        return json.loads(answer.read())["data"]


def has_data(url: str, query: str, since: float) -> bool:
    """Whether a panel with this query, opened now on the time of the run, shows a number."""
    step = max(1, round((time.time() - since) / 5000))
    series = ask(url, "query_range", query=query, start=since, end=time.time(), step=step)["result"]
    return any(value not in ("NaN", "+Inf", "-Inf") for each in series for _, value in each["values"])


def _connections(process: psutil.Process) -> list[Any]:
    """Its internet sockets, by the name that this psutil has for them."""
    found: Any = getattr(process, "net_connections", None) or process.connections
    return found("inet")
