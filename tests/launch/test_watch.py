"""Waiting for a job: lines, deadline, stop, and never leaving it running. The backend is a fake; TorchX runs in test_torchx.py."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stablerep.errors import LaunchError
from stablerep.launch import Budgets, Clock, JobFailure, JobState, TrainingJob, Watcher, run_job

JOB = TrainingJob("job", "module", (), 2, timeout_seconds=5)


class FakeBackend:
    """A job that goes through `states`, one at each look; the last one stays. `lines` come with the looks."""

    def __init__(self, states: list[JobState], lines: list[list[str]] | None = None) -> None:
        self.states, self.lines = states, lines or []
        self.is_cancelled = False
        self.said = ""
        self.submitted: list[TrainingJob] = []

    def describe(self, job: TrainingJob) -> dict[str, Any]:
        return {"name": job.name}

    def submit(self, job: TrainingJob, log_folder: Path) -> str:
        self.submitted.append(job)
        return "handle"

    def state(self, handle: str) -> JobState:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def new_log_lines(self, handle: str) -> list[str]:
        return self.lines.pop(0) if self.lines else []

    def situation(self, handle: str) -> str:
        return self.said

    def failure(self, handle: str) -> JobFailure | None:
        assert not self.is_cancelled, "what is deleted cannot be asked any more"
        return JobFailure("job", "why", ())

    def cancel(self, handle: str) -> None:
        self.is_cancelled = True


def test_lines_of_rank_0_are_streamed_and_the_tail_holds_all_ranks(tmp_path: Path) -> None:
    lines = [["[0]:one", "[1]:other", "W1123 torchrun talks"], ["[default0]:two"], ["exitcode  : 5 (pid: 7)"]]
    backend = FakeBackend([JobState.QUEUED, JobState.RUNNING, JobState.FAILED], lines)
    seen: list[str] = []
    end = run_job(JOB, backend, tmp_path, Watcher(on_line=seen.append))
    assert seen == ["one", "two"]
    assert end.state is JobState.FAILED
    assert end.tail == ("[0]:one", "[1]:other", "[default0]:two", "exitcode  : 5 (pid: 7)")
    assert not end.is_stopped
    assert end.failure == JobFailure("job", "why", ())


def test_the_last_lines_are_not_lost(tmp_path: Path) -> None:
    seen: list[str] = []
    run_job(JOB, FakeBackend([JobState.SUCCEEDED], [["[0]:last"]]), tmp_path, Watcher(on_line=seen.append))
    assert seen == ["last"]


def test_a_job_over_its_time_is_cancelled(tmp_path: Path) -> None:
    backend = FakeBackend([JobState.RUNNING], [["[0]:busy"]])
    with pytest.raises(LaunchError, match=r"(?s)to end within 1 s, it still runs; .*raise pretrain\.launch_timeout_seconds.*busy"):
        run_job(TrainingJob("job", "module", (), 1, timeout_seconds=1), backend, tmp_path)
    assert backend.is_cancelled


def test_a_stop_is_asked_once_and_waited_for(tmp_path: Path) -> None:
    backend = FakeBackend([JobState.RUNNING] * 4 + [JobState.FAILED])
    asked: list[str] = []
    end = run_job(JOB, backend, tmp_path, Watcher(is_stop_asked=lambda: True, ask_to_stop=asked.append))
    assert asked == ["handle"]
    assert end.is_stopped
    assert end.state is JobState.FAILED


def test_a_job_that_does_not_stop_in_time_is_cancelled(tmp_path: Path) -> None:
    backend = FakeBackend([JobState.RUNNING])
    end = run_job(JOB, backend, tmp_path, Watcher(is_stop_asked=lambda: True, grace_seconds=0.3))
    assert backend.is_cancelled
    assert (end.state, end.is_stopped) == (JobState.CANCELLED, True)


def test_a_job_deleted_at_once_was_stopped_and_not_taken_away(tmp_path: Path) -> None:
    is_asked: list[bool] = []

    def tick() -> None:
        is_asked.append(True)  # after this look at the signal, and before the next one, the job is gone

    backend = FakeBackend([JobState.RUNNING, JobState.CANCELLED])
    end = run_job(JOB, backend, tmp_path, Watcher(on_tick=tick, is_stop_asked=lambda: len(is_asked) > 1, poll_seconds=0.01))
    assert (end.state, end.is_stopped) == (JobState.CANCELLED, True)
    end = run_job(JOB, FakeBackend([JobState.CANCELLED]), tmp_path)
    assert not end.is_stopped


def test_an_error_while_watching_ends_the_job(tmp_path: Path) -> None:
    backend = FakeBackend([JobState.RUNNING])

    def tick() -> None:
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        run_job(JOB, backend, tmp_path, Watcher(on_tick=tick))
    assert backend.is_cancelled


class FakeTime:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


BUDGETS = Budgets(queue_seconds=100, start_seconds=10, run_seconds=50, heartbeat_seconds=20)


def test_queueing_does_not_use_the_other_budgets_up() -> None:
    time = FakeTime()
    clock = Clock("job", BUDGETS, time)
    for state in (JobState.QUEUED, JobState.PENDING, JobState.RUNNING, JobState.QUEUED, JobState.PENDING, JobState.RUNNING):
        for _ in range(3):
            clock.look(state, 0)
            time.now += 90 if state is JobState.QUEUED and _ == 0 else 4
    assert time.now == 2 * (98 + 12 + 12)


@pytest.mark.parametrize(
    ("state", "seconds", "message"),
    [
        (JobState.QUEUED, 101, r"expected it to get a place within 100 s, it still waits; .*raise launch\.queue_timeout_seconds"),
        (JobState.PENDING, 11, r"expected it to start within 10 s, its containers do not run; .*raise launch\.start_timeout_seconds"),
        (JobState.RUNNING, 21, r"expected a training step within 20 s, found none; .*raise launch\.heartbeat_timeout_seconds"),
    ],
)
def test_each_budget_names_the_key_to_raise(state: JobState, seconds: float, message: str) -> None:
    time = FakeTime()
    clock = Clock("job", BUDGETS, time)
    clock.look(state, 0)
    time.now = seconds - 2
    clock.look(state, 0)
    time.now = seconds
    with pytest.raises(LaunchError, match=message):
        clock.look(state, 0)


def test_running_is_added_up_over_interruptions() -> None:
    time = FakeTime()
    clock = Clock("job", BUDGETS, time)

    def run_for_ever() -> None:
        for step in range(100):
            clock.look(JobState.PENDING if step % 3 == 2 else JobState.RUNNING, step)
            time.now += 5

    with pytest.raises(LaunchError, match=r"to end within 50 s, it still runs; .*raise pretrain\.launch_timeout_seconds"):
        run_for_ever()
    assert time.now == 10 * 15 + 5  # of three looks one adds to it: one is not running, one follows an interruption


def test_progress_is_a_sign_of_life() -> None:
    time = FakeTime()
    clock = Clock("job", replace(BUDGETS, run_seconds=1000), time)
    for step in range(20):
        clock.look(JobState.RUNNING, step)
        time.now += 19


def test_a_budget_used_up_says_what_the_scheduler_says(tmp_path: Path) -> None:
    backend = FakeBackend([JobState.QUEUED])
    backend.said = "0/5 nodes are available"
    with pytest.raises(LaunchError, match=r"launch\.queue_timeout_seconds.*; 0/5 nodes are available; it wrote no log"):
        run_job(JOB, backend, tmp_path, Watcher(poll_seconds=0.01), Budgets(queue_seconds=0.05))
    assert backend.is_cancelled
