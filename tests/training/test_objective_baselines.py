"""The baselines against their papers' formulas written out, and as whole runs: they learn, continue exactly, and are exported."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from objective_worker import CLASSES, LABELS, baseline, batch
from tiny_groups import GENERATOR, tiny_dataset
from tiny_training import TINY, StopAfter, overrides_of, train_alone
from torch.nn import functional

from stablerep.config import load_recipe
from stablerep.config.schema import PretrainConfig
from stablerep.errors import ConfigError, DataError, Preempted
from stablerep.models import load_encoder
from stablerep.records import CheckpointRef
from stablerep.stages import export
from stablerep.stages.pretrain_run import RunConfig, checkpoint_ref, plan_run
from stablerep.store import Store
from stablerep.training.classes import CLASSES_KEY, classes_of
from stablerep.training.history import read_history, series
from stablerep.training.objective import MultiPositive
from stablerep.training.objective_baselines import SimClr
from stablerep.training.state import METRICS_KEY, WEIGHTS_NAME

RUNS: dict[str, dict[str, Any]] = {
    "multi_positive": {"text_weight": 0.0},
    "simclr": {"images_per_caption": 2},
    "clip": {"images_per_caption": 1},
    "supervised": {"images_per_caption": 4, "trunk": replace(TINY.trunk, width=48, depth=2)},
}


def _nt_xent(rows: torch.Tensor, temperature: float) -> float:
    """SimCLR's equation 1 in loops; rows 2k of the paper are here rows k, rows 2k+1 rows k + half."""
    unit = [[float(x) / math.sqrt(sum(float(y) ** 2 for y in row)) for x in row] for row in rows]
    half = len(unit) // 2
    total = 0.0
    for i, first in enumerate(unit):
        similarity = [math.exp(sum(a * b for a, b in zip(first, other, strict=True)) / temperature) for other in unit]
        total -= math.log(similarity[(i + half) % (2 * half)] / (sum(similarity) - similarity[i]))
    return total / len(unit)


@pytest.mark.parametrize("num_images", [1, 3])
@torch.no_grad()
def test_simclr_is_nt_xent_whatever_the_captions(num_images: int) -> None:
    objective = baseline("simclr")
    views, tokens, _ = batch(2 * num_images)
    expected = _nt_xent(objective.towers(views).image_BD, 0.2)
    for labels in (torch.arange(6), torch.zeros(6, dtype=torch.int64)):  # one caption for all images: they stay negatives
        total, image, text = objective(views, tokens, labels)
        assert float(total) == float(image) == pytest.approx(expected, rel=1e-5)
        assert float(text) == 0.0


def test_two_views_of_one_image_make_multi_positive_simclr() -> None:
    """Trap 22, value and gradient."""
    views, tokens, labels = batch(2)
    towers = baseline("simclr").towers
    found = []
    for objective in (SimClr(towers, temperature=0.2), MultiPositive(towers, image_weight=1.0, text_weight=0.0, temperature=0.2)):
        total, _, _ = objective(views, tokens, labels)
        found.append((total, *torch.autograd.grad(total, list(towers.parameters()))))
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second)


def test_clip_is_the_symmetric_cross_entropy() -> None:
    objective = baseline("clip").double()
    assert objective.towers.head is None
    views, tokens, labels = batch(1)
    total, image, text = objective(views.double(), tokens, labels)
    output = objective.towers(views.double(), tokens)
    unit_image, unit_text = functional.normalize(output.image_text_BD), functional.normalize(output.text_ND)
    logits = output.logit_scale.exp() * unit_image @ unit_text.T
    target = torch.arange(len(labels))
    expected = (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(total, expected)
    assert (image.item(), text.item()) == (0.0, total.item())
    parameters = list(objective.parameters())
    for found, reference in zip(torch.autograd.grad(total, parameters), torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(found, reference)


def test_supervised_is_the_cross_entropy_of_the_captions_classes() -> None:
    objective = baseline("supervised")
    views, tokens, labels = batch(3)
    total, image, text = objective(views, tokens, labels)
    class_of = dict(zip(LABELS, CLASSES, strict=True))
    losses = []
    for view in views:
        for pixels, label in zip(view, labels.tolist(), strict=True):
            scores = objective.classifier(objective.towers.trunk(pixels[None]))[0]
            losses.append(scores.logsumexp(0) - scores[class_of[label]])
    assert total.item() == image.item() == pytest.approx((sum(losses) / len(losses)).item(), rel=1e-5)
    assert text.item() == 0.0
    assert 0.9 * math.log(3) < total.item() < 1.2 * math.log(3), "an untrained classifier knows nothing"


def test_batches_that_do_not_fit_are_refused() -> None:
    for name, num_views, message in (("simclr", 3, "two views of every image, found 3"), ("clip", 2, "one view of a caption, found 2")):
        with pytest.raises(DataError, match=message):
            baseline(name)(*batch(num_views))
    for words, message in (
        ("pretrain.objective=clip", r"pretrain.images_per_caption: expected 1 with pretrain.objective=clip, found 4"),
        ("pretrain.objective=simclr pretrain.images_per_caption=0", "expected 1 or more with pretrain.objective=simclr, found 0"),
        ("pretrain.images_per_caption=1", "expected 2 or more .a single image has no positive., found 1"),
        ("pretrain.objective=moco", "expected one of multi_positive, simclr, clip, supervised, synclr, found 'moco'"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_recipe("quickstart", words)


def test_budgets_are_passes_through_the_trunk() -> None:
    budgets = {name: PretrainConfig(objective=name, **RUNS[name] | {"captions_per_batch": 8}) for name in RUNS}  # pyright: ignore[reportArgumentType]
    assert {name: (run.views_per_batch, run.has_text) for name, run in budgets.items()} == {
        "multi_positive": (48, False),
        "simclr": (32, False),
        "clip": (8, True),
        "supervised": (32, False),
    }
    assert PretrainConfig().has_text


def test_classes_are_numbered_by_name_and_every_caption_has_one() -> None:
    assert classes_of(["b", "a", "c"], {"a": "dog", "b": "cat", "c": "dog", "z": "axe"}, "x").class_of == {"b": 0, "a": 1, "c": 1}
    with pytest.raises(
        DataError, match=r"captions-1: expected a class for each of 2 captions .* found none for 1 of them \(b\).*label_column"
    ):
        classes_of(["a", "b"], {"a": "dog"}, "captions-1")
    with pytest.raises(DataError, match="expected captions of 2 or more classes, found dog"):
        classes_of(["a"], {"a": "dog"}, "captions-1")


@pytest.fixture(scope="module", params=list(RUNS))
def undisturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, RunConfig, Any]:
    store = Store(str(tmp_path_factory.mktemp(request.param)))
    plan = _plan(store, request.param)
    return store, plan, train_alone(store, plan)


def _plan(store: Store, objective: str) -> RunConfig:
    settings = {"objective": objective, "num_steps": 30, "warmup_steps": 3, "checkpoint_every_steps": 30} | RUNS[objective]
    pretrain = load_recipe("smoke", overrides_of(TINY)).pretrain
    return plan_run("smoke", PretrainConfig(**vars(pretrain) | settings), tiny_dataset(store, has_classes=True))


def _weights(store: Store, plan: RunConfig, record: Any) -> bytes:
    return store.read(f"{plan.prefix}/checkpoints/step-{record.step}/{record.file(WEIGHTS_NAME).name}")


def test_every_objective_learns(undisturbed: Any) -> None:
    store, plan, record = undisturbed
    history = read_history(store.at(plan.prefix), METRICS_KEY)
    losses = [value for _, value in series(history, "stablerep_training_loss", term="total")]
    floor = math.log(plan.pretrain.images_per_caption - 1) if plan.pretrain.objective == "multi_positive" else 0.0
    assert len(losses) == 30
    assert sum(losses[-3:]) / 3 - floor < 0.8 * (sum(losses[:3]) / 3 - floor)
    assert record.metrics["loss"] == pytest.approx(record.metrics["image_loss"] + record.metrics["text_loss"])
    assert store.at(plan.prefix).exists(CLASSES_KEY) == (plan.pretrain.objective == "supervised")


def test_stopped_and_continued_is_never_stopped(undisturbed: Any, store: Store) -> None:
    done_store, plan, record = undisturbed
    plan = _plan(store, plan.pretrain.objective)
    with pytest.raises(Preempted, match="stopped after step 11 of 30"):
        train_alone(store, plan, is_stop_asked=StopAfter(11))
    assert _weights(store, plan, train_alone(store, plan, attempt="b")) == _weights(done_store, plan, record)


def test_the_export_is_a_trunk_without_head_or_classifier(undisturbed: Any) -> None:
    store, plan, record = undisturbed
    final: CheckpointRef = checkpoint_ref(record, store.at(plan.prefix))
    records = {"dataset": plan.dataset.to_json(), "generator": GENERATOR.to_json(), "checkpoint": final.to_json()}
    model = export.run("smoke", overrides_of(plan.pretrain), store.uri, **records)
    folder = store.local_path(f"models/{model.model_id}") or Path()
    encoder = load_encoder(folder)
    assert encoder.embed(torch.zeros(2, 3, 16, 16)).shape == (2, plan.pretrain.trunk.width)
    assert encoder.has_text == model.has_text == (plan.pretrain.objective == "clip")
    assert encoder.spec.has_head == (plan.pretrain.objective in ("multi_positive", "simclr"))
    card = (folder / "MODEL_CARD.md").read_text()
    words = {"simclr": "NT-Xent", "clip": "CLIP's image-text loss", "supervised": "cross entropy", "multi_positive": "multi-positive"}
    assert words[plan.pretrain.objective] in card
    assert "it saw no real image" in card


def test_without_classes_supervised_training_is_refused(store: Store) -> None:
    settings = vars(TINY) | {"objective": "supervised"}
    plan = plan_run("smoke", PretrainConfig(**settings), tiny_dataset(store))
    with pytest.raises(DataError, match=r"prompts-tiny: expected a class for each of 12 captions .* found none for 12 of them"):
        train_alone(store, plan)


@pytest.mark.dist
@pytest.mark.parametrize("name", ["multi_positive", "ring", "weighted", "weighted_ring", "simclr", "clip", "supervised", "synclr"])
def test_two_ranks_are_one(two_ranks: list[dict[str, Any]], name: str) -> None:
    from objective_worker import outcome

    alone = outcome(name, 0, 1)
    mean = {key: (two_ranks[0][name][key] + two_ranks[1][name][key]) / 2 for key in alone}
    torch.testing.assert_close(mean.pop("loss"), alone.pop("loss"), rtol=1e-6, atol=1e-6)
    assert len(mean) > 10
    near = {"rtol": 1e-5, "atol": 1e-6} if name == "synclr" else {}  # positions and targets of the teacher are float32
    for key, gradient in alone.items():
        torch.testing.assert_close(mean[key], gradient, **near, msg=lambda text, key=key: f"{key}: {text}")
    assert max(float(gradient.abs().max()) for gradient in alone.values()) > 1e-3


@pytest.mark.dist
def test_candidates_from_a_ring_are_those_gathered(two_ranks: list[dict[str, Any]]) -> None:
    for ranks in two_ranks:
        for key, found in ranks["ring"].items():
            if key == "loss":  # gradients before their mean differ: a ring forms all of a row's on its own rank
                torch.testing.assert_close(found, ranks["multi_positive"][key], rtol=1e-6, atol=1e-6)


def test_a_ring_is_for_multi_positive() -> None:
    with pytest.raises(ConfigError, match=r"pretrain.candidates=ring: expected gathered with pretrain.objective=clip"):
        load_recipe("smoke", "pretrain.objective=clip pretrain.images_per_caption=1 pretrain.candidates=ring")


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    from objective_worker import run_ranks

    return run_ranks(tmp_path_factory.mktemp("two-ranks"))
