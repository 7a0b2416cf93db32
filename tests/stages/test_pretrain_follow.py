"""What the launching stage says of a job while it waits."""

import pytest

from stablerep.launch import JobState
from stablerep.stages import pretrain_follow
from stablerep.stages.pretrain_follow import Follower
from stablerep.store import Store
from stablerep.telemetry import MemorySink, Reporter


def test_the_time_in_the_queue_is_told_now_and_then_and_is_none_after_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(pretrain_follow.time, "monotonic", lambda: now[0])
    memory = MemorySink()
    follower = Follower(Reporter("pretrain", (memory,)), store, "a", num_steps=10, start_step=0)
    for seconds, state in ((0, "queued"), (2, "queued"), (20, "queued"), (30, "queued"), (36, "queued"), (40, "pending"), (99, "pending")):
        now[0] = 100.0 + seconds
        follower.state(JobState(state))
    queue = [value for name, value, _ in memory.reports if name == "stablerep_launch_queue_seconds"]
    assert queue == [0.0, 20.0, 36.0, 0.0]
    states = [(labels["state"], value) for name, value, labels in memory.reports if name == "stablerep_launch_job_state"]
    assert states == [(each.value, float(each.value == now_in)) for now_in in ("queued", "pending") for each in JobState]
