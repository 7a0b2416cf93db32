"""pretrain and export as stages: through TorchX, torchrun and DeepSpeed with two processes, with real signals.

One undisturbed run is the yardstick. A second run of the same settings in another store is stopped by SIGTERM, continued, killed by
SIGKILL at a random moment, continued, and must end in the same bytes. Every launch costs seconds, so the tests share them.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from tiny_groups import GENERATOR, tiny_dataset
from tiny_training import TINY, overrides_of

from stablerep.errors import CheckpointError, DivergenceError, LaunchError, ShardError
from stablerep.models import load_encoder
from stablerep.models.onnx_trunk import load_onnx_trunk
from stablerep.records import CheckpointRef, DatasetRef, ModelRef
from stablerep.stages import export, pretrain
from stablerep.stages.pretrain_run import plan_run
from stablerep.store import Store
from stablerep.training.history import read_history
from stablerep.training.state import read_progress

PROJECT = Path(__file__).resolve().parents[2]
SETTINGS = replace(TINY, num_processes=2, num_steps=80, warmup_steps=10, checkpoint_every_steps=10)
OVERRIDES = overrides_of(SETTINGS)
WAIT_SECONDS = 120

pytestmark = [pytest.mark.dist, pytest.mark.slow]


@dataclass(frozen=True)
class Run:
    """A store with a data set and what pretrain made of it."""

    store: Store
    dataset: DatasetRef
    checkpoint: CheckpointRef

    @property
    def runs(self) -> Store:
        return self.store.at(f"runs/{self.checkpoint.run_key}")

    def export(self, more: str = "") -> ModelRef:
        records = {"dataset": self.dataset.to_json(), "generator": GENERATOR.to_json(), "checkpoint": self.checkpoint.to_json()}
        return export.run("smoke", f"{OVERRIDES} {more}", self.store.uri, **records)

    def history(self) -> list[tuple[int, str, str, float | None]]:
        """Without what the clock decides."""
        by_clock = ("images_per_second", "data_wait_ratio", "timestamp_seconds")
        points = read_history(self.runs, "metrics.jsonl")
        return [(p.step, p.metric, str(p.labels), p.value) for p in points if not p.metric.endswith(by_clock)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("undisturbed")
    store = Store(str(folder))
    dataset = tiny_dataset(store)
    curves = folder / "curves.html"
    checkpoint = pretrain.run("smoke", OVERRIDES, store.uri, dataset=dataset.to_json(), curves_path=str(curves))
    assert "<svg" in curves.read_text()
    return Run(store, dataset, checkpoint)


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    store = Store(str(tmp_path_factory.mktemp("disturbed")))
    dataset = tiny_dataset(store)
    run_key = plan_run("smoke", SETTINGS, dataset).run_key
    runs = store.at(f"runs/{run_key}")

    stage = _start(store, dataset)
    _wait_for(stage, lambda: _step(runs) >= 3)
    stage.send_signal(signal.SIGTERM)
    _, errors = stage.communicate(timeout=WAIT_SECONDS)
    assert stage.returncode == 75, errors
    assert "Preempted: stopped after step" in errors
    assert _workers(run_key) == []
    stopped_at = max(int(key.split("/")[1].removeprefix("step-")) for key in runs.list("checkpoints"))
    assert 3 <= stopped_at < SETTINGS.num_steps

    stage = _start(store, dataset)
    moment = random.choice(["starting", *range(stopped_at, SETTINGS.num_steps - 5, 10)])
    sys.stdout.write(f"SIGKILL at {moment}\n")
    _wait_for(stage, lambda: bool(_workers(run_key)) if moment == "starting" else _step(runs) >= moment)
    stage.kill()
    stage.communicate()

    stage = _start(store, dataset)  # at once: it waits for what the killed attempt left
    output, errors = stage.communicate(timeout=2 * WAIT_SECONDS)
    assert stage.returncode == 0, errors
    # Where the killed attempt had made its last checkpoint there is nothing to wait for, and its torchrun winds down beside the stage.
    deadline = time.monotonic() + WAIT_SECONDS
    while remains := _workers(run_key):
        assert time.monotonic() < deadline, remains
        time.sleep(0.05)
    return Run(store, dataset, CheckpointRef.from_json(output))


def _start(store: Store, dataset: DatasetRef, **environment: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(Path(__file__).with_name("stage_process.py")), store.uri, dataset.to_json(), OVERRIDES]
    variables = os.environ | {"PYTHONPATH": str(PROJECT)} | environment
    return subprocess.Popen(command, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _wait_for(stage: "subprocess.Popen[str]", is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_so():
        assert stage.poll() is None, stage.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _step(runs: Store) -> int:
    """The step of the newest attempt, 0 before its first."""
    try:
        attempt = json.loads(runs.read_text("progress.json"))["attempt"] if runs.exists("progress.json") else ""
    except ValueError:
        return 0
    progress = read_progress(runs, attempt) if attempt else None
    return progress.step if progress else 0


def _workers(run_key: str) -> list[int]:
    """Processes of the machine that work on a run: torchrun and its children."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if run_key in words:
            found.append(int(path.parent.name))
    return found


def test_stopped_killed_and_continued_is_never_disturbed(undisturbed: Run, disturbed: Run) -> None:
    assert disturbed.checkpoint == replace(undisturbed.checkpoint, uri=disturbed.checkpoint.uri)
    assert disturbed.history() == undisturbed.history()
    assert len(disturbed.history()) == 6 * SETTINGS.num_steps


def test_the_record_and_what_is_left(undisturbed: Run) -> None:
    checkpoint = undisturbed.checkpoint
    assert (checkpoint.step, checkpoint.num_steps) == (80, 80)
    assert checkpoint.uri.endswith("/checkpoints/step-80")
    assert set(checkpoint.metrics) == {"loss", "image_loss", "text_loss"}
    keys = undisturbed.runs.list()
    assert {"config.json", "job.json", "complete.json", "curves.html", "metrics.jsonl", "model.json", "tokenizer.json"} <= set(keys)
    assert {key.split("/")[1] for key in keys if key.startswith("checkpoints/")} == {"step-70", "step-80"}
    assert json.loads(undisturbed.runs.read_text("job.json"))["roles"][0]["num_replicas"] == 1


def test_a_finished_run_is_returned_without_torch(undisturbed: Run) -> None:
    stage = _start(undisturbed.store, undisturbed.dataset, CHECK_LIGHT="1")
    output, errors = stage.communicate(timeout=WAIT_SECONDS)
    assert stage.returncode == 0, errors
    assert CheckpointRef.from_json(output) == undisturbed.checkpoint


def test_divergence_is_raised_again_here_also_from_an_object_store(s3_store_uri: str) -> None:
    bad = overrides_of(replace(SETTINGS, lr=1e30, clip_norm=0.0, num_steps=8, warmup_steps=0, checkpoint_every_steps=1))
    store = Store(s3_store_uri)
    dataset = tiny_dataset(store)
    with pytest.raises(DivergenceError, match=r"step \d: expected finite losses and gradients, found loss .*lower pretrain\.lr"):
        pretrain.run("smoke", bad, store.uri, dataset=dataset.to_json())
    reported = store.read_text("telemetry/pretrain.jsonl")
    assert "stablerep_training_nonfinite_total" in reported
    assert '"error": "DivergenceError"' in reported
    run = store.at(f"runs/{plan_run('smoke', replace(SETTINGS, lr=1e30, clip_norm=0.0, num_steps=8, warmup_steps=0), dataset).run_key}")
    assert {"curves.html", "diverged.json", "failure.json", "metrics.jsonl"} <= set(run.list())
    assert any(key.startswith("logs/") for key in run.list())


def test_an_error_of_a_process_is_the_error_of_the_stage(store: Store) -> None:
    dataset = tiny_dataset(store)
    store.delete(next(key for key in store.list(f"groups/{dataset.dataset_id}") if key.endswith(".tar")))
    with pytest.raises(ShardError, match="run generate"):
        pretrain.run("smoke", f"{OVERRIDES} pretrain.num_processes=1", store.uri, dataset=dataset.to_json())


def test_a_job_that_never_starts_shows_its_log(undisturbed: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PET_MAX_RESTARTS", "nonsense")  # torchrun refuses it
    with pytest.raises(LaunchError, match=r"(?s)the training job ended as failed after .*the last lines of its log:.*max.restarts"):
        pretrain.run("smoke", f"{OVERRIDES} pretrain.seed=1", undisturbed.store.uri, dataset=undisturbed.dataset.to_json())


def test_equal_runs_export_equal_bytes(undisturbed: Run, disturbed: Run) -> None:
    first, second = undisturbed.export(), disturbed.export()
    assert second == replace(first, uri=second.uri)
    names = undisturbed.store.list(f"models/{first.model_id}")
    assert names == disturbed.store.list(f"models/{first.model_id}")
    assert all(undisturbed.store.read(name) == disturbed.store.read(name) for name in names)
    expected = {"MODEL_CARD.md", "SHA256SUMS", "config.json", "encoder.safetensors", "lineage.json", "preprocessor.json"}
    assert expected | {"statistics.json", "text.safetensors", "tokenizer.json"} == {name.split("/")[-1] for name in names}


def test_the_export_is_a_working_encoder_and_names_its_origin(undisturbed: Run) -> None:
    model = undisturbed.export()
    folder = undisturbed.store.local_path(f"models/{model.model_id}")
    assert folder is not None
    encoder = load_encoder(folder)
    images = torch.zeros(2, 3, model.size_px, model.size_px)
    assert encoder.embed(images).shape == (2, model.embedding_dim)
    assert encoder.model_id == model.model_id
    assert encoder.has_text == model.has_text
    lineage = json.loads((folder / "lineage.json").read_text())
    assert lineage["dataset"]["dataset_id"] == undisturbed.dataset.dataset_id
    assert lineage["generator"]["licence"] == GENERATOR.licence
    assert lineage["run"]["weights_sha256"] == undisturbed.checkpoint.sha256
    assert lineage["model"] == {"model_id": model.model_id, "encoder_sha256": model.sha256}
    card = (folder / "MODEL_CARD.md").read_text()
    assert all(fact in card for fact in (undisturbed.dataset.dataset_id, GENERATOR.licence, "`smoke`", "80 of 12 captions x 3 images"))


def test_a_half_written_export_is_written_again(undisturbed: Run) -> None:
    model = undisturbed.export()
    undisturbed.store.delete(f"models/{model.model_id}/SHA256SUMS")
    undisturbed.store.write(f"models/{model.model_id}/encoder.safetensors", b"half")
    assert undisturbed.export() == model
    folder = undisturbed.store.local_path(f"models/{model.model_id}")
    assert folder is not None
    assert load_encoder(folder).model_id == model.model_id


def test_an_encoder_that_onnx_runtime_serves_has_its_file_beside_it(undisturbed: Run) -> None:
    model = undisturbed.export()
    files = set(undisturbed.store.list(f"models/{model.model_id}"))
    assert undisturbed.export("deploy.runtime_engine=onnx") == model
    assert set(undisturbed.store.list(f"models/{model.model_id}")) - files == {f"models/{model.model_id}/encoder.onnx"}
    folder = undisturbed.store.local_path(f"models/{model.model_id}")
    assert folder is not None
    assert load_onnx_trunk(folder, load_encoder(folder))(torch.zeros(3, 3, model.size_px, model.size_px)).shape == (3, model.embedding_dim)
    written_at = (folder / "encoder.onnx").stat().st_mtime_ns
    assert undisturbed.export("deploy.runtime_engine=onnx") == undisturbed.export() == model
    assert (folder / "encoder.onnx").stat().st_mtime_ns == written_at


def test_records_of_different_runs_are_refused(undisturbed: Run) -> None:
    other = replace(undisturbed, checkpoint=replace(undisturbed.checkpoint, fingerprint="0" * 64))
    with pytest.raises(CheckpointError, match=f"expected the checkpoint of {undisturbed.checkpoint.run_key}.*pass the records of one run"):
        other.export()


def test_damaged_weights_are_not_exported(disturbed: Run) -> None:
    disturbed.store.delete("models")
    key = next(key for key in disturbed.runs.list("checkpoints/step-80") if key.endswith("weights.safetensors"))
    content = bytearray(disturbed.runs.read(key))
    content[-1] ^= 1
    disturbed.runs.write(key, bytes(content))
    with pytest.raises(CheckpointError, match=r"(?s)expected weights with sha256 .*run pretrain again"):
        disturbed.export()
