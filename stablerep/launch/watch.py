"""Submit a job, stream its log, wait for its end within its time, and never leave it running.

The wait is a poll: state, log, `on_tick` (progress), the budgets, then whether the launcher was asked to stop. A stop asks the job to
save and end, gives it `grace_seconds`, then cancels. Whatever raises here, the job is cancelled on the way out.
"""

import logging
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stablerep.errors import ClusterError, LaunchError
from stablerep.launch.budgets import Budgets, Clock
from stablerep.launch.failure import JobFailure
from stablerep.launch.job import Backend, JobState, TrainingJob

log = logging.getLogger("stablerep")

_POLL_SECONDS = 0.2
_RANK_0_PREFIX = re.compile(r"^\[(?:default)?0\]:")
_OF_A_RANK = re.compile(r"^\[(?:default)?\d+\]:.")
_VERDICT = re.compile(r"exitcode|Signal \d|torchrun: error|Errno|Error: ")  # what matters in torchrun's own report
_NUM_TAIL_LINES = 40


@dataclass(frozen=True)
class JobEnd:
    """How a job ended, with the last lines of its log."""

    state: JobState
    tail: tuple[str, ...]
    is_stopped: bool  # because the launcher was asked to stop
    seconds: float
    failure: JobFailure | None = None


@dataclass(frozen=True)
class Watcher:
    """What the launcher does while a job runs; everything has a harmless default.

    on_line takes every line of rank 0, prefix removed (what other ranks and torchrun write is in the tail); on_tick is called at each poll;
    on_state takes the job's state at each poll;
    sign_of_life gives a value that changes with progress; is_stop_asked tells whether the launcher should end (it received SIGTERM);
    ask_to_stop tells the job to save and end, called once with its handle.
    """

    on_line: Callable[[str], None] = lambda line: None
    on_tick: Callable[[], None] = lambda: None
    on_state: Callable[[JobState], None] = lambda state: None
    sign_of_life: Callable[[], object] = lambda: None
    is_stop_asked: Callable[[], bool] = lambda: False
    ask_to_stop: Callable[[str], None] = lambda handle: None
    grace_seconds: float = 120.0  # how long a job that was asked to stop may take
    poll_seconds: float = _POLL_SECONDS


def run_job(job: TrainingJob, backend: Backend, log_folder: Path, watcher: Watcher | None = None, budgets: Budgets | None = None) -> JobEnd:
    """Run `job` to its end.

    Args:
        job: what to run.
        backend: where.
        log_folder: an existing folder for the log files of this attempt.
        watcher: what to do meanwhile.
        budgets: what the job may take; default: `job.timeout_seconds` to run in.

    Raises:
        LaunchError: it could not be started, or used a budget up.
    """
    watcher = watcher or Watcher()
    started_at = time.monotonic()
    handle = backend.submit(job, log_folder)
    watch = _Watch(job, backend, handle, watcher)
    failure = None
    try:
        state = watch.until_the_end(budgets or Budgets(run_seconds=job.timeout_seconds))
        failure = backend.failure(handle) if state is JobState.FAILED else None
    except ClusterError:
        raise
    except LaunchError as error:  # a budget: add what a person needs to find the reason
        said = backend.situation(handle)
        raise LaunchError(f"{error}{f'; {said}' if said else ''}{last_lines(watch.tail)}") from error
    finally:
        backend.cancel(handle)
        watch.stream()
    watcher.on_tick()
    is_stopped = watch.is_stopped or (state is JobState.CANCELLED and watcher.is_stop_asked())  # deleted at once, seen here later
    return JobEnd(state, tuple(watch.tail), is_stopped, time.monotonic() - started_at, failure)


def last_lines(lines: "deque[str] | tuple[str, ...]") -> str:
    """The tail of a log as the end of an error message."""
    return "; the last lines of its log:\n" + "\n".join(lines) if lines else "; it wrote no log"


class _Watch:
    def __init__(self, job: TrainingJob, backend: Backend, handle: str, watcher: Watcher) -> None:
        self._job, self._backend, self._handle, self._watcher = job, backend, handle, watcher
        self._stop_deadline = float("inf")
        self.tail: deque[str] = deque(maxlen=_NUM_TAIL_LINES)

    @property
    def is_stopped(self) -> bool:
        return self._stop_deadline != float("inf")

    def until_the_end(self, budgets: Budgets) -> JobState:
        clock, watcher = Clock(self._job.name, budgets), self._watcher
        last: JobState | None = None
        while not (state := self._backend.state(self._handle)).is_final:
            if state is not last and last is not None:
                log.info("job %s: %s", self._job.name, state.value)
            last = state
            watcher.on_state(state)
            self.stream()
            watcher.on_tick()
            if not self.is_stopped:
                clock.look(state, watcher.sign_of_life())
                self._stop_if_asked()
            if time.monotonic() > self._stop_deadline:
                return JobState.CANCELLED
            time.sleep(watcher.poll_seconds)
        watcher.on_state(state)
        return state

    def stream(self) -> None:
        for line in self._backend.new_log_lines(self._handle):
            if _OF_A_RANK.match(line) or _VERDICT.search(line):
                self.tail.append(line)
            if prefix := _RANK_0_PREFIX.match(line):
                self._watcher.on_line(line[prefix.end() :])

    def _stop_if_asked(self) -> None:
        if self._watcher.is_stop_asked():
            self._stop_deadline = time.monotonic() + self._watcher.grace_seconds
            log.info("asked to stop: waiting up to %.0f s for job %s to save", self._watcher.grace_seconds, self._job.name)
            self._watcher.ask_to_stop(self._handle)
