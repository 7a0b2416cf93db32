"""probe and gate as the pipeline runs them: what they leave, what they find again, what the gate says and why."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled_images import write_images
from tiny_encoder import write_encoder

from stablerep.catalogue import ParquetCatalogue
from stablerep.errors import CheckpointError, DataError
from stablerep.probes.bootstrap import accuracy_interval
from stablerep.probes.protocol import ALL_LABELS, ProbeProtocol
from stablerep.probes.result import Difference, ProbeResult, find_result, pack_bits, write_result
from stablerep.records import Evaluation, GateDecision, ModelRef, ProbeScore
from stablerep.stages import gate, probe
from stablerep.store import Store

WHEN = "2026-01-01T00:00:00+00:00"
SUITE = "suite-0123456789abcdef"
NUM_TEST = 1000


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def model(store: Store, tmp_path: Path) -> ModelRef:
    return export(store, tmp_path, seed=4)


def export(store: Store, tmp_path: Path, seed: int) -> ModelRef:
    folder = tmp_path / f"export-{seed}"
    model_id = write_encoder(folder, seed=seed, has_text=False)
    for path in folder.iterdir():
        store.put(path, f"models/{model_id}/{path.name}")
    return ModelRef(model_id, store.uri_of(f"models/{model_id}"), "sha", "vit_tiny_patch16_224", 48, 32, False)


def words(images: Path, more: str = "") -> str:
    return f"probe.dataset={images} probe.labels_per_class=[2,-1] probe.num_epochs=5 gate.has_catalogue=false {more}"


def run_probe(store: Store, images: Path, model: ModelRef, report_path: str = "") -> Evaluation:
    return probe.run("smoke", words(images), store.uri, model=model.to_json(), report_path=report_path)


def test_probe_on_random_views_is_another_suite(store: Store, images: Path, model: ModelRef) -> None:
    views = probe.run("smoke", words(images, "probe.augmentation=crop_flip"), store.uri, model=model.to_json())
    assert views.suite != run_probe(store, images, model).suite
    found = find_result(store, model.model_id, views.suite)
    assert found
    assert found.protocol["augmentation"] == "crop_flip"


def test_probe_leaves_a_result_a_page_metrics_and_a_row(store: Store, images: Path, model: ModelRef, tmp_path: Path) -> None:
    evaluation = run_probe(store, images, model, str(tmp_path / "copy.html"))
    folder = f"evals/{model.model_id}/{evaluation.suite}"
    assert store.list(folder) == [f"{folder}/report.html", f"{folder}/result.json"]
    assert evaluation.uri == store.uri_of(folder)
    assert (tmp_path / "copy.html").read_bytes() == store.read(f"{folder}/report.html")
    assert model.model_id in store.read_text(f"{folder}/report.html")
    assert ParquetCatalogue(store).has_evaluation(evaluation)
    lines = [json.loads(line) for line in store.read_text("telemetry/probe.jsonl").splitlines()]
    headline = {"source": "encoder", "probe": "linear", "labels": "all"}
    (value,) = [line["value"] for line in lines if line["metric"] == "stablerep_probe_accuracy_ratio" and line["labels"] == headline]
    assert value == evaluation.headline


def test_probe_again_returns_the_same_without_torch(store: Store, images: Path, model: ModelRef) -> None:
    first = run_probe(store, images, model)
    code = (
        "import sys\nsys.modules['torch'] = sys.modules['feast'] = None\nfrom stablerep.stages import probe\n"
        f"print(probe.run('smoke', {words(images)!r}, {store.uri!r}, model={model.to_json()!r}).to_json())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.stdout.strip() == first.to_json(), result.stderr


def test_probe_continues_after_a_kill_anywhere(store: Store, images: Path, model: ModelRef) -> None:
    first = run_probe(store, images, model)
    key = f"evals/{model.model_id}/{first.suite}/result.json"
    content, (row,) = store.read(key), store.list("catalogue/evaluations")
    store.delete(row)  # killed before the row was registered
    assert run_probe(store, images, model) == first
    assert ParquetCatalogue(store).has_evaluation(first)
    store.delete(key)  # killed between the page and the result
    assert run_probe(store, images, model) == first
    assert store.read(key) == content


def test_other_settings_are_another_suite(store: Store, images: Path, model: ModelRef) -> None:
    first = run_probe(store, images, model)
    second = probe.run("smoke", words(images, "probe.seed=1"), store.uri, model=model.to_json())
    assert first.suite != second.suite
    third = probe.run("smoke", words(images, "probe.feature_batch_size=3"), store.uri, model=model.to_json())
    assert third == first  # how images are batched decides nothing


def test_small_images_are_probed_on_one_thread(store: Store, images: Path, model: ModelRef, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from stablerep.probes import evaluate

    before, measure, seen = torch.get_num_threads(), evaluate.evaluate_encoder, []

    def watched(*arguments: Any, **options: Any) -> ProbeResult:
        seen.append(torch.get_num_threads())
        return measure(*arguments, **options)

    monkeypatch.setattr(evaluate, "evaluate_encoder", watched)
    torch.set_num_threads(2)
    try:
        run_probe(store, images, model)
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


def test_a_model_in_an_object_store_is_probed(images: Path, tmp_path: Path) -> None:
    store = Store("memory://probe-stage")
    model = export(store, tmp_path, seed=4)
    evaluation = run_probe(store, images, model)
    assert find_result(store, model.model_id, evaluation.suite) is not None


def test_a_model_that_is_not_what_its_record_says(store: Store, images: Path, model: ModelRef) -> None:
    with pytest.raises(CheckpointError, match=r"expected model-other, found model-[0-9a-f]{16}; export the model again"):
        run_probe(store, images, replace(model, model_id="model-other"))
    store.write(f"models/{model.model_id}/encoder.safetensors", b"damaged")
    with pytest.raises(CheckpointError, match=r"encoder\.safetensors"):
        run_probe(store, images, model)


def test_what_kubeflow_shows(store: Store, images: Path, model: ModelRef) -> None:
    evaluation = run_probe(store, images, model)
    metrics, class_names, confusion = probe.kubeflow_metrics(store.uri, evaluation.to_json())
    assert metrics["encoder_linear_all"] == round(100 * evaluation.headline, 2)
    assert {"raw_pixels_linear_2", "random_init_knn_all", "encoder_linear_bn_2"} <= set(metrics)
    assert class_names == ["blue", "green", "red"]
    assert [sum(row) for row in confusion] == [5, 5, 5]
    with pytest.raises(DataError, match=r"expected the probe result of model-x .* run the probe stage again"):
        probe.kubeflow_metrics(store.uri, replace(evaluation, model_id="model-x").to_json())


def test_the_whole_way_from_probe_to_gate(store: Store, images: Path, model: ModelRef) -> None:
    evaluation = run_probe(store, images, model)
    decision = gate.run("smoke", words(images), store.uri, evaluation=evaluation.to_json())
    assert decision.is_promoted  # smoke asks for nothing
    assert len(decision.reasons) == 3


# The gate on results that are known to the image: answers are written as they should be, nothing is measured.


def known_result(store: Store, model_id: str, correct: np.ndarray, random_share: float = 0.4) -> Evaluation:
    """Write the result of a model that answered as `correct` says; registers it too."""
    low, high = accuracy_interval(correct[None], 500, seed=0)
    accuracy = float(correct.mean())
    score = ProbeScore("encoder", "linear", ALL_LABELS, accuracy, low, high)
    uri = store.uri_of(f"evals/{model_id}/{SUITE}")
    evaluation = Evaluation(model_id, SUITE, uri, accuracy, low, high, (score,))
    protocol = ProbeProtocol(("linear", "linear_bn", "knn"), (ALL_LABELS,), 1, 90, 1024, (0.1,), 20, 0.07, 500, 0)
    difference = accuracy - random_share
    write_result(
        store,
        ProbeResult(
            evaluation,
            {"headline_labels": ALL_LABELS, "num_bootstrap": protocol.num_bootstrap, "seed": protocol.seed},
            {"folder": "x"},
            "",
            "",
            ("a", "b"),
            10,
            NUM_TEST,
            {},
            ((1, 0), (0, 1)),
            {},
            (Difference("random_init", difference, difference - 0.02, difference + 0.02),),
            {"encoder": (pack_bits(correct),)},
        ),
    )
    ParquetCatalogue(store).register_evaluation(evaluation, WHEN)
    return evaluation


def answers(num_wrong: int, start: int = 0) -> np.ndarray:
    correct = np.ones(NUM_TEST, dtype=np.bool_)
    correct[start : start + num_wrong] = False
    return correct


def decide(store: Store, evaluation: Evaluation, overrides: str = "", *, has_catalogue: bool = False) -> GateDecision:
    switch = f"gate.has_catalogue={json.dumps(has_catalogue)}"
    return gate.run("quickstart", f"{switch} {overrides}", store.uri, evaluation=evaluation.to_json())


def promote(store: Store, model_id: str) -> None:
    ParquetCatalogue(store).promote(model_id, SUITE, WHEN)


def test_the_first_model_is_promoted_with_reasons(store: Store) -> None:
    decision = decide(store, known_result(store, "model-a", answers(100)))
    assert decision.is_promoted
    assert (decision.champion_id, decision.champion_accuracy) == ("", 0.0)
    accuracy, over_random, champion = decision.reasons
    assert accuracy.startswith("passed: the linear probe reaches 90.0 % [")
    assert "+50.0 points [+48.0 points, +52.0 points] over an untrained trunk" in over_random
    assert champion == f"passed: no champion on {SUITE} yet"
    kept = store.read_text(f"evals/model-a/{SUITE}/decision.json")
    assert GateDecision.from_json(kept) == decision


@pytest.mark.parametrize(
    ("overrides", "failed"),
    [
        ("gate.min_accuracy=0.91", "failed: the linear probe reaches 90.0 % .*; gate.min_accuracy asks for 91.0 %"),
        ("gate.min_over_random_init=0.51", r"failed: \+50.0 points .*; gate.min_over_random_init asks for \+51.0 points"),
    ],
)
def test_a_model_that_is_not_good_enough_is_held(store: Store, overrides: str, failed: str) -> None:
    import re

    decision = decide(store, known_result(store, "model-a", answers(100)), overrides)
    assert not decision.is_promoted
    assert sum(reason.startswith("failed") for reason in decision.reasons) == 1
    assert any(re.fullmatch(failed, reason) for reason in decision.reasons)


@pytest.mark.parametrize(
    ("num_wrong", "is_promoted"),
    [
        (50, True),  # better
        (100, True),  # equal
        (115, True),  # 1.5 points worse: within what is allowed
        (160, False),  # 6 points worse on the very images the champion answers: even the upper end is too low
    ],
)
def test_against_the_champion_image_by_image(store: Store, num_wrong: int, is_promoted: bool) -> None:
    known_result(store, "model-champion", answers(100))
    promote(store, "model-champion")
    decision = decide(store, known_result(store, "model-new", answers(num_wrong)))
    assert decision.is_promoted == is_promoted
    assert (decision.champion_id, decision.champion_accuracy) == ("model-champion", 0.9)
    assert f"{(100 - num_wrong) / 10:+.1f} points [" in decision.reasons[2]
    assert "against champion model-champion (90.0 %), on the same test images" in decision.reasons[2]
    assert "allows -2.0 points for the upper end" in decision.reasons[2]


def test_pairing_sees_what_intervals_do_not(store: Store) -> None:
    """40 more mistakes of 1000: paired it is clearly over 2 points; the two intervals alone would let it pass."""
    known_result(store, "model-champion", answers(100))
    promote(store, "model-champion")
    worse = known_result(store, "model-new", answers(140))
    assert not decide(store, worse).is_promoted
    store.delete(f"evals/model-champion/{SUITE}/result.json")
    unpaired = decide(store, worse)
    assert unpaired.is_promoted
    assert "by the ends of both intervals, its answers are not in the store" in unpaired.reasons[2]


def test_the_champion_passes_again(store: Store) -> None:
    evaluation = known_result(store, "model-a", answers(100))
    promote(store, "model-a")
    decision = decide(store, evaluation)
    assert decision.is_promoted
    assert decision.reasons[2] == f"passed: the model is the champion on {SUITE} itself"


def test_a_champion_of_another_suite_does_not_count(store: Store) -> None:
    other = replace(known_result(store, "model-champion", answers(0)), suite="suite-other")
    ParquetCatalogue(store).register_evaluation(other, WHEN)
    ParquetCatalogue(store).promote("model-champion", "suite-other", WHEN)
    assert decide(store, known_result(store, "model-new", answers(500))).champion_id == ""


def test_the_decision_is_the_same_with_feast_and_without(store: Store) -> None:
    known_result(store, "model-champion", answers(100))
    promote(store, "model-champion")  # in Parquet only: Feast catches up
    evaluation = known_result(store, "model-new", answers(160))
    with_feast = decide(store, evaluation, has_catalogue=True)
    assert store.exists("catalogue/feast/online.db")
    assert with_feast == decide(store, evaluation)
    assert with_feast.champion_id == "model-champion"


def test_the_gate_needs_no_torch(store: Store) -> None:
    evaluation = known_result(store, "model-a", answers(100))
    code = (
        "import sys\nsys.modules['torch'] = sys.modules['feast'] = sys.modules['sklearn'] = None\nfrom stablerep.stages import gate\n"
        f"print(gate.run('quickstart', '', {store.uri!r}, evaluation={evaluation.to_json()!r}).to_json())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.stdout.strip() == decide(store, evaluation).to_json(), result.stderr


def test_an_evaluation_that_is_not_there(store: Store) -> None:
    score = ProbeScore("encoder", "linear", ALL_LABELS, 0.9, 0.8, 1.0)
    ghost = Evaluation("model-ghost", SUITE, "file:///nowhere", 0.9, 0.8, 1.0, (score,))
    with pytest.raises(DataError, match=r"the probe result of model-ghost at .*result\.json, found none; run the probe stage again"):
        decide(store, ghost)
