"""The stage `pretrain` with a cluster backend: its API server is a fake, its job is played.

Launchers that are signalled or killed are processes of their own, forked from one that has imported the stage without torch.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from fake_cluster import FakeCluster
from played_cluster import Scene
from tiny_groups import GENERATOR

from stablerep.cluster import TRAIN_JOB, TRAINING_RUNTIME
from stablerep.config import load_recipe
from stablerep.errors import ConfigError, DivergenceError, LaunchError, Preempted
from stablerep.launch.followed import Patience
from stablerep.launch.kinds import TrainJobKind
from stablerep.records import DatasetRef
from stablerep.stages import pretrain_follow
from stablerep.stages.context import Stage
from stablerep.stages.pretrain_cluster import Pace, train
from stablerep.stages.pretrain_run import RunConfig, plan_run
from stablerep.store import Store
from stablerep.telemetry import Reporter
from stablerep.training.state import RunFailure, RunProgress, write_failure

PROJECT = Path(__file__).resolve().parents[2]
DATASET = DatasetRef("groups-0", "s3://b/groups/groups-0", "2" * 64, "prompts-0", GENERATOR.generator_id, 16, 400, 2400, 6, {})
WORDS = "launch.backend=trainjob launch.image=train@sha256:0 pretrain.num_nodes=2 launch.max_preemptions=2 launch.grace_seconds=5"
PACE = Pace(0.02, Patience(0.02, 2.0, 2.0, 5.0))
METRICS = ("step", "learning_rate", "gradient_norm", "images_per_second", "data_wait_ratio", "loss_total", "loss_image", "loss_text")


@dataclass
class Run:
    """A run whose job the test plays in a thread of its own."""

    cluster: FakeCluster
    store: Store
    plan: RunConfig
    scene: Scene
    words: str = WORDS

    @property
    def runs(self) -> Store:
        return self.store.at(self.plan.prefix)

    def train(self, words: str = "") -> None:
        stage = Stage("pretrain", load_recipe("smoke", f"{self.words} {words}"), self.store, Reporter("pretrain", (), 60.0))
        try:
            train(stage, self.plan, self.runs, PACE)
        finally:
            stage.reporter.close()

    def play(self, *acts: Callable[[], None]) -> threading.Thread:
        """One act an attempt."""

        def perform() -> None:
            for act in acts:
                before = set(attempts)
                _wait(lambda before=before: self.scene.attempt not in before | {""})
                attempts.append(self.scene.attempt)
                act()

        attempts: list[str] = []
        thread = threading.Thread(target=perform, daemon=True)
        thread.start()
        return thread

    def end_with(self, code: int) -> None:
        self.scene.run()
        self.scene.pod(0, phase="Failed", terminated={"exitCode": code, "reason": "Error"})
        self.scene.fail()

    def fail_with(self, error: str, message: str, code: int) -> None:
        write_failure(self.runs, RunFailure(self.scene.attempt, error, message, 0), is_first_hand=True)
        self.end_with(code)

    def succeed(self) -> None:
        self.scene.run()
        self.scene.succeed()


def _wait(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def run(fake_cluster: FakeCluster, cluster_kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(pretrain_follow, "_LOOK_SECONDS", 0.05)
    plan = plan_run("smoke", load_recipe("smoke", WORDS).pretrain, DATASET)
    name = f"pretrain-{plan.run_key}"
    return Run(fake_cluster, Store(f"memory://{uuid.uuid4().hex}"), plan, Scene(fake_cluster, TrainJobKind(), name))


def test_a_run_leaves_its_document_its_job_and_its_log(run: Run) -> None:
    def act() -> None:
        run.scene.run()
        run.scene.say(0, "[0]:step 1")
        _wait(lambda: [r for r in run.cluster.requests if r.subresource == "log"])
        run.scene.succeed()

    run.play(act)
    run.train()
    document = yaml.safe_load(run.runs.read_text("job.yaml"))
    live = run.scene.job
    assert live is not None
    assert document["spec"] == live["spec"]
    assert document["metadata"]["annotations"] == live["metadata"]["annotations"]
    assert document["spec"]["trainer"]["numNodes"] == 2
    assert json.loads(run.runs.read_text("job.json"))["roles"][0]["image"] == "train@sha256:0"
    assert "step 1" in run.runs.read_text(f"logs/{run.scene.attempt}.log")


def test_exit_75_and_an_eviction_are_followed_by_another_attempt(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    def saved() -> None:
        run.fail_with("Preempted", "stopped after step 4 of 9 as asked", 75)

    def evicted() -> None:
        run.scene.run()
        run.scene.pod(1, phase="Failed", reason="Evicted", message="The node was low on resource: memory.")
        run.scene.fail()

    caplog.set_level(logging.WARNING)
    run.play(saved, evicted, run.succeed)
    run.train()
    assert "stopped after step 4 of 9 as asked" in caplog.text
    assert "another attempt follows, launch.max_preemptions allows 1 more" in caplog.text
    assert "another attempt follows, launch.max_preemptions allows 0 more" in caplog.text
    assert len(run.cluster.seen("delete", TRAIN_JOB)) == 2


def test_too_many_preemptions_end_the_stage_as_preempted(run: Run) -> None:
    run.play(*[lambda: run.end_with(143)] * 2)
    with pytest.raises(Preempted, match=r"ended by SIGTERM; run again to continue from its last checkpoint"):
        run.train("launch.max_preemptions=1")


def test_the_error_of_a_process_is_the_error_of_the_stage(run: Run) -> None:
    run.play(lambda: run.fail_with("DivergenceError", "step 3: expected finite losses", 5))
    with pytest.raises(DivergenceError, match="step 3: expected finite losses"):
        run.train()
    assert len(run.cluster.seen("create", TRAIN_JOB)) == 1


def test_a_full_memory_is_no_preemption(run: Run) -> None:
    def act() -> None:
        run.scene.run()
        write_failure(run.runs, RunFailure(run.scene.attempt, "LaunchError", "a training process failed: broken pipe", 1), False)
        run.scene.pod(0, phase="Failed", terminated={"exitCode": 137, "reason": "OOMKilled"})
        run.scene.fail()

    run.play(act)
    with pytest.raises(ConfigError, match=r"out of memory.*raise launch\.memory_gib_per_process"):
        run.train()


def test_what_a_process_said_goes_before_what_its_pod_left(run: Run) -> None:
    def act() -> None:
        write_failure(run.runs, RunFailure(run.scene.attempt, "LaunchError", "a training process failed: KeyError: 'x'", 1), False)
        run.end_with(6)

    run.play(act)
    with pytest.raises(LaunchError, match=r"(?s)KeyError: 'x'; run .* failed: an unexpected end.*exit code 6"):
        run.train()


def test_a_job_deleted_by_somebody_is_told(run: Run) -> None:
    def act() -> None:
        run.scene.run()
        run.cluster.remove(TRAIN_JOB, run.scene.name)

    run.play(act)
    with pytest.raises(LaunchError, match="was deleted by somebody else; run again to continue"):
        run.train()


def test_progress_in_the_store_is_the_sign_of_life(run: Run) -> None:
    def act() -> None:
        run.scene.run()
        for step in range(1, 4):
            metrics = dict.fromkeys(METRICS, float(step))
            run.runs.write("progress.json", RunProgress(run.scene.attempt, step, 9, 0.0, metrics).to_json())
            time.sleep(0.4)  # in all longer than it may be silent
        told.append(time.monotonic())

    told: list[float] = []
    run.plan = replace(run.plan, pretrain=replace(run.plan.pretrain, launch_timeout_seconds=10))
    run.play(act)
    with pytest.raises(LaunchError, match=r"expected a training step within 1 s, found none.*launch\.heartbeat_timeout_seconds"):
        run.train("launch.heartbeat_timeout_seconds=1")
    assert told, "it was given up while it made progress"
    assert run.scene.job is None


def test_sigterm_deletes_the_job_lets_it_save_and_is_a_preemption(run: Run) -> None:
    run.cluster.keeps_deleted = True

    def act() -> None:
        run.scene.run()
        os.kill(os.getpid(), signal.SIGTERM)
        _wait(lambda: run.cluster.seen("delete", TRAIN_JOB))
        run.cluster.remove(TRAIN_JOB, run.scene.name)

    run.play(act)
    with pytest.raises(Preempted, match="stopped as asked, its last checkpoint is that of step 0; run again to continue"):
        run.train()
    assert run.scene.job is None
    assert len(run.cluster.seen("create", TRAIN_JOB)) == 1


LAUNCHERS = """
import json, os, signal, sys
from importlib.abc import MetaPathFinder
class NoTorch(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "deepspeed", "timm", "diffusers", "transformers", "prometheus_client"):
            raise ModuleNotFoundError(f"{name} is not in the launch image")
sys.meta_path.insert(0, NoTorch())
from stablerep.errors import StablerepError
from stablerep.integrations import kubernetes_api, torchx_trainjob
from stablerep.stages import pretrain, pretrain_cluster

def launch(order):
    os.dup2(os.open(order["log"], os.O_WRONLY | os.O_CREAT), 2)
    os.environ.update(order["environment"])
    pace = pretrain_cluster.Pace(order["poll_seconds"])
    pretrain_cluster.Pace = lambda: pace
    try:
        pretrain.run("smoke", order["words"], order["store"], dataset=order["dataset"])
    except StablerepError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0

for line in sys.stdin:
    order = json.loads(line)
    if "pid" in order:
        answer = os.waitstatus_to_exitcode(os.waitpid(order["pid"], 0)[1])
    else:
        answer = os.fork()
        if answer == 0:
            os._exit(launch(order))
    print(answer, flush=True)
"""


@dataclass
class Launchers:
    """Starts launchers: `run` in a process each."""

    forker: "subprocess.Popen[str]"
    folder: Path

    def start(self, run: Run, poll_seconds: float = 2.0) -> "Launcher":
        log = self.folder / f"{uuid.uuid4().hex}.log"
        environment = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "KUBECONFIG"))}
        order = {"log": str(log), "words": run.words, "store": run.store.uri, "dataset": DATASET.to_json()}
        return Launcher(self, self.ask({**order, "environment": environment, "poll_seconds": poll_seconds}), log)

    def ask(self, order: dict[str, object]) -> int:
        assert self.forker.stdin is not None
        assert self.forker.stdout is not None
        self.forker.stdin.write(json.dumps(order) + "\n")
        self.forker.stdin.flush()
        return int(self.forker.stdout.readline())


@dataclass
class Launcher:
    launchers: Launchers
    pid: int
    log: Path

    def signal(self, number: signal.Signals) -> float:
        os.kill(self.pid, number)
        return time.monotonic()

    def wait(self) -> int:
        return self.launchers.ask({"pid": self.pid})


@pytest.fixture(scope="module")
def launchers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launchers]:
    command = [sys.executable, "-c", LAUNCHERS]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as forker:
        yield Launchers(forker, tmp_path_factory.mktemp("launchers"))
        assert forker.stdin is not None
        forker.stdin.close()


def _deleted_after(run: Run, since: float, seconds: float) -> bool:
    while not run.cluster.seen("delete", TRAIN_JOB):
        if time.monotonic() - since > seconds:
            return False
        time.sleep(0.002)
    return True


@pytest.mark.dist
def test_a_launcher_told_to_end_deletes_its_job_at_once_and_waits_for_it(run: Run, launchers: Launchers) -> None:
    run.cluster.keeps_deleted = True
    launcher = launchers.start(run, poll_seconds=3.0)
    _wait(lambda: run.cluster.seen("get", TRAIN_JOB)[1:])
    run.scene.run()
    time.sleep(0.1)  # it is asleep now
    assert _deleted_after(run, launcher.signal(signal.SIGTERM), 0.5)
    _wait(lambda: len(run.cluster.seen("get", TRAIN_JOB)) > 4)  # it lives on, and looks
    run.cluster.remove(TRAIN_JOB, run.scene.name)
    assert launcher.wait() == Preempted.exit_code
    assert "stopped as asked, its last checkpoint is that of step 0" in launcher.log.read_text()
    assert len(run.cluster.seen("delete", TRAIN_JOB)) <= 2  # two when both asked in the same moment


@pytest.mark.dist
@pytest.mark.parametrize("moment", ["asleep", "asking", "creating"])
def test_a_launcher_killed_right_after_it_was_told_has_deleted_its_job(run: Run, launchers: Launchers, moment: str) -> None:
    if moment == "creating":
        run.cluster.fail(200, verb="create", kind=TRAIN_JOB, seconds=0.2)
    launcher = launchers.start(run, poll_seconds=0.05 if moment == "asking" else 60.0)
    _wait(lambda: run.cluster.seen("create", TRAIN_JOB))
    if moment != "creating":
        _wait(lambda: run.cluster.seen("get", TRAIN_JOB)[1:])
    if moment == "asking":
        run.cluster.fail(200, verb="get", kind=TRAIN_JOB, seconds=30)
        _wait(lambda: not any(fault.times for fault in run.cluster.faults))
    told_at = launcher.signal(signal.SIGTERM)
    _deleted_after(run, told_at, 0.3 + 0.2 * (moment == "creating"))
    launcher.signal(signal.SIGKILL)
    assert launcher.wait() == -signal.SIGKILL
    assert run.cluster.seen("delete", TRAIN_JOB)
    _wait(lambda: run.scene.job is None)  # the server may still be at it


@pytest.mark.dist
@pytest.mark.slow
def test_a_killed_launcher_leaves_its_job_to_the_next_and_neither_needs_torch(run: Run, s3_store_uri: str, launchers: Launchers) -> None:
    run.store = Store(s3_store_uri)
    first = launchers.start(run)
    _wait(lambda: run.scene.attempt)
    attempt, uid = run.scene.attempt, (run.scene.job or {})["metadata"]["uid"]
    run.scene.run()
    first.signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    second = launchers.start(run)  # KFP retries the task
    _wait(lambda: run.cluster.seen("create", TRAIN_JOB)[1:])
    assert run.scene.attempt == attempt
    assert (run.scene.job or {})["metadata"]["uid"] == uid
    run.fail_with("CheckpointError", "step-4 is damaged", 4)
    assert second.wait() == 4
    errors = second.log.read_text()
    assert "adopted, it runs on" in errors
    assert "CheckpointError: step-4 is damaged" in errors


def test_where_the_prompt_deletion_is_refused_the_wait_deletes(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run.cluster.fail(403, verb="delete", kind=TRAIN_JOB)

    def act() -> None:
        run.scene.run()
        os.kill(os.getpid(), signal.SIGTERM)

    run.play(act)
    started_at = time.monotonic()
    with pytest.raises(Preempted, match="stopped as asked"):
        run.train("launch.grace_seconds=30")
    assert time.monotonic() - started_at < 20, "the job was deleted only when its grace was over"
    assert run.scene.job is None


def test_a_runtime_that_kills_pods_while_they_save_is_refused_before_anything_is_made(run: Run) -> None:
    run.cluster.set(TRAINING_RUNTIME, yaml.safe_load((PROJECT / "manifests/runtimes/training-runtime.yaml").read_text()))
    with pytest.raises(ConfigError, match=r"terminationGracePeriodSeconds of 615 or more \(launch\.grace_seconds=600 .*found 150"):
        run.train("launch.grace_seconds=600 launch.queue_timeout_seconds=5 launch.start_timeout_seconds=5")
    assert run.cluster.seen("create", TRAIN_JOB) == []


def test_a_folder_of_this_machine_is_no_store_for_a_cluster(run: Run, store: Store) -> None:
    run.store = store
    with pytest.raises(ConfigError, match=r"launch\.backend=trainjob: expected a store that pods on other machines reach .*found file:"):
        run.train()


def test_the_image_is_named_by_the_recipe_or_the_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"found neither launch\.image nor STABLEREP_TRAIN_IMAGE; set launch\.image="):
        run.train('launch.image=""')
    monkeypatch.setenv("STABLEREP_TRAIN_IMAGE", "train@sha256:1")
    run.play(run.succeed)
    run.train('launch.image="" launch.backend=trainjob')
    assert (run.scene.job or {})["spec"]["trainer"]["image"] == "train@sha256:1"


def test_without_credentials_the_remedy_is_told(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="no credentials for a Kubernetes API server"):
        run.train()
