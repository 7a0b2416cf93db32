"""What a run leaves in its prefix of the store, as records: checkpoint commits, progress, failure.

    runs/<run_key>/COMMITTED.json of each step   CheckpointRecord, the one thing that makes a checkpoint exist
    runs/<run_key>/progress.json                 RunProgress, rewritten every few seconds
    runs/<run_key>/failure.json                  RunFailure, why the last attempt ended

Light: the launching stage reads these without importing torch.
"""

from dataclasses import dataclass

from stablerep.errors import DataError, LaunchError, StablerepError
from stablerep.identity import content_id, digest
from stablerep.records import Record
from stablerep.store import Store

PROGRESS_KEY = "progress.json"
FAILURE_KEY = "failure.json"
METRICS_KEY = "metrics.jsonl"
TOKENIZER_KEY = "tokenizer.json"
WEIGHTS_NAME = "weights.safetensors"
AVERAGE_NAME = "average.safetensors"


@dataclass(frozen=True)
class CheckpointFile(Record):
    """One file of a checkpoint; `name` is relative to the folder of its step."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class CheckpointRecord(Record):
    """COMMITTED.json: written last, after every rank's files."""

    run_key: str
    fingerprint: str
    step: int
    num_steps: int
    world_size: int
    engine: str  # which engine reads these files: torch, deepspeed-zero-1 ...
    attempt: str
    files: tuple[CheckpointFile, ...]
    position: dict[str, int]  # of the loader
    metrics: dict[str, float]

    def file(self, basename: str) -> CheckpointFile | None:
        """The file whose last path component is `basename`, or None."""
        return next((file for file in self.files if file.name.rpartition("/")[2] == basename), None)


@dataclass(frozen=True)
class RunProgress(Record):
    """Where the running attempt is; `metrics` are the last logged values by metric name and term."""

    attempt: str
    step: int
    num_steps: int
    time: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class RunFailure(Record):
    """Why an attempt ended: the class of the error, its message, where."""

    attempt: str
    error: str
    message: str
    rank: int

    def raise_again(self) -> None:
        """Raise the error that ended the attempt; unknown classes become LaunchError."""
        raise _error_classes().get(self.error, LaunchError)(self.message)


def run_identity(decides: object, dataset_id: str, manifest_sha256: str) -> tuple[str, str]:
    """Key and fingerprint of a run: what decides its result, never when or where it ran.

    Args:
        decides: the settings that decide the result, as plain data.
        dataset_id: the data set.
        manifest_sha256: digest of its manifest.
    """
    content = {"format": 1, "dataset_id": dataset_id, "manifest_sha256": manifest_sha256, "settings": decides}
    return content_id("run", content), digest(content)


def write_failure(runs: Store, failure: RunFailure, is_first_hand: bool) -> None:
    """Keep why an attempt ended.

    When one process fails the others fail after it with broken connections: what is not first hand never replaces what is there.

    Args:
        runs: the prefix of the run.
        failure: what to keep.
        is_first_hand: the error was raised on purpose, here.
    """
    earlier = read_failure(runs, failure.attempt)
    if earlier is None or (is_first_hand and earlier.error == LaunchError.__name__):
        runs.write(FAILURE_KEY, failure.to_json())


def read_failure(runs: Store, attempt: str) -> RunFailure | None:
    """Why this attempt ended, or None when it left nothing."""
    try:
        failure = RunFailure.from_json(runs.read_text(FAILURE_KEY)) if runs.exists(FAILURE_KEY) else None
    except DataError:
        return None
    return failure if failure and failure.attempt == attempt else None


def read_progress(runs: Store, attempt: str) -> RunProgress | None:
    """Where this attempt is, or None before its first step."""
    try:
        progress = RunProgress.from_json(runs.read_text(PROGRESS_KEY)) if runs.exists(PROGRESS_KEY) else None
    except DataError:
        return None
    return progress if progress and progress.attempt == attempt else None


def _error_classes() -> dict[str, type[StablerepError]]:
    found: dict[str, type[StablerepError]] = {}
    waiting: list[type[StablerepError]] = [StablerepError]
    while waiting:
        cls = waiting.pop()
        found[cls.__name__] = cls
        waiting.extend(cls.__subclasses__())
    return found
