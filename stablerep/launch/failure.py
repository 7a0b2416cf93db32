"""Why a job on a cluster failed: what each pod left, and what follows from all of them together.

When one pod fails, its peers fail after it and the scheduler ends the rest with SIGTERM; the first cause must be found among them.
Memory and exit codes 2 to 5 name a cause wherever they stand. Else a pod that its node lost or threw out explains the others. Else the
pod that ended first does.
"""

from dataclasses import dataclass
from enum import Enum

from stablerep.errors import CheckpointError, ConfigError, DataError, DivergenceError, LaunchError, Preempted, StablerepError

_SIGKILL_CODE, _SIGTERM_CODE = 137, 143
_CLASSES = {cls.exit_code: cls for cls in (ConfigError, DataError, CheckpointError, DivergenceError)}
# Of a pod: the node or the cluster ended it, not its program.
_DISRUPTIONS = frozenset(
    ("Evicted", "Preempting", "NodeShutdown", "NodeLost", "NodeAffinity", "Shutdown", "Terminated", "ContainerStatusUnknown")
)
_OWN_DISK = ("exceeds the limit", "exceeded its local ephemeral storage limit", "exceeds the total limit of containers")


class Cause(Enum):
    """Why a pod ended."""

    MEMORY = "out of memory"
    DISK = "out of local disk"
    PROGRAM = "an error of the program"
    DISRUPTED = "taken from its node"
    SAVED = "stopped after a checkpoint"
    TERMINATED = "ended by SIGTERM"
    UNKNOWN = "an unexpected end"

    @property
    def is_repeatable(self) -> bool:
        """Whether another attempt may end otherwise, with nothing changed."""
        return self in (Cause.DISRUPTED, Cause.SAVED, Cause.TERMINATED)


@dataclass(frozen=True)
class PodEnd:
    """What a pod that failed left."""

    pod: str
    node: str
    exit_code: int  # of its first container; -1 where the pod was gone before one was seen
    reason: str  # as the cluster says it: OOMKilled, Evicted, Error ...
    message: str
    finished_at: str  # RFC 3339, empty where unknown
    is_disrupted: bool = False  # the cluster says that the pod was taken from its node
    is_deleted: bool = False  # somebody, most often the job's own controller, deleted it
    tail: tuple[str, ...] = ()
    events: tuple[str, ...] = ()

    @property
    def cause(self) -> Cause:
        """Why this pod ended."""
        if self.reason == "OOMKilled":
            return Cause.MEMORY
        if any(words in self.message for words in _OWN_DISK):
            return Cause.DISK
        if self.exit_code in _CLASSES:
            return Cause.PROGRAM
        if self.is_disrupted or self.reason in _DISRUPTIONS:
            return Cause.DISRUPTED
        if self.exit_code == Preempted.exit_code:
            return Cause.SAVED
        if self.exit_code == _SIGTERM_CODE or (self.is_deleted and self.exit_code in (_SIGKILL_CODE, -1)):  # it did not end in its grace
            return Cause.TERMINATED
        # The kernel may kill one process of a container for want of memory, and the container is not said to be OOMKilled.
        return Cause.MEMORY if self.exit_code == _SIGKILL_CODE else Cause.UNKNOWN

    def __str__(self) -> str:
        """One paragraph for a person."""
        code = f"exit code {self.exit_code}" if self.exit_code >= 0 else "no exit code"
        said = "".join(f", {text}" for text in (self.reason, self.message) if text)
        lines = [f"pod {self.pod} on {self.node or 'no node'}: {self.cause.value} ({code}{said})"]
        return "\n".join([*lines, *(f"  event: {event}" for event in self.events), *(f"  {line}" for line in self.tail)])


@dataclass(frozen=True)
class JobFailure:
    """A failed job: what its controller says, and what its pods left."""

    job: str
    message: str
    pods: tuple[PodEnd, ...]

    @property
    def decisive(self) -> PodEnd | None:
        """The pod whose end explains the others', None where no pod is left."""
        order = sorted(self.pods, key=lambda pod: pod.finished_at or "9")
        for causes in ((Cause.MEMORY, Cause.DISK, Cause.PROGRAM), (Cause.DISRUPTED,), tuple(Cause)):
            for pod in order:
                if pod.cause in causes:
                    return pod
        return None

    @property
    def cause(self) -> Cause:
        """Why the job failed."""
        return self.decisive.cause if self.decisive else Cause.UNKNOWN

    def error(self, where: str) -> StablerepError:
        """The error to raise where the training processes left none themselves.

        Args:
            where: the run, for the message.
        """
        pod, cause = self.decisive, self.cause
        what = f"{where}: job {self.job} failed: {cause.value}"
        if cause is Cause.MEMORY:
            remedy = "raise launch.memory_gib_per_process, or lower pretrain.captions_per_batch or pretrain.num_workers"
            return ConfigError(f"{what}: expected the processes to fit in the pod's memory; {remedy}{self.details}")
        if cause is Cause.DISK:
            return ConfigError(
                f"{what}: expected little on local disk; raise launch.shared_memory_gib or the runtime's limits{self.details}"
            )
        if pod and cause is Cause.PROGRAM:
            return _CLASSES[pod.exit_code](f"{what}, exit code {pod.exit_code}{self.details}")
        if cause.is_repeatable:
            return Preempted(f"{what}; run again to continue from its last checkpoint{self.details}")
        return LaunchError(f"{what}; run again to continue from its last checkpoint{self.details}")

    @property
    def details(self) -> str:
        """All that is known, as the end of a message."""
        said = f"; the cluster says: {self.message}" if self.message else ""
        return said + "".join(f"\n{pod}" for pod in self.pods)
