"""The stage `pretrain` with a cluster backend: its store is S3, its API server a fake, its job is played."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from fake_cluster import FakeCluster
from played_cluster import Scene
from tiny_groups import GENERATOR

from stablerep.cluster import TRAIN_JOB
from stablerep.config import load_recipe
from stablerep.errors import ConfigError, DivergenceError, LaunchError, Preempted
from stablerep.launch.followed import Patience
from stablerep.launch.kinds import TrainJobKind
from stablerep.records import DatasetRef
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
def run(fake_cluster: FakeCluster, cluster_kubeconfig: Path, s3_store_uri: str) -> Run:
    plan = plan_run("smoke", load_recipe("smoke", WORDS).pretrain, DATASET)
    name = f"pretrain-{plan.run_key}"
    return Run(fake_cluster, Store(s3_store_uri), plan, Scene(fake_cluster, TrainJobKind(), name))


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
            time.sleep(0.2)

    run.play(act)
    with pytest.raises(LaunchError, match=r"expected a training step within 3 s, found none.*launch\.heartbeat_timeout_seconds"):
        run.train("launch.heartbeat_timeout_seconds=3")
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


LAUNCHER = """
import sys
from importlib.abc import MetaPathFinder
class NoTorch(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "deepspeed", "timm", "diffusers", "transformers", "prometheus_client"):
            raise ModuleNotFoundError(f"{name} is not in the launch image")
sys.meta_path.insert(0, NoTorch())
from stablerep.errors import StablerepError
from stablerep.stages import pretrain
try:
    pretrain.run("smoke", sys.argv[1], sys.argv[2], dataset=sys.argv[3])
except StablerepError as error:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
"""


def _launcher(run: Run) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", LAUNCHER, run.words, run.store.uri, DATASET.to_json()]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(PROJECT)}, stderr=subprocess.PIPE, text=True)


@pytest.mark.dist
@pytest.mark.slow
def test_a_killed_launcher_leaves_its_job_to_the_next_and_neither_needs_torch(run: Run) -> None:
    first = _launcher(run)
    _wait(lambda: run.scene.attempt)
    attempt, uid = run.scene.attempt, (run.scene.job or {})["metadata"]["uid"]
    run.scene.run()
    first.kill()
    first.communicate()
    second = _launcher(run)  # KFP retries the task
    _wait(lambda: run.cluster.seen("create", TRAIN_JOB)[1:])
    assert run.scene.attempt == attempt
    assert (run.scene.job or {})["metadata"]["uid"] == uid
    run.fail_with("CheckpointError", "step-4 is damaged", 4)
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 4, errors
    assert "adopted, it runs on" in errors
    assert "CheckpointError: step-4 is damaged" in errors


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
