"""The leash between a launcher and the processes it started on this machine.

Two advisory locks in a folder of the machine, released by the kernel however a process ends:

    launcher.lock   held alone by the launcher; its text says which attempt runs and whether it was asked to stop
    workers.lock    held together by every process of the attempt

A worker that sees the launcher's lock free, or another attempt's name in it, ends itself: SIGKILL of the launcher orphans nothing. A
launcher starts only when both locks are free, so a new attempt never runs beside what is left of the last one. Jobs on other
machines are not on a leash; their scheduler owns them.
"""

import fcntl
import hashlib
import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from stablerep.errors import LaunchError

log = logging.getLogger("stablerep")

_POLL_SECONDS = 0.25


@dataclass
class Leash:
    """The launcher's end."""

    folder: Path
    attempt: str
    _file: IO[str]

    def ask_to_stop(self) -> None:
        """Tell the workers to finish their step, save and end."""
        self.write(is_stopping=True)

    def write(self, *, is_stopping: bool) -> None:
        """Say whose attempt this is and whether it should end."""
        self._file.seek(0)
        self._file.truncate()
        self._file.write(json.dumps({"attempt": self.attempt, "pid": os.getpid(), "is_stopping": is_stopping}))
        self._file.flush()


@contextmanager
def hold(folder: Path, attempt: str, patience_seconds: float = 60.0) -> Generator[Leash]:
    """Hold the leash of one attempt.

    Args:
        folder: folder of the two locks, the same for every attempt of a run.
        attempt: a name no other attempt has.
        patience_seconds: how long to wait for an earlier attempt to end.

    Raises:
        LaunchError: an earlier attempt still runs after that time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience_seconds
    with (folder / "launcher.lock").open("a+") as launcher, (folder / "workers.lock").open("a+") as workers:
        _wait_for(launcher, deadline, folder)
        leash = Leash(folder, attempt, launcher)
        leash.write(is_stopping=False)
        _wait_for(workers, deadline, folder)
        fcntl.flock(workers, fcntl.LOCK_UN)
        yield leash


def follow(folder: Path, attempt: str, *, on_stop: Callable[[], None], on_gone: Callable[[], None]) -> None:
    """Take a worker's end of the leash; returns at once and watches in a thread until the process ends.

    Args:
        folder: the launcher's folder.
        attempt: the attempt this worker belongs to.
        on_stop: called once when the launcher asks to stop.
        on_gone: called when the launcher or this process's parent is gone, or another attempt has begun; must end the process.
    """
    parent = os.getppid()
    workers = (folder / "workers.lock").open("a+")
    fcntl.flock(workers, fcntl.LOCK_SH)

    def watch() -> None:
        is_told = False
        with workers, (folder / "launcher.lock").open("r") as launcher:
            while True:
                if os.getppid() != parent or (said := _launcher_says(launcher, attempt)) is None:
                    on_gone()
                    return
                if said and not is_told:
                    is_told = True
                    on_stop()
                time.sleep(_POLL_SECONDS)

    threading.Thread(target=watch, name="leash", daemon=True).start()


def _launcher_says(launcher: IO[str], attempt: str) -> bool | None:
    """None when the launcher is gone, else whether it asks to stop."""
    try:
        fcntl.flock(launcher, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        content = _content(launcher)
        # Empty while the launcher rewrites it.
        return None if content.get("attempt", attempt) != attempt else bool(content.get("is_stopping", False))
    fcntl.flock(launcher, fcntl.LOCK_UN)
    return None


def _wait_for(lock: IO[str], deadline: float, folder: Path) -> None:
    is_told = False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            owner = _content(lock).get("pid", "unknown")
            if time.monotonic() > deadline:
                raise LaunchError(
                    f"expected no other attempt of this run on this machine, found one (process {owner}, locks in {folder}); "
                    "wait until it ends or stop it, then run again"
                ) from error
        if not is_told:
            is_told = True
            log.info("waiting for an earlier attempt of this run to end (process %s)", owner)
        time.sleep(_POLL_SECONDS)


def _content(file: IO[str]) -> dict[str, Any]:
    file.seek(0)
    try:
        return cast("dict[str, Any]", json.loads(file.read()))
    except ValueError:
        return {}


def leash_folder(name: str) -> Path:
    """The folder of the locks for what `name` names (a run's URI), on this machine and for this user."""
    digest = hashlib.sha256(name.encode("utf-8")).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"stablerep-{os.getuid()}" / digest
