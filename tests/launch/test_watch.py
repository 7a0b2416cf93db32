"""Waiting for a job: lines, deadline, stop, and never leaving it running. The backend is a fake; TorchX runs in test_torchx.py."""

from pathlib import Path
from typing import Any

import pytest

from stablerep.errors import LaunchError
from stablerep.launch import JobState, TrainingJob, run_job

JOB = TrainingJob("job", "module", (), 2, timeout_seconds=5)


class FakeBackend:
    """A job that goes through `states`, one at each look; the last one stays. `lines` come with the looks."""

    def __init__(self, states: list[JobState], lines: list[list[str]] | None = None) -> None:
        self.states, self.lines = states, lines or []
        self.is_cancelled = False
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

    def cancel(self, handle: str) -> None:
        self.is_cancelled = True


def test_lines_of_rank_0_are_streamed_and_the_tail_holds_all_ranks(tmp_path: Path) -> None:
    lines = [["[0]:one", "[1]:other", "W1123 torchrun talks"], ["[default0]:two"], ["exitcode  : 5 (pid: 7)"]]
    backend = FakeBackend([JobState.QUEUED, JobState.RUNNING, JobState.FAILED], lines)
    seen: list[str] = []
    end = run_job(JOB, backend, tmp_path, on_line=seen.append)
    assert seen == ["one", "two"]
    assert end.state is JobState.FAILED
    assert end.tail == ("[0]:one", "[1]:other", "[default0]:two", "exitcode  : 5 (pid: 7)")
    assert not end.is_stopped


def test_the_last_lines_are_not_lost(tmp_path: Path) -> None:
    seen: list[str] = []
    run_job(JOB, FakeBackend([JobState.SUCCEEDED], [["[0]:last"]]), tmp_path, on_line=seen.append)
    assert seen == ["last"]


def test_a_job_over_its_time_is_cancelled(tmp_path: Path) -> None:
    backend = FakeBackend([JobState.RUNNING], [["[0]:busy"]])
    with pytest.raises(LaunchError, match=r"(?s)to end within 1 s, it still runs; .*raise pretrain\.launch_timeout_seconds.*busy"):
        run_job(TrainingJob("job", "module", (), 1, timeout_seconds=1), backend, tmp_path)
    assert backend.is_cancelled


def test_a_stop_is_asked_once_and_waited_for(tmp_path: Path) -> None:
    backend = FakeBackend([JobState.RUNNING] * 4 + [JobState.FAILED])
    asked: list[int] = []
    end = run_job(JOB, backend, tmp_path, is_stop_asked=lambda: True, ask_to_stop=lambda: asked.append(1))
    assert asked == [1]
    assert end.is_stopped
    assert end.state is JobState.FAILED


def test_a_job_that_does_not_stop_in_time_is_cancelled(tmp_path: Path) -> None:
    backend = FakeBackend([JobState.RUNNING])
    end = run_job(JOB, backend, tmp_path, is_stop_asked=lambda: True, grace_seconds=0.3)
    assert backend.is_cancelled
    assert (end.state, end.is_stopped) == (JobState.CANCELLED, True)


def test_an_error_while_watching_ends_the_job(tmp_path: Path) -> None:
    backend = FakeBackend([JobState.RUNNING])

    def tick() -> None:
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        run_job(JOB, backend, tmp_path, on_tick=tick)
    assert backend.is_cancelled
