"""The job as plain data, and what a backend must be able to do with it.

A job is one Python module run by `num_processes` processes over `num_nodes` nodes, with text arguments and environment variables. It
names no scheduler: `stablerep.integrations.torchx_app` turns it into a TorchX AppDef, and other back ends into their documents. It
deliberately holds no secrets; credentials come from the environment of the node.
"""

import re
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from stablerep.errors import ConfigError
from stablerep.records import Record

MAX_NAME_LENGTH = 40
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


@dataclass(frozen=True)
class TrainingJob(Record):
    """A distributed job: `python -m module arguments...` in `num_processes` processes under torchrun."""

    name: str  # an RFC 1123 label of at most 40 characters, derived from what is run: a retried launcher finds the same job
    module: str
    arguments: tuple[str, ...]
    num_processes: int  # over all nodes
    num_nodes: int = 1
    gpus_per_node: int = 0
    cpus_per_node: int = 2
    memory_mib_per_node: int = 4096
    image: str = ""  # ignored by local back ends
    environment: dict[str, str] = field(default_factory=dict[str, str])
    timeout_seconds: int = 604_800

    def __post_init__(self) -> None:
        """Check the name and the processes.

        Raises:
            ConfigError: the name is no RFC 1123 label of at most 40 characters, or the processes do not fill the nodes evenly.
        """
        if not _NAME.fullmatch(self.name) or len(self.name) > MAX_NAME_LENGTH:
            raise ConfigError(
                f"job name: expected at most {MAX_NAME_LENGTH} of a-z, 0-9 and '-', starting with a letter, found {self.name!r}"
            )
        if self.num_nodes < 1 or self.num_processes < 1 or self.num_processes % self.num_nodes:
            raise ConfigError(f"job {self.name}: expected a multiple of num_nodes={self.num_nodes} processes, found {self.num_processes}")

    @property
    def processes_per_node(self) -> int:
        """Processes that one node runs."""
        return self.num_processes // self.num_nodes


class JobState(Enum):
    """Where a submitted job is."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the job will not change any more."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class Backend(Protocol):
    """Runs jobs somewhere. Handles are opaque text."""

    def describe(self, job: TrainingJob) -> dict[str, Any]:
        """The document that would be submitted, as plain data; nothing is started."""
        ...

    def submit(self, job: TrainingJob, log_folder: Path) -> str:
        """Start the job and return its handle.

        Raises:
            LaunchError: it could not be started.
        """
        ...

    def state(self, handle: str) -> JobState:
        """Where the job is now."""
        ...

    def new_log_lines(self, handle: str) -> list[str]:
        """Whole lines that the processes of the first node wrote since the last call; never waits."""
        ...

    def cancel(self, handle: str) -> None:
        """Stop every process of the job; nothing happens when it has ended."""
        ...


def dry_run(job: TrainingJob, backend: Backend) -> dict[str, Any]:
    """What `backend` would submit for `job`, as plain data: for golden documents and `job.json`."""
    return backend.describe(job)
