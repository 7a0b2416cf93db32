"""How long a job may queue, start, run, and run without a sign of life; each has a clock of its own.

Queueing and starting are counted anew each time (a queue may take a running job's place away), running is added up.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from stablerep.errors import LaunchError
from stablerep.launch.job import JobState

_FOREVER = float("inf")


@dataclass(frozen=True)
class Budgets:
    """Seconds; what is left out is not limited."""

    queue_seconds: float = _FOREVER
    start_seconds: float = _FOREVER
    run_seconds: float = _FOREVER
    heartbeat_seconds: float = _FOREVER


class Clock:
    """Watches a job's states and signs of life.

    Args:
        job: its name, for messages.
        budgets: what it may take.
        now: a monotonic clock in seconds.
    """

    def __init__(self, job: str, budgets: Budgets, now: Callable[[], float] = time.monotonic) -> None:
        self._job, self._budgets, self._now = job, budgets, now
        self._state: JobState | None = None
        self._since = self._looked_at = self._alive_at = now()
        self._ran_seconds = 0.0
        self._sign: object = None

    def look(self, state: JobState, sign: object) -> None:
        """Take notice of the state and of the last sign of life (any value that changes with progress).

        Raises:
            LaunchError: a budget is used up; names the key to raise.
        """
        now = self._now()
        if state is not self._state:
            self._state, self._since, self._alive_at = state, now, now
        elif state is JobState.RUNNING:
            self._ran_seconds += now - self._looked_at
        if sign != self._sign:
            self._sign, self._alive_at = sign, now
        self._looked_at = now
        self._check(now - self._since, now - self._alive_at)

    def _check(self, waited: float, silent: float) -> None:
        budgets, state = self._budgets, self._state
        if state is JobState.QUEUED and waited > budgets.queue_seconds:
            self._fail("to get a place", budgets.queue_seconds, "it still waits", "launch.queue_timeout_seconds, or ask for less")
        if state is JobState.PENDING and waited > budgets.start_seconds:
            self._fail("to start", budgets.start_seconds, "its containers do not run", "launch.start_timeout_seconds")
        if state is JobState.RUNNING and self._ran_seconds > budgets.run_seconds:
            self._fail("to end", budgets.run_seconds, "it still runs", "pretrain.launch_timeout_seconds")
        if state is JobState.RUNNING and silent > budgets.heartbeat_seconds:
            self._fail("a training step", budgets.heartbeat_seconds, "found none", "launch.heartbeat_timeout_seconds")

    def _fail(self, what: str, seconds: float, found: str, key: str) -> None:
        expected = what if what.startswith("a ") else f"it {what}"
        raise LaunchError(
            f"job {self._job}: expected {expected} within {seconds:g} s, {found}; it was stopped and its checkpoints stay: "
            f"raise {key}, or run again to continue"
        )
