"""What happens at once when a launcher is told to end: the signal wakes a thread, and it deletes this job and no other."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fake_cluster import FakeCluster
from played_cluster import Scene

from stablerep.cluster import TRAIN_JOB
from stablerep.integrations.kubernetes_api import KubernetesApi, connect
from stablerep.integrations.torchx_trainjob import train_job
from stablerep.launch import Placement, TrainingJob, stop_signals
from stablerep.launch.cluster import ClusterBackend
from stablerep.launch.kinds import TrainJobKind
from stablerep.launch.prompt import PromptDeletion

JOB = TrainingJob("pretrain-run-1", "m", ("a",), 2, num_nodes=2, image="i", placement=Placement(runtime="r"), attempt="first")


@pytest.fixture
def api(cluster_kubeconfig: Path) -> Iterator[KubernetesApi]:
    with connect(budget_seconds=0.2, read_seconds=1.0) as api:
        yield api


@pytest.fixture
def scene(fake_cluster: FakeCluster, api: KubernetesApi, tmp_path: Path) -> Iterator[Scene]:
    with ClusterBackend(api, TrainJobKind(), train_job) as backend:
        backend.submit(JOB, tmp_path)
        yield Scene(fake_cluster, TrainJobKind(), JOB.name)


def _deletion(api: KubernetesApi, patience_seconds: float = 0.3) -> PromptDeletion:
    return PromptDeletion(api, TrainJobKind(), patience_seconds=patience_seconds)


def test_the_job_that_is_expected_is_deleted_once(api: KubernetesApi, scene: Scene) -> None:
    scene.cluster.keeps_deleted = True
    deletion = _deletion(api)
    deletion.expect(JOB)
    deletion()
    deletion()
    assert len(scene.cluster.seen("delete", TRAIN_JOB)) == 1


def test_the_job_of_another_attempt_is_left_alone(api: KubernetesApi, scene: Scene) -> None:
    deletion = _deletion(api)
    deletion()
    deletion.expect(replace(JOB, attempt="second"))
    deletion()
    assert scene.cluster.seen("delete", TRAIN_JOB) == []


@pytest.mark.parametrize("end", ["Complete", "Failed"])
def test_a_finished_job_stays_for_people_to_look_at(api: KubernetesApi, scene: Scene, end: str) -> None:
    scene.condition(end)
    deletion = _deletion(api)
    deletion.expect(JOB)
    deletion()
    assert scene.cluster.seen("delete", TRAIN_JOB) == []


def test_a_server_that_is_away_for_a_moment_is_asked_again(api: KubernetesApi, scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.cluster.fail(503, times=4, verb="delete", kind=TRAIN_JOB)
    deletion = _deletion(api, patience_seconds=20)
    deletion.expect(JOB)
    deletion()
    assert scene.job is None
    assert "told to end, but the job is not deleted yet" in caplog.text


def test_a_refusal_ends_the_attempt_and_is_told(api: KubernetesApi, scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.cluster.forbid("delete", TRAIN_JOB)
    deletion = _deletion(api, patience_seconds=20)
    deletion.expect(JOB)
    deletion()
    assert len(scene.cluster.seen("delete", TRAIN_JOB)) == 1
    assert "forbidden" in caplog.text


def test_a_job_that_is_just_being_made_is_waited_for(api: KubernetesApi, fake_cluster: FakeCluster, tmp_path: Path) -> None:
    deletion = _deletion(api, patience_seconds=20)
    deletion.expect(JOB)
    thread = threading.Thread(target=deletion)
    thread.start()
    while not fake_cluster.seen("get", TRAIN_JOB):
        time.sleep(0.01)
    with ClusterBackend(api, TrainJobKind(), train_job) as backend:
        backend.submit(JOB, tmp_path)
    thread.join(10)
    assert len(fake_cluster.seen("delete", TRAIN_JOB)) == 1


def test_closing_ends_a_call_that_looks_for_a_job(api: KubernetesApi, fake_cluster: FakeCluster) -> None:
    deletion = _deletion(api, patience_seconds=60)
    deletion.expect(JOB)
    thread = threading.Thread(target=deletion)
    thread.start()
    while not fake_cluster.seen("get", TRAIN_JOB):
        time.sleep(0.01)
    deletion.close()
    thread.join(10)
    assert not thread.is_alive()


def test_a_signal_calls_once_and_leaves_no_trace() -> None:
    calls: list[str] = []
    arrived = threading.Event()

    def at_once() -> None:
        calls.append(threading.current_thread().name)
        arrived.set()

    handlers, num_threads = signal.getsignal(signal.SIGTERM), threading.active_count()
    with stop_signals(signal.SIGTERM, at_once=at_once) as is_stop_asked:
        assert not is_stop_asked()
        os.kill(os.getpid(), signal.SIGTERM)
        assert arrived.wait(10)
        assert is_stop_asked()
        os.kill(os.getpid(), signal.SIGTERM)
    assert calls == ["stop"]
    assert signal.getsignal(signal.SIGTERM) is handlers
    assert threading.active_count() == num_threads
    assert signal.set_wakeup_fd(-1) == -1


def test_another_signal_does_not_wake_it() -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    calls: list[int] = []
    try:
        with stop_signals(signal.SIGTERM, at_once=lambda: calls.append(1)) as is_stop_asked:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.1)
            assert not is_stop_asked()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert calls == []
