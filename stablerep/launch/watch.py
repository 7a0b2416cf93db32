"""Submit a job, stream its log, wait for its end within its time, and never leave it running.

The wait is a poll: state, then `on_tick` (progress), then the deadline, then whether the launcher was asked to stop. A stop asks the
job to save and end, gives it `grace_seconds`, then cancels. Whatever raises here, the job is cancelled on the way out.
"""

import logging
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stablerep.errors import LaunchError
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


def run_job(
    job: TrainingJob,
    backend: Backend,
    log_folder: Path,
    *,
    on_line: Callable[[str], None] = lambda line: None,
    on_tick: Callable[[], None] = lambda: None,
    is_stop_asked: Callable[[], bool] = lambda: False,
    ask_to_stop: Callable[[], None] = lambda: None,
    grace_seconds: float = 120.0,
) -> JobEnd:
    """Run `job` to its end.

    Args:
        job: what to run.
        backend: where.
        log_folder: an existing folder for the log files of this attempt.
        on_line: takes every line of rank 0, prefix removed (what other ranks and torchrun write is in the tail).
        on_tick: called a few times a second.
        is_stop_asked: whether the launcher should end (it received SIGTERM).
        ask_to_stop: tells the job to save and end; called once.
        grace_seconds: how long a job that was asked to stop may take.

    Raises:
        LaunchError: it could not be started, or did not end within `job.timeout_seconds`.
    """
    started_at = time.monotonic()
    handle = backend.submit(job, log_folder)
    tail: deque[str] = deque(maxlen=_NUM_TAIL_LINES)
    stop_deadline = float("inf")
    try:
        while not (state := backend.state(handle)).is_final:
            _stream(backend.new_log_lines(handle), tail, on_line)
            on_tick()
            now = time.monotonic()
            if now - started_at > job.timeout_seconds:
                raise LaunchError(
                    f"job {job.name}: expected it to end within {job.timeout_seconds} s, it still runs; it was stopped and its checkpoints "
                    f"stay: raise pretrain.launch_timeout_seconds or run again to continue{last_lines(tail)}"
                )
            if stop_deadline == float("inf") and is_stop_asked():
                stop_deadline = now + grace_seconds
                log.info("asked to stop: waiting up to %.0f s for job %s to save", grace_seconds, job.name)
                ask_to_stop()
            if now > stop_deadline:
                break
            time.sleep(_POLL_SECONDS)
    finally:
        backend.cancel(handle)
        _stream(backend.new_log_lines(handle), tail, on_line)
    on_tick()
    is_stopped = stop_deadline != float("inf")
    return JobEnd(state if state.is_final else JobState.CANCELLED, tuple(tail), is_stopped, time.monotonic() - started_at)


def last_lines(lines: "deque[str] | tuple[str, ...]") -> str:
    """The tail of a log as the end of an error message."""
    return "; the last lines of its log:\n" + "\n".join(lines) if lines else "; it wrote no log"


def _stream(lines: list[str], tail: deque[str], on_line: Callable[[str], None]) -> None:
    for line in lines:
        if _OF_A_RANK.match(line) or _VERDICT.search(line):
            tail.append(line)
        if prefix := _RANK_0_PREFIX.match(line):
            on_line(line[prefix.end() :])
