"""TorchX: a `TrainingJob` as an AppDef of the `dist.torchrun` component, run on this machine by the `local_cwd` scheduler.

A job with an image is for a cluster: `torchx_volcano` and `torchx_trainjob` make their documents of the same AppDef. Here TorchX
starts `torchrun` through bash; torchrun starts one Python process per rank. The folder of this interpreter goes first in PATH (torchrun
lives there) and the folder of `stablerep` in PYTHONPATH, so an unactivated virtual environment works. A single node takes a free
rendezvous port at each launch. https://meta-pytorch.org/torchx/latest/
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import logging
import os
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from torchx.components import dist
from torchx.runner import Runner, get_runner
from torchx.specs import AppDef, AppState

from stablerep.errors import LaunchError
from stablerep.launch import ATTEMPT_VARIABLE, JobFailure, JobState, TrainingJob

NODE_COMMAND = ("python", "-m", "stablerep.launch.node")
METRICS_PORT = 9090

# All processes are on this machine: rendezvous and gloo need no host name and no network but the loopback.
_LOOPBACK = {"PET_LOCAL_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo"}
_STATES = {
    AppState.SUCCEEDED: JobState.SUCCEEDED,
    AppState.FAILED: JobState.FAILED,
    AppState.CANCELLED: JobState.CANCELLED,
    AppState.RUNNING: JobState.RUNNING,
}


def app_def(job: TrainingJob) -> AppDef:
    """The AppDef of a job: one role, one replica a node, torchrun inside.

    In an image torchrun is `stablerep.launch.node`, which keeps exit codes, and several nodes meet by their numbers (static rendezvous), so
    that rank 0 is on the first node, whose log is the one to read.
    """
    app = dist.torchrun(
        *job.arguments,
        m=job.module,
        name=f"stablerep/{job.name}",
        image=job.image or "local",
        cpu=job.cpus_per_node,
        gpu=job.gpus_per_node,
        memMB=job.memory_mib_per_node,
        j=f"{job.num_nodes}x{job.processes_per_node}",
        rdzv_backend="static" if job.image and job.num_nodes > 1 else "c10d",
        env={"LOGLEVEL": "WARNING", **job.environment, **({ATTEMPT_VARIABLE: job.attempt} if job.attempt else {})},
    )
    if job.image:
        role = app.roles[0]
        role.name = "node"
        role.args = ["-c", f"exec {' '.join(NODE_COMMAND)} {role.args[1].removeprefix('torchrun ')}"]
        role.port_map = {**role.port_map, "metrics": METRICS_PORT}
    return app


def describe(job: TrainingJob) -> dict[str, Any]:
    """The AppDef of a job as plain data."""
    app = app_def(job)
    role = app.roles[0]
    plain = {
        "name": role.name,
        "image": role.image,
        "entrypoint": role.entrypoint,
        "args": list(role.args),
        "env": dict(role.env),
        "num_replicas": role.num_replicas,
        "max_retries": role.max_retries,
        "port_map": dict(role.port_map),
        "resource": {"cpu": role.resource.cpu, "gpu": role.resource.gpu, "memMB": role.resource.memMB},
    }
    return {"name": app.name, "metadata": dict(app.metadata), "roles": [plain]}


class TorchxLocal:
    """Backend on this machine. Use it as a context manager: leaving it ends every job it still runs."""

    def __init__(self) -> None:
        # TorchX installs its own handlers for SIGTERM and SIGINT when its scheduler is made; the stage's must stay.
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        logging.getLogger("torchx-events-null").setLevel(logging.ERROR)  # an event for every look at a job
        self._runner: Runner = get_runner()
        self._runner.scheduler_run_opts("local_cwd")
        self._logs: dict[str, _LogFile] = {}
        with suppress(ValueError):  # not in the main thread: nothing was replaced
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def __enter__(self) -> "TorchxLocal":
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.close()

    def describe(self, job: TrainingJob) -> dict[str, Any]:
        """The AppDef as plain data."""
        return describe(job)

    def submit(self, job: TrainingJob, log_folder: Path) -> str:
        """Start the job here, whatever `num_nodes` says about other machines.

        Raises:
            LaunchError: more than one node was asked for, or TorchX could not start the process.
        """
        if job.num_nodes != 1:
            raise LaunchError(f"job {job.name}: the local backend runs one node, found num_nodes={job.num_nodes}; set pretrain.num_nodes=1")
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        package = str(Path(__file__).parents[2])
        python_path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
        here = {"PATH": path, "PYTHONPATH": python_path, **_LOOPBACK}
        app = app_def(replace(job, environment={**here, **job.environment}))
        try:
            handle = str(self._runner.run(app, scheduler="local_cwd", cfg={"log_dir": str(log_folder)}))
        except OSError as error:
            raise LaunchError(f"job {job.name}: TorchX could not start it: {error}; check that bash and torchrun can be run") from error
        self._logs[handle] = _LogFile(log_folder)
        return handle

    def state(self, handle: str) -> JobState:
        """Ask TorchX."""
        status = self._runner.status(handle)
        return _STATES.get(status.state, JobState.QUEUED) if status else JobState.CANCELLED

    def new_log_lines(self, handle: str) -> list[str]:
        """What both streams of all ranks gained; torchrun prefixes a rank's lines with `[rank]:`."""
        return self._logs[handle].new_lines()

    def situation(self, handle: str) -> str:
        """Nothing: no scheduler stands between this job and its processes."""
        return ""

    def failure(self, handle: str) -> JobFailure | None:
        """None: what there is to know is in the log."""
        return None

    def cancel(self, handle: str) -> None:
        """SIGTERM to torchrun, which ends its processes; SIGKILL after ten seconds."""
        if not self.state(handle).is_final:
            self._runner.cancel(handle)


class _LogFile:
    """Reads what a growing log file gained, in whole lines."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._size_bytes = 0
        self._rest = b""

    def new_lines(self) -> list[str]:
        for path in self._folder.glob("*/*/*/0/combined.log"):  # session, job, role, replica: one of each
            with path.open("rb") as stream:
                stream.seek(self._size_bytes)
                data = stream.read()
            self._size_bytes += len(data)
            *lines, self._rest = (self._rest + data).split(b"\n")
            return [line.decode("utf-8", errors="replace").rstrip("\r") for line in lines]
        return []
