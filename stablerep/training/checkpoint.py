"""Checkpoints that are committed or not there.

    checkpoints/step-<N>/<attempt>/<file>   what every rank of an attempt wrote; nobody reads it until it is named by
    checkpoints/step-<N>/COMMITTED.json     files, sizes, digests, owner: written last, one atomic put

The attempt in the path is the temporary name: two attempts cannot mix their files, nothing needs renaming, and the same layout works
on object stores. Readers take the newest committed step whose files match their digests. Engines read and write local folders; on an
object store they get a temporary one.
"""

import logging
import os
import re
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from stablerep.errors import CheckpointError, DataError, StoreError
from stablerep.identity import sha256_bytes
from stablerep.store import Store
from stablerep.training.state import CheckpointFile, CheckpointRecord

log = logging.getLogger("stablerep")

_COMMITTED = re.compile(r"checkpoints/step-(\d+)/COMMITTED\.json")
_OF_RANK = re.compile(r"zero_pp_rank_(\d+)_")
_CHUNK_BYTES = 1 << 20


class Ranks(Protocol):
    """The processes of the job, as far as checkpoints need them."""

    @property
    def rank(self) -> int:
        """Of this process."""
        ...

    @property
    def world_size(self) -> int:
        """Number of processes."""
        ...

    def share(self, value: Any) -> Any:
        """The value of rank 0, on every rank."""
        ...

    def collect(self, value: Any) -> list[Any]:
        """The values of all ranks, on every rank."""
        ...


def step_prefix(step: int) -> str:
    """Key of the folder of a step."""
    return f"checkpoints/step-{step}"


@dataclass(frozen=True)
class Facts:
    """What a commit record says beside its files."""

    run_key: str
    fingerprint: str
    step: int
    num_steps: int
    world_size: int
    engine: str
    attempt: str
    position: dict[str, int]
    metrics: dict[str, float]

    @property
    def prefix(self) -> str:
        """Key of the folder of this attempt's files."""
        return f"{step_prefix(self.step)}/{self.attempt}"

    def record(self, files: Sequence[CheckpointFile]) -> CheckpointRecord:
        """The commit record of these files of all ranks."""
        ordered = tuple(sorted(files, key=lambda file: file.name))
        return CheckpointRecord(files=ordered, **vars(self))


class Checkpoints:
    """The checkpoints of one run.

    Args:
        runs: the prefix of the run in the store.
        run_key: id of the run.
        fingerprint: digest of everything that decides the run's result.
    """

    def __init__(self, runs: Store, run_key: str, fingerprint: str) -> None:
        self._runs, self._run_key, self._fingerprint = runs, run_key, fingerprint

    def committed_steps(self) -> list[int]:
        """Steps with a commit record, newest first."""
        found = (_COMMITTED.fullmatch(key) for key in self._runs.list("checkpoints"))
        return sorted((int(match.group(1)) for match in found if match), reverse=True)

    def read(self, step: int) -> CheckpointRecord:
        """The commit record of a step.

        Raises:
            CheckpointError: it belongs to a run with other settings or other data.
            DataError: there is none, or it is not readable.
        """
        record = CheckpointRecord.from_json(self._runs.read_text(f"{step_prefix(step)}/COMMITTED.json"))
        if record.fingerprint != self._fingerprint:
            raise CheckpointError(
                f"{self._runs.uri_of(step_prefix(step))}: expected a checkpoint of run {self._run_key} with fingerprint "
                f"{self._fingerprint[:16]}, found one of run {record.run_key} with fingerprint {record.fingerprint[:16]}; "
                "remove that folder or use another store"
            )
        return record

    def find_intact(self, ranks: Ranks, engine: str) -> CheckpointRecord | None:
        """The newest committed checkpoint whose files match their digests; each rank verifies its share. Collective.

        Raises:
            CheckpointError: it belongs to another run, was written by another number of processes or another engine, or none of
                those committed is intact.
        """
        steps: list[int] = ranks.share(self.committed_steps() if ranks.rank == 0 else [])
        for step in steps:
            try:
                record = self.read(step)
            except StoreError:  # out of reach is not damaged
                raise
            except DataError as error:
                damage = str(error)
            else:
                self._check_fits(record, ranks.world_size, engine)
                damage = self._damage(record, record.files[ranks.rank :: ranks.world_size])
            found = [str(text) for text in ranks.collect(damage) if text]
            if not found:
                return self.read(step)
            if ranks.rank == 0:
                log.warning("checkpoint of step %d is damaged and passed over: %s", step, "; ".join(found))
        if steps:
            raise CheckpointError(
                f"{self._runs.uri_of('checkpoints')}: expected an intact checkpoint, found {len(steps)} committed and all damaged "
                f"(steps {', '.join(map(str, steps))}); remove that folder to start this run anew"
            )
        return None

    def save(
        self,
        step: int,
        write: Callable[[Path], None],
        ranks: Ranks,
        *,
        num_steps: int,
        engine: str,
        attempt: str,
        position: dict[str, int],
        metrics: dict[str, float],
        num_kept: int,
    ) -> CheckpointRecord:
        """Write and commit the checkpoint of `step`, then drop the oldest. Collective.

        Args:
            step: number of finished updates.
            write: writes this rank's files into a folder; collective.
            ranks: the processes.
            num_steps: updates of the whole run.
            engine: kind of engine that can read the files.
            attempt: name of this attempt, free of `/`.
            position: of the loader, kept in the record.
            metrics: kept in the record.
            num_kept: committed checkpoints to keep, this one included.

        Raises:
            StoreError: the store cannot be written; earlier checkpoints stay.
        """
        facts = self.facts(step, ranks, num_steps=num_steps, engine=engine, attempt=attempt, position=position, metrics=metrics)
        mine = self.write(facts, write, ranks.rank)
        parts: list[tuple[CheckpointFile, ...]] = ranks.collect(mine)
        record = facts.record([file for part in parts for file in part])
        if ranks.rank == 0:
            self.commit(record, num_kept)
        ranks.share(None)
        return record

    def facts(
        self, step: int, ranks: Ranks, *, num_steps: int, engine: str, attempt: str, position: dict[str, int], metrics: dict[str, float]
    ) -> Facts:
        """What the record of a checkpoint of this run will say; arguments as of `save`."""
        return Facts(self._run_key, self._fingerprint, step, num_steps, ranks.world_size, engine, attempt, position, metrics)

    def write(self, facts: Facts, write: Callable[[Path], None], rank: int) -> tuple[CheckpointFile, ...]:
        """Write this rank's files and make them last; nobody reads them yet. Collective only where `write` is.

        Raises:
            StoreError: the store cannot be written.
        """
        with self._writable(facts.prefix) as folder:
            try:
                write(folder)
            except (OSError, RuntimeError) as error:
                if isinstance(error, OSError) or "PytorchStreamWriter" in str(error):
                    raise StoreError(
                        f"cannot write the checkpoint of step {facts.step} to {self._runs.uri_of(facts.prefix)}: {error}"
                    ) from error
                raise
            return self._publish(folder, facts.prefix, facts.attempt, rank)

    def commit(self, record: CheckpointRecord, num_kept: int) -> None:
        """Make a checkpoint whose files are all written exist, then drop the oldest; one rank does."""
        self._runs.write(f"{step_prefix(record.step)}/COMMITTED.json", record.to_json())
        self._prune(record, max(num_kept, 1))

    @contextmanager
    def opened(self, record: CheckpointRecord, rank: int) -> Generator[Path]:
        """A local folder with the files that `rank` needs to continue from `record`."""
        prefix = step_prefix(record.step)
        local = self._runs.local_path(f"{prefix}/{record.attempt}")
        if local is not None:
            yield local
            return
        with tempfile.TemporaryDirectory(prefix="stablerep-checkpoint-") as name:
            for file in record.files:
                owner = _OF_RANK.search(file.name)
                if owner is None or int(owner.group(1)) == rank:
                    self._runs.get(f"{prefix}/{file.name}", Path(name) / file.name.rpartition("/")[2])
            yield Path(name)

    def _check_fits(self, record: CheckpointRecord, world_size: int, engine: str) -> None:
        where = self._runs.uri_of(step_prefix(record.step))
        if record.world_size != world_size:
            raise CheckpointError(
                f"{where}: expected a checkpoint of {world_size} processes, found one of {record.world_size}; continue with "
                f"pretrain.num_processes={record.world_size}, or remove the run's checkpoints to start anew"
            )
        if record.engine != engine:
            raise CheckpointError(
                f"{where}: expected files of engine {engine}, found {record.engine}; install what that run used, or remove the run's "
                "checkpoints to start anew"
            )

    def _damage(self, record: CheckpointRecord, files: tuple[CheckpointFile, ...]) -> str:
        """What is wrong with the first of `files` that is not as it was committed; empty when all are."""
        for file in files:
            key = f"{step_prefix(record.step)}/{file.name}"
            try:
                found = self._runs.sha256(key)
            except StoreError:
                raise
            except DataError as error:
                return str(error)
            if found != file.sha256:
                return f"{self._runs.uri_of(key)}: expected sha256 {file.sha256[:16]}, found {found[:16]}"
        return ""

    @contextmanager
    def _writable(self, prefix: str) -> Generator[Path]:
        local = self._runs.local_path(prefix)
        if local is not None:
            local.mkdir(parents=True, exist_ok=True)
            yield local
            return
        with tempfile.TemporaryDirectory(prefix="stablerep-checkpoint-") as name:
            yield Path(name)

    def _publish(self, folder: Path, prefix: str, attempt: str, rank: int) -> tuple[CheckpointFile, ...]:
        """Flush this rank's files to disk, or put them into the object store; returns what they are."""
        files: list[CheckpointFile] = []
        for path in sorted(folder.iterdir()):
            owner = _OF_RANK.search(path.name)
            if (int(owner.group(1)) if owner else 0) != rank:
                continue
            with path.open("rb") as stream:
                sha256 = sha256_bytes(iter(lambda stream=stream: stream.read(_CHUNK_BYTES), b""))
                os.fsync(stream.fileno())
            if not self._runs.is_local:
                self._runs.put(path, f"{prefix}/{path.name}")
            files.append(CheckpointFile(f"{attempt}/{path.name}", path.stat().st_size, sha256))
        return tuple(files)

    def _prune(self, newest: CheckpointRecord, num_kept: int) -> None:
        """Drop all but the newest committed steps, and what unfinished attempts left."""
        try:
            kept = [step for step in self.committed_steps() if step <= newest.step][:num_kept]
            parts = [key.split("/") for key in self._runs.list("checkpoints")]
            for folder in sorted({part[1] for part in parts}):
                if folder.removeprefix("step-") not in map(str, kept):
                    self._runs.delete(f"checkpoints/{folder}/COMMITTED.json")
                    self._runs.delete(f"checkpoints/{folder}")
            current = f"step-{newest.step}"
            for attempt in sorted({part[2] for part in parts if part[1] == current and len(part) > 3} - {newest.attempt}):
                self._runs.delete(f"checkpoints/{current}/{attempt}")
        except (DataError, OSError) as error:
            log.warning("old checkpoints are not removed: %s", error)
