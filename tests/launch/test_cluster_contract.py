"""The launch contract against a fake API server over real HTTP: what may happen to a job on a cluster, one test or more a point."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from fake_cluster import FakeCluster, ServiceAccount
from played_cluster import DISRUPTED, UNSCHEDULABLE, Scene, Script, look

from stablerep.cluster import EVENT, POD, TRAIN_JOB
from stablerep.errors import (
    CheckpointError,
    ClusterError,
    ConfigError,
    DataError,
    DivergenceError,
    LaunchError,
    Preempted,
    StablerepError,
)
from stablerep.integrations.kubernetes_api import KubernetesApi, connect
from stablerep.integrations.torchx_trainjob import train_job
from stablerep.integrations.torchx_volcano import volcano_job
from stablerep.launch import Budgets, Cause, JobEnd, JobState, Placement, TrainingJob, Watcher, followed, run_job
from stablerep.launch.cluster import ClusterBackend
from stablerep.launch.followed import Patience
from stablerep.launch.kinds import TrainJobKind, VolcanoKind

JOB = TrainingJob("pretrain-run-1", "m", ("a",), 2, num_nodes=2, image="i", placement=Placement(runtime="r"), attempt="first")
PATIENCE = Patience(poll_seconds=0.02, removal_seconds=0.5, silence_seconds=0.5, watch_seconds=5.0)
KINDS = {"trainjob": (TrainJobKind(), train_job), "volcano": (VolcanoKind(), volcano_job)}


class Observed(ClusterBackend):
    """Remembers the states in their order."""

    states: list[JobState]

    def state(self, handle: str) -> JobState:
        self.states = getattr(self, "states", [])
        found = super().state(handle)
        if self.states[-1:] != [found]:
            self.states.append(found)
        return found


@dataclass
class Stage:
    """A launcher, the cluster and what the launcher showed."""

    cluster: FakeCluster
    scene: Scene
    backend: Observed
    folder: Path
    lines: list[str] = field(default_factory=list)
    sign: int = 0
    is_stop_asked: bool = False

    def launch(
        self, script: Callable[[], Script], job: TrainingJob = JOB, budgets: Budgets | None = None, backend: Observed | None = None
    ) -> JobEnd:
        backend = backend or self.backend
        play: Script | None = None

        def tick() -> None:
            nonlocal play
            play = play or script()
            next(play, None)

        watcher = Watcher(
            on_line=self.lines.append,
            on_tick=tick,
            sign_of_life=lambda: self.sign,
            is_stop_asked=lambda: self.is_stop_asked,
            ask_to_stop=backend.cancel,
            grace_seconds=5,
            poll_seconds=0.01,
        )
        end = run_job(job, backend, self.folder, watcher, budgets or Budgets(5, 5, 5, 5))
        assert play is not None
        assert next(play, "over") == "over", "the job ended before the scene did"
        return end


@pytest.fixture
def api(cluster_kubeconfig: Path) -> Iterator[KubernetesApi]:
    with connect(budget_seconds=0.2) as api:
        yield api


def _stage(cluster: FakeCluster, api: KubernetesApi, folder: Path, kind: str) -> Iterator[Stage]:
    reader, document = KINDS[kind]
    with Observed(api, reader, document, patience=PATIENCE) as backend:
        yield Stage(cluster, Scene(cluster, reader, JOB.name), backend, folder)


@pytest.fixture
def stage(fake_cluster: FakeCluster, api: KubernetesApi, tmp_path: Path) -> Iterator[Stage]:
    yield from _stage(fake_cluster, api, tmp_path, "trainjob")


@pytest.fixture(params=list(KINDS))
def any_stage(request: pytest.FixtureRequest, fake_cluster: FakeCluster, api: KubernetesApi, tmp_path: Path) -> Iterator[Stage]:
    yield from _stage(fake_cluster, api, tmp_path, request.param)


def _run_well(stage: Stage) -> Script:
    yield from look(2)
    stage.scene.run()
    yield from stage.scene.until(lambda: stage.backend.states[-1] is JobState.RUNNING)
    stage.scene.succeed()


# --- states and budgets ---


def test_long_queueing_is_no_failure_and_uses_no_other_budget_up(any_stage: Stage) -> None:
    def script() -> Script:
        any_stage.scene.suspend()
        yield from look(40)  # longer than it may start, run, or be silent
        yield from _run_well(any_stage)

    end = any_stage.launch(script, budgets=Budgets(queue_seconds=30, start_seconds=0.3, run_seconds=0.3, heartbeat_seconds=0.3))
    assert end.state is JobState.SUCCEEDED
    assert end.seconds > 0.4
    states = any_stage.backend.states
    assert states[-2:] == [JobState.RUNNING, JobState.SUCCEEDED]
    assert JobState.QUEUED in states


def test_pods_without_a_place_queue_and_pods_with_one_start(stage: Stage) -> None:
    def script() -> Script:
        stage.scene.pod(0, phase="Pending", place="none", conditions=(UNSCHEDULABLE,))
        stage.scene.pod(1, phase="Pending")
        yield from stage.scene.until(lambda: stage.backend.states[-1] is JobState.QUEUED)
        stage.scene.pod(0, phase="Pending", waiting={"reason": "ContainerCreating"})
        yield from stage.scene.until(lambda: stage.backend.states[-1] is JobState.PENDING)
        yield from _run_well(stage)

    assert stage.launch(script).state is JobState.SUCCEEDED
    expected = [JobState.PENDING, JobState.QUEUED, JobState.PENDING, JobState.RUNNING, JobState.SUCCEEDED]
    assert [state for state in stage.backend.states if state in expected][-4:] == expected[-4:]


def test_a_running_job_that_is_suspended_has_not_failed(stage: Stage) -> None:
    def script() -> Script:
        stage.scene.run()
        stage.scene.say(0, "[0]:before")
        yield from stage.scene.until(lambda: "before" in stage.lines)
        stage.scene.suspend()  # Kueue gives its place to another
        stage.scene.remove_pods()
        yield from stage.scene.until(lambda: stage.backend.states[-1] is JobState.QUEUED)
        stage.scene.admit()
        for node in range(2):
            stage.scene.pod(node, name=f"again-{node}")
        stage.scene.say(0, "[0]:after", name="again-0")
        yield from stage.scene.until(lambda: "after" in stage.lines)
        stage.scene.condition("Complete")

    assert stage.launch(script).state is JobState.SUCCEEDED
    assert stage.lines == ["before", "after"]


def test_a_job_that_gets_no_place_in_time_is_deleted_and_the_reason_told(stage: Stage) -> None:
    def script() -> Script:
        stage.scene.suspend()
        stage.scene.event(JOB.name, "Pending", "couldn't assign flavors: insufficient quota for nvidia.com/gpu")
        yield

    message = r"raise launch\.queue_timeout_seconds.*; the cluster says: Workload waits for quota; Pending: couldn't assign flavors"
    with pytest.raises(LaunchError, match=message):
        stage.launch(script, budgets=Budgets(0.2, 5, 5, 5))
    assert stage.scene.job is None


def test_a_job_that_does_not_start_in_time_is_deleted_and_the_reason_told(any_stage: Stage) -> None:
    def script() -> Script:
        any_stage.scene.admit()
        waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image i"}
        any_stage.scene.pod(0, phase="Pending", waiting=waiting)
        yield

    with pytest.raises(LaunchError, match=r"raise launch\.start_timeout_seconds.*node-0: ImagePullBackOff: Back-off pulling image i"):
        any_stage.launch(script, budgets=Budgets(5, 0.3, 5, 5))
    assert any_stage.scene.job is None


def test_a_silent_job_is_deleted(stage: Stage) -> None:
    def script() -> Script:
        stage.scene.run()
        for _ in range(30):
            stage.sign += 1
            yield

    with pytest.raises(LaunchError, match=r"expected a training step within 0\.2 s, found none.*raise launch\.heartbeat_timeout_seconds"):
        stage.launch(script, budgets=Budgets(5, 5, 5, 0.2))
    assert stage.sign == 30
    assert stage.scene.job is None


def test_a_job_over_its_time_is_deleted(stage: Stage) -> None:
    def script() -> Script:
        stage.scene.run()
        yield

    with pytest.raises(LaunchError, match=r"to end within 0\.2 s, it still runs.*raise pretrain\.launch_timeout_seconds"):
        stage.launch(script, budgets=Budgets(5, 5, 0.2, 5))
    assert stage.scene.job is None


# --- create, adopt, refuse ---


def test_a_launcher_adopts_the_job_of_one_that_was_killed(stage: Stage, api: KubernetesApi, fake_cluster: FakeCluster) -> None:
    stage.backend.submit(JOB, stage.folder)
    stage.scene.run()
    stage.scene.say(0, "[0]:one")
    uid = stage.scene.job["metadata"]["uid"]
    with Observed(api, *KINDS["trainjob"], patience=PATIENCE) as second:
        assert second.running_attempt(replace(JOB, attempt="")) == "first"

        def script() -> Script:
            yield from stage.scene.until(lambda: "one" in stage.lines)
            assert stage.scene.job["metadata"]["uid"] == uid
            stage.scene.succeed()

        assert stage.launch(script, backend=second).state is JobState.SUCCEEDED
    assert len(fake_cluster.seen("delete", TRAIN_JOB)) == 0


def test_a_create_whose_answer_was_lost_is_the_same_job(stage: Stage, fake_cluster: FakeCluster) -> None:
    fake_cluster.fail(-1, verb="create", kind=TRAIN_JOB)
    assert stage.launch(lambda: _run_well(stage)).state is JobState.SUCCEEDED
    assert len(fake_cluster.seen("create", TRAIN_JOB)) == 2
    assert len(fake_cluster.seen("delete", TRAIN_JOB)) == 0


@pytest.mark.parametrize("change", [{"image": "other"}, {"arguments": ("b",)}, {"memory_mib_per_node": 1}])
def test_a_job_alive_with_other_settings_is_refused_and_left_alone(stage: Stage, change: dict[str, object]) -> None:
    stage.backend.submit(JOB, stage.folder)
    other = replace(JOB, attempt="second", **change)
    message = r"found one alive with other settings .*end it \(it saves first\) with `kubectl delete trainjobs\.trainer\.kubeflow\.org"
    with pytest.raises(ConfigError, match=message):
        stage.backend.running_attempt(other)
    with pytest.raises(ConfigError, match=message):
        stage.backend.submit(other, stage.folder)
    assert stage.scene.attempt == "first"


def test_two_launchers_at_once_make_one_job(stage: Stage) -> None:
    stage.backend.submit(JOB, stage.folder)
    with pytest.raises(LaunchError, match=r"another launcher started it just now \(attempt first\); run again to follow it"):
        stage.backend.submit(replace(JOB, attempt="second"), stage.folder)


@pytest.mark.parametrize("change", [{}, {"image": "other"}])
def test_a_finished_job_of_the_name_is_made_anew(any_stage: Stage, change: dict[str, object]) -> None:
    any_stage.backend.submit(replace(JOB, **change), any_stage.folder)
    any_stage.scene.fail()
    uid = any_stage.scene.job["metadata"]["uid"]
    second = replace(JOB, attempt="second")
    assert any_stage.backend.running_attempt(second) == ""
    assert any_stage.launch(lambda: _run_well(any_stage), second).state is JobState.SUCCEEDED
    assert any_stage.scene.job["metadata"]["uid"] != uid
    assert any_stage.scene.attempt == "second"


def test_a_job_that_is_going_away_is_waited_for(stage: Stage, fake_cluster: FakeCluster) -> None:
    handle = stage.backend.submit(JOB, stage.folder)
    fake_cluster.keeps_deleted = True
    stage.backend.cancel(handle)
    with pytest.raises(LaunchError, match=r"to go away within 0\.5 s, it is still there; look at its finalizers: `kubectl get trainjobs"):
        stage.backend.submit(replace(JOB, attempt="second"), stage.folder)
    fake_cluster.remove(TRAIN_JOB, JOB.name)
    stage.backend.submit(replace(JOB, attempt="second"), stage.folder)
    assert stage.scene.attempt == "second"


def test_a_job_the_server_refuses_was_not_started(stage: Stage, fake_cluster: FakeCluster) -> None:
    fake_cluster.refuse("create", TRAIN_JOB, "spec.trainer.env: PET_NNODES is reserved")
    with pytest.raises(ClusterError, match="PET_NNODES is reserved"):
        stage.launch(lambda: look(1))


# --- watches, tokens, servers ---


def test_dropped_and_expired_watches_lose_nothing(any_stage: Stage, fake_cluster: FakeCluster) -> None:
    fake_cluster.drop_watches(0, 1, 1)
    scene = any_stage.scene

    def script() -> Script:
        scene.run()
        scene.say(0, "[0]:one")
        yield from scene.until(lambda: "one" in any_stage.lines)
        fake_cluster.expire_watches()  # etcd was compacted
        fake_cluster.fail(410, verb="watch", kind=POD)
        fake_cluster.remove(POD, f"{JOB.name}-node-0")
        scene.pod(0, name="another-0")
        scene.say(0, "[0]:two", name="another-0")
        yield from scene.until(lambda: "two" in any_stage.lines)
        scene.pod(0, name="another-0", phase="Succeeded", terminated={"exitCode": 0})
        scene.condition("Complete") if scene.kind.kind == TRAIN_JOB else scene.phase("Completed")

    assert any_stage.launch(script).state is JobState.SUCCEEDED
    assert any_stage.lines == ["one", "two"]


def test_a_token_rotated_in_the_middle(fake_cluster: FakeCluster, cluster_service_account: ServiceAccount, tmp_path: Path) -> None:
    with connect(service_account_folder=cluster_service_account.folder, budget_seconds=0.2) as api:
        for stage in _stage(fake_cluster, api, tmp_path, "trainjob"):

            def script(stage: Stage = stage) -> Script:
                stage.scene.run()
                stage.scene.say(0, "[0]:one")
                yield from stage.scene.until(lambda: "one" in stage.lines)
                cluster_service_account.rotate("token-2")
                fake_cluster.expire_watches()
                stage.scene.say(0, "[0]:two")
                yield from stage.scene.until(lambda: "two" in stage.lines)
                stage.scene.succeed()

            assert stage.launch(script).state is JobState.SUCCEEDED
            assert stage.lines == ["one", "two"]


def test_a_server_that_is_away_for_a_while_ends_nothing(stage: Stage, fake_cluster: FakeCluster) -> None:
    def script() -> Script:
        stage.scene.run()
        yield from stage.scene.until(lambda: stage.backend.states[-1] is JobState.RUNNING)
        fake_cluster.fail(503, times=4, verb="get", kind=TRAIN_JOB)
        yield from look(3)
        stage.scene.succeed()

    assert stage.launch(script).state is JobState.SUCCEEDED


def test_a_server_that_is_away_for_good_is_told_and_the_job_left_to_the_next_launcher(
    stage: Stage, fake_cluster: FakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    def script() -> Script:
        stage.scene.run()
        yield from stage.scene.until(lambda: stage.backend.states[-1] is JobState.RUNNING)
        fake_cluster.fail(503, times=1000)
        yield

    with pytest.raises(ClusterError, match="503"):
        stage.launch(script)
    assert f"job {JOB.name} may still run" in caplog.text
    assert stage.scene.job is not None


def test_rights_taken_away_are_told_at_once(stage: Stage, fake_cluster: FakeCluster) -> None:
    asked: list[int] = []

    def script() -> Script:
        fake_cluster.forbid("get", TRAIN_JOB)
        asked.append(len(fake_cluster.seen("get", TRAIN_JOB)))
        yield

    with pytest.raises(ClusterError, match="forbidden"):
        stage.launch(script)
    assert len(fake_cluster.seen("get", TRAIN_JOB)) - asked[0] == 2  # the look, and the one before a deletion


def test_a_watch_that_ends_or_is_refused_is_taken_up_again(fake_cluster: FakeCluster, api: KubernetesApi, tmp_path: Path) -> None:
    with Observed(api, *KINDS["trainjob"], patience=replace(PATIENCE, watch_seconds=0.05)) as backend:
        stage = Stage(fake_cluster, Scene(fake_cluster, TrainJobKind(), JOB.name), backend, tmp_path)

        def script() -> Script:
            stage.scene.run()
            yield from stage.scene.until(lambda: len(fake_cluster.seen("watch", POD)) > 2)
            fake_cluster.fail(403, times=1, verb="list", kind=POD)
            fake_cluster.remove(POD, f"{JOB.name}-node-0")
            stage.scene.pod(0, name="another-0")
            stage.scene.say(0, "[0]:here", name="another-0")
            yield from stage.scene.until(lambda: "here" in stage.lines)
            stage.scene.pod(0, name="another-0", phase="Succeeded", terminated={"exitCode": 0})
            stage.scene.condition("Complete")

        assert stage.launch(script).state is JobState.SUCCEEDED


def test_a_watch_that_is_refused_is_told_once_and_is_the_reason_of_the_wait(
    stage: Stage, fake_cluster: FakeCluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followed, "_PAUSE_SECONDS", 0.02)
    fake_cluster.forbid("list", POD)

    def script() -> Script:
        stage.scene.run()
        yield from stage.scene.until(lambda: len(fake_cluster.seen("list", POD)) > 3)

    with pytest.raises(LaunchError, match=r"launch\.start_timeout_seconds.*the cluster says: its pods cannot be watched: .*forbidden"):
        stage.launch(script, budgets=Budgets(5, 0.5, 5, 5))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len([text for text in warnings if "its pods cannot be watched" in text]) == 1


def test_a_failure_without_pods_says_why_there_are_none(stage: Stage, fake_cluster: FakeCluster) -> None:
    fake_cluster.forbid("watch", POD)

    def script() -> Script:
        yield from stage.scene.until(lambda: fake_cluster.seen("watch", POD))
        yield from look(5)
        stage.scene.fail("jobset failed")

    failure = stage.launch(script).failure
    assert failure is not None
    assert failure.message.startswith("jobset failed; its pods cannot be watched: ")


class OddWatch:
    """An API server behind a proxy that answers watches with something else for a while."""

    def __init__(self, api: KubernetesApi, *errors: Exception) -> None:
        self._api, self._errors = api, list(errors)

    def __getattr__(self, name: str) -> object:
        return getattr(self._api, name)

    def watch(self, *arguments: object, **named: object) -> Iterator[object]:
        if self._errors:
            raise self._errors.pop(0)
        return self._api.watch(*arguments, **named)


def test_a_watch_that_breaks_in_an_unknown_way_goes_on(
    fake_cluster: FakeCluster, api: KubernetesApi, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followed, "_PAUSE_SECONDS", 0.02)
    odd = OddWatch(api, KeyError("metadata"), ValueError("no JSON"), KeyError("metadata"))
    for stage in _stage(fake_cluster, odd, tmp_path, "trainjob"):
        assert stage.launch(lambda stage=stage: _run_well(stage)).state is JobState.SUCCEEDED
        assert stage.backend.situation(f"stablerep/{JOB.name}") == ""
    assert caplog.text.count("its pods cannot be watched: KeyError: 'metadata'") == 1
    assert caplog.text.count("its pods cannot be watched: ValueError: no JSON") == 1


def test_events_that_cannot_be_read_hide_nothing_else(stage: Stage, fake_cluster: FakeCluster) -> None:
    fake_cluster.forbid("list", EVENT)

    def script() -> Script:
        stage.scene.suspend()
        yield

    with pytest.raises(LaunchError, match=r"the cluster says: Workload waits for quota; the events cannot be read: .*forbidden"):
        stage.launch(script, budgets=Budgets(0.2, 5, 5, 5))


# --- logs ---


def test_lines_of_one_second_come_once_and_none_is_lost(stage: Stage) -> None:
    def script() -> Script:
        stage.scene.run()
        for number in range(12):
            stage.scene.say(0, f"[0]:line {number}", "[0]:again")
            yield
            if number % 5 == 4:
                stage.scene.later()
        yield from look(2)
        stage.scene.say(0, "[0]:last")
        stage.scene.succeed()

    stage.launch(script)
    expected = [line for number in range(12) for line in (f"line {number}", "again")]
    assert stage.lines == [*expected, "last"]


def test_a_restarted_and_a_replaced_pod_go_on_in_the_log(stage: Stage, fake_cluster: FakeCluster) -> None:
    name = f"{JOB.name}-node-0"

    def script() -> Script:
        stage.scene.run()
        stage.scene.say(0, "[0]:first", "[8]:of another rank", "torchrun talks")
        yield from stage.scene.until(lambda: "first" in stage.lines)
        stage.scene.later()
        fake_cluster.logs[name, "node"] = []  # the container was restarted
        stage.scene.say(0, "[0]:restarted")
        yield from stage.scene.until(lambda: "restarted" in stage.lines)
        fake_cluster.remove(POD, name)
        stage.scene.pod(0, name="another-0")
        stage.scene.say(0, "[0]:restarted", name="another-0")  # the same words at the same time, by another clock
        yield from stage.scene.until(lambda: len(stage.lines) == 3)
        yield from look(5)
        stage.scene.pod(0, name="another-0", phase="Succeeded", terminated={"exitCode": 0})
        stage.scene.condition("Complete")

    end = stage.launch(script)
    assert stage.lines == ["first", "restarted", "restarted"]
    assert "[8]:of another rank" in end.tail


def test_a_log_that_cannot_be_read_is_no_reason_to_stop(stage: Stage, fake_cluster: FakeCluster) -> None:
    fake_cluster.forbid("get", POD, "log")
    assert stage.launch(lambda: _run_well(stage)).state is JobState.SUCCEEDED


# --- failures ---


def _fail_with(stage: Stage, *ends: dict[str, object]) -> JobEnd:
    """Node i ends as told."""

    def script() -> Script:
        stage.scene.run()
        yield from stage.scene.until(lambda: stage.backend.states[-1] is JobState.RUNNING)
        for node, end in enumerate(ends):
            stage.scene.say(node, f"[{node}]:the last words of node {node}")
            stage.scene.pod(node, phase="Failed", **end)
            stage.scene.event(f"{JOB.name}-node-{node}", "Killing", f"node {node} was told")
        stage.scene.fail("jobset failed")

    return stage.launch(script)


def _code(number: int, reason: str = "Error", at: str = "09:00:05") -> dict[str, object]:
    return {"terminated": {"exitCode": number, "reason": reason, "finishedAt": f"2026-11-23T{at}Z"}}


@pytest.mark.parametrize(
    ("ends", "cause", "error"),
    [
        ([_code(137, "OOMKilled"), _code(75)], Cause.MEMORY, ConfigError),
        ([_code(1, "OOMKilled")], Cause.MEMORY, ConfigError),  # a child was killed, its parent noticed
        ([_code(6, at="09:00:01"), _code(137, "OOMKilled", at="09:00:02")], Cause.MEMORY, ConfigError),
        ([_code(143), _code(143)], Cause.TERMINATED, Preempted),
        ([_code(75), _code(75)], Cause.SAVED, Preempted),
        ([_code(137)], Cause.MEMORY, ConfigError),  # one process was killed by the kernel
        ([_code(2)], Cause.PROGRAM, ConfigError),
        ([_code(3), _code(143)], Cause.PROGRAM, DataError),
        ([_code(4)], Cause.PROGRAM, CheckpointError),
        ([_code(75, at="09:00:01"), _code(5, at="09:00:02")], Cause.PROGRAM, DivergenceError),
        ([_code(6, at="09:00:01"), _code(75, at="09:00:02")], Cause.UNKNOWN, LaunchError),
        ([_code(1, at="09:00:01"), _code(143, at="09:00:02")], Cause.UNKNOWN, LaunchError),
        ([_code(6, at="09:00:01"), _code(137, at="09:00:02") | {"conditions": (DISRUPTED,)}], Cause.DISRUPTED, Preempted),
        ([{"reason": "Evicted", "message": "The node was low on resource: memory."}], Cause.DISRUPTED, Preempted),
        ([{"reason": "Evicted", "message": 'Usage of EmptyDir volume "tmp" exceeds the limit "1Gi".'}], Cause.DISK, ConfigError),
        ([_code(137, "ContainerStatusUnknown")], Cause.DISRUPTED, Preempted),
    ],
)
def test_the_cause_is_found_among_the_pods(stage: Stage, ends: list[dict[str, object]], cause: Cause, error: type[StablerepError]) -> None:
    end = _fail_with(stage, *ends)
    assert end.state is JobState.FAILED
    assert end.failure is not None
    assert end.failure.cause is cause
    raised = end.failure.error("run x")
    assert type(raised) is error
    assert f"run x: job {JOB.name} failed: {cause.value}" in str(raised)


def test_a_failure_tells_every_pods_code_log_and_events(any_stage: Stage) -> None:
    failure = _fail_with(any_stage, _code(5), _code(6)).failure
    assert failure is not None
    assert failure.message.endswith("jobset failed")
    first, second = failure.pods
    assert (first.exit_code, first.node, first.reason) == (5, "machine-0", "Error")
    assert first.tail == ("[0]:the last words of node 0",)
    assert second.tail == ("[1]:the last words of node 1",)
    assert second.events == ("Killing: node 1 was told",)
    assert "pod pretrain-run-1-node-1 on machine-1: an unexpected end (exit code 6, Error)" in failure.details


def test_the_remedy_of_a_full_memory_names_the_keys(stage: Stage) -> None:
    failure = _fail_with(stage, _code(137, "OOMKilled")).failure
    assert failure is not None
    assert "raise launch.memory_gib_per_process, or lower pretrain.captions_per_batch" in str(failure.error("run x"))


def test_a_pod_that_was_thrown_out_and_is_gone_is_still_known(any_stage: Stage, fake_cluster: FakeCluster) -> None:
    scene = any_stage.scene

    def script() -> Script:
        scene.run()
        yield from scene.until(lambda: any_stage.backend.states[-1] is JobState.RUNNING)
        fake_cluster.expire_watches()
        scene.pod(1, phase="Failed", conditions=(DISRUPTED,), **_code(75))
        fake_cluster.remove(POD, f"{JOB.name}-node-1")
        scene.fail("PodEvicted")

    failure = any_stage.launch(script).failure
    assert failure is not None
    assert failure.cause is Cause.DISRUPTED or failure.pods[-1].exit_code in (75, -1)
    assert isinstance(failure.error("run x"), Preempted)


def test_what_an_earlier_pod_of_a_node_left_decides_nothing(stage: Stage, fake_cluster: FakeCluster) -> None:
    def script() -> Script:
        stage.scene.run()
        yield from stage.scene.until(lambda: stage.backend.states[-1] is JobState.RUNNING)
        stage.scene.pod(0, phase="Failed", **_code(143, at="08:00:00"))
        yield from look(3)
        fake_cluster.remove(POD, f"{JOB.name}-node-0")
        stage.scene.pod(0, name="another-0", phase="Failed", **_code(1))
        yield from look(3)
        stage.scene.fail()

    failure = stage.launch(script).failure
    assert failure is not None
    assert [pod.pod for pod in failure.pods] == ["another-0"]
    assert failure.cause is Cause.UNKNOWN


# --- the end ---


def test_a_stop_deletes_the_job_and_waits_until_its_pods_have_saved(any_stage: Stage, fake_cluster: FakeCluster) -> None:
    fake_cluster.keeps_deleted = True
    kind = any_stage.scene.kind.kind

    def script() -> Script:
        any_stage.scene.run()
        yield from any_stage.scene.until(lambda: any_stage.backend.states[-1] is JobState.RUNNING)
        any_stage.is_stop_asked = True
        yield from any_stage.scene.until(lambda: fake_cluster.seen("delete", kind))
        any_stage.scene.say(0, "[0]:saved")
        yield from any_stage.scene.until(lambda: "saved" in any_stage.lines)
        fake_cluster.remove(kind, JOB.name)

    end = any_stage.launch(script)
    assert (end.state, end.is_stopped) == (JobState.CANCELLED, True)
    assert any_stage.lines == ["saved"]
    assert len(fake_cluster.seen("delete", kind)) == 1


def test_a_job_deleted_by_somebody_has_not_ended_well(any_stage: Stage, fake_cluster: FakeCluster) -> None:
    def script() -> Script:
        any_stage.scene.run()
        yield from any_stage.scene.until(lambda: any_stage.backend.states[-1] is JobState.RUNNING)
        fake_cluster.remove(any_stage.scene.kind.kind, JOB.name)

    end = any_stage.launch(script)
    assert (end.state, end.is_stopped) == (JobState.CANCELLED, False)


@pytest.mark.parametrize("is_noticed", [True, False])
def test_a_job_that_somebody_replaced_is_not_ours_to_delete(stage: Stage, fake_cluster: FakeCluster, is_noticed: bool) -> None:
    def script() -> Script:
        fake_cluster.remove(TRAIN_JOB, JOB.name)
        fake_cluster.set(TRAIN_JOB, {"metadata": {"name": JOB.name}, "spec": {}})
        if is_noticed:
            yield
        else:
            raise RuntimeError("the launcher ends")

    if is_noticed:
        assert stage.launch(script).state is JobState.CANCELLED
    else:
        with pytest.raises(RuntimeError, match="the launcher ends"):
            stage.launch(script)
    assert stage.scene.job is not None


def test_an_error_in_the_launcher_leaves_nothing_running(any_stage: Stage) -> None:
    def script() -> Script:
        any_stage.scene.run()
        raise RuntimeError("the disk is full")
        yield

    with pytest.raises(RuntimeError, match="the disk is full"):
        any_stage.launch(script)
    assert any_stage.scene.job is None


def test_a_finished_job_stays_for_people_to_look_at(any_stage: Stage, fake_cluster: FakeCluster) -> None:
    any_stage.launch(lambda: _run_well(any_stage))
    assert any_stage.scene.job is not None
    assert fake_cluster.seen("delete", any_stage.scene.kind.kind) == []


def test_the_digest_is_that_of_the_settings_not_of_the_attempt(stage: Stage) -> None:
    def digest(job: TrainingJob) -> str:
        return stage.backend.describe(job)["metadata"]["annotations"]["stablerep.dev/spec-sha256"]

    assert digest(JOB) == digest(replace(JOB, attempt="other"))
    assert digest(JOB) != digest(replace(JOB, image="other"))
