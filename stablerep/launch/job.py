"""The job as plain data, and what a backend must be able to do with it.

A job is one Python module run by `num_processes` processes over `num_nodes` nodes, with text arguments and environment variables. It
names no scheduler: `stablerep.integrations.torchx_app` turns it into a TorchX AppDef, `torchx_volcano` and `torchx_trainjob` into the
documents of a cluster. It deliberately holds no secrets, only the name of the Secret that becomes the environment of its processes.
"""

import re
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from stablerep.errors import ConfigError
from stablerep.launch.failure import JobFailure
from stablerep.records import Record

MAX_NAME_LENGTH = 40
ATTEMPT_VARIABLE = "STABLEREP_ATTEMPT"  # tells the processes of a job which attempt they are
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


@dataclass(frozen=True)
class Toleration(Record):
    """A taint the pods bear; without a value any value of the key."""

    key: str
    value: str
    effect: str

    @classmethod
    def of(cls, word: str) -> "Toleration":
        """Read `key[=value]:effect`, as `kubectl taint` writes it."""
        taint, _, effect = word.rpartition(":")
        key, _, value = taint.partition("=")
        return cls(key, value, effect)

    def document(self) -> dict[str, str]:
        """As it stands in a pod."""
        value = {"operator": "Equal", "value": self.value} if self.value else {"operator": "Exists"}
        return {"key": self.key, **value, "effect": self.effect}


@dataclass(frozen=True)
class Placement(Record):
    """What only a cluster needs to know; back ends on this machine ignore it."""

    runtime: str = ""  # TrainingRuntime
    queue: str = ""
    priority_class: str = ""
    service_account: str = ""
    store_secret: str = ""  # Secret and ConfigMap of this name become environment variables, where they exist
    gpu_resource: str = "nvidia.com/gpu"
    shared_memory_mib: int = 1024  # of a node
    node_selector: dict[str, str] = field(default_factory=dict[str, str])
    tolerations: tuple[Toleration, ...] = ()
    labels: dict[str, str] = field(default_factory=dict[str, str])
    grace_seconds: int = 120  # between SIGTERM and SIGKILL


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
    placement: Placement = field(default_factory=Placement)
    attempt: str = ""  # becomes STABLEREP_ATTEMPT: whose progress and failure these are; decides nothing of what is run

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

    QUEUED = "queued"  # suspended, or without a place
    PENDING = "pending"  # has a place: images are pulled, containers started
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"  # or deleted

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

    def situation(self, handle: str) -> str:
        """What the scheduler says about a job that does not get on, for a person to read; may be empty."""
        ...

    def failure(self, handle: str) -> JobFailure | None:
        """What is known about a job that failed, beyond its log; ask before `cancel`."""
        ...

    def cancel(self, handle: str) -> None:
        """Stop every process of the job; nothing happens when it has ended."""
        ...


def dry_run(job: TrainingJob, backend: Backend) -> dict[str, Any]:
    """What `backend` would submit for `job`, as plain data: for golden documents and `job.json`."""
    return backend.describe(job)
