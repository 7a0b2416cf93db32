"""SynCLR: the losses written out as loops, the teacher, the hidden patches, and a run that learns, continues exactly and is exported."""

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from objective_worker import LABELS, SYNCLR, baseline, batch, crops
from tiny_groups import GENERATOR
from tiny_training import TINY, StopAfter, overrides_of, tiny_run, train_alone
from torch.nn import functional

from stablerep.config import RECIPES, load_recipe
from stablerep.errors import ConfigError, DataError, Preempted
from stablerep.losses import against_keys, balanced, masked_patches
from stablerep.models import build_trunk, encode_tokens, load_encoder
from stablerep.records import CheckpointRef
from stablerep.stages import export
from stablerep.stages.pretrain_parts import build_objective, model_spec
from stablerep.stages.pretrain_run import checkpoint_ref, decisive_settings
from stablerep.store import Store
from stablerep.training.history import read_history, series
from stablerep.training.objective_synclr import SynClr, hidden_patches, teacher_momentum
from stablerep.training.state import METRICS_KEY, WEIGHTS_NAME

RUN = {
    "objective": "synclr",
    "synclr": replace(SYNCLR, teacher_momentum=0.9, patch_weight=0.5),
    "head": replace(TINY.head, norm="layer"),
    "text_weight": 0.0,
    "weight_decay": 0.04,
    "weight_decay_end": 0.2,
    "num_steps": 12,
    "checkpoint_every_steps": 12,
}


def rows(num: int, seed: int, dim: int = 5) -> torch.Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@torch.no_grad()
def key_loss(query: torch.Tensor, key: torch.Tensor, labels: list[int], key_labels: list[int], own: list[int] | None) -> float:
    """The multi-positive cross entropy as loops over Python floats; temperature 0.2."""
    query, key = functional.normalize(query, dim=1), functional.normalize(key, dim=1)
    costs = []
    for i, label in enumerate(labels):
        others = [j for j in range(len(key)) if own is None or j != own[i]]
        exponent = {j: float(query[i] @ key[j]) / 0.2 for j in others}
        positives = [j for j in others if key_labels[j] == label]
        if positives:
            log_sum = math.log(sum(math.exp(value) for value in exponent.values()))
            costs.append(sum(log_sum - exponent[j] for j in positives) / len(positives))
    return sum(costs) / len(costs)


@pytest.mark.parametrize("backend", ["plain", "tiled"])
@pytest.mark.parametrize("own", [None, [2, 3, 4, 5]], ids=["small crops", "global crops"])
def test_queries_against_keys_are_the_loops(backend: str, own: list[int] | None) -> None:
    query, key = rows(4, 0).requires_grad_(), rows(8, 1).requires_grad_()
    labels, key_labels = [7, 3, 7, 9], [3, 7, 7, 3, 7, 9, 5, 3]
    index = None if own is None else torch.tensor(own)
    loss = against_keys(query, key, torch.tensor(labels), torch.tensor(key_labels), 0.2, self_index_B=index, backend=backend)
    assert loss.item() == pytest.approx(key_loss(query, key, labels, key_labels, own), rel=1e-9)
    loss.backward()
    assert key.grad is None
    labels_B, key_labels_G = torch.tensor(labels), torch.tensor(key_labels)
    assert torch.autograd.gradcheck(
        lambda rows_BD: against_keys(rows_BD, key, labels_B, key_labels_G, 0.2, self_index_B=index, backend=backend), (query,)
    )


def test_queries_without_any_positive_key_are_refused() -> None:
    with pytest.raises(DataError, match="at least one caption with 2 or more images"):
        against_keys(rows(2, 0), rows(2, 1), torch.tensor([1, 2]), torch.tensor([1, 2]), 0.2, self_index_B=torch.arange(2))
    with pytest.raises(DataError, match="gather both in the same order"):
        against_keys(rows(2, 0), rows(2, 1), torch.tensor([1, 2]), torch.tensor([1, 2]), 0.2, self_index_B=torch.tensor([1, 0]))


def test_balanced_shares_are_sinkhorns_and_knopps() -> None:
    cosines = functional.normalize(rows(6, 2, 4), dim=1).float()
    share = [[math.exp(float(value) / 0.1) for value in row] for row in cosines]
    for _ in range(3):
        use = [sum(row[k] for row in share) for k in range(4)]
        share = [[value / use[k] for k, value in enumerate(row)] for row in share]
        share = [[value / sum(row) for value in row] for row in share]
    assert torch.allclose(balanced(cosines, 0.1), torch.tensor(share), atol=1e-5)
    many = balanced(cosines, 0.1, num_iterations=60)
    assert torch.allclose(many.sum(0), torch.full((4,), 1.5), atol=1e-3)  # every prototype is used as often
    assert torch.allclose(many.sum(1), torch.ones(6))


def test_balanced_shares_over_ranks_are_those_of_one_process() -> None:
    cosines = functional.normalize(rows(6, 2, 4), dim=1).float()
    parts, sums = (cosines[:2], cosines[2:], cosines[:0]), []
    whole = balanced(cosines, 0.1, lambda use_K: sums.append(use_K) or use_K)
    for part, expected in zip(parts, whole.split([2, 4, 0]), strict=True):
        left = iter(sums)
        assert torch.allclose(balanced(part, 0.1, lambda _, left=left: next(left)), expected, atol=1e-6)
    assert torch.isfinite(balanced(cosines, 0.03)).all()


def test_the_patch_loss_is_the_mean_over_hidden_images_of_means_over_their_patches() -> None:
    mask = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1]], dtype=torch.bool)
    student, target = rows(5, 3).requires_grad_(), torch.softmax(rows(5, 4), 1)
    cost = [
        -sum(float(t) * float(s) for t, s in zip(target[p], torch.log_softmax(student[p].detach() / 0.1, 0), strict=True)) for p in range(5)
    ]
    expected = (sum(cost[:2]) / 2 + sum(cost[2:]) / 3) / 2
    assert masked_patches(student, target, mask, 0.1).item() == pytest.approx(expected, rel=1e-6)
    halves = [
        masked_patches(student[own], target[own], mask[images], 0.1, lambda _: torch.tensor(2.0), num_ranks=2)
        for own, images in ((slice(0, 2), slice(0, 2)), (slice(2, 5), slice(2, 3)))
    ]
    assert (sum(halves) / 2).item() == pytest.approx(expected, rel=1e-6)
    assert masked_patches(student[:0], target[:0], mask[1:2], 0.1).item() == 0.0
    with pytest.raises(DataError, match="expected logits of the 5 hidden patches from student and teacher, found"):
        masked_patches(student[:4], target, mask, 0.1)


def test_hidden_patches_are_half_of_half_and_depend_on_the_key_alone() -> None:
    mask = hidden_patches(torch.arange(4000), 196, 0.5, 0.5)
    num = mask.sum(1)
    assert sorted(num.unique().tolist()) == [0, 98]
    assert float((num > 0).float().mean()) == pytest.approx(0.5, abs=0.03)
    often = mask[num > 0].float().mean(0)
    assert float((often - 0.5).abs().max()) < 0.06
    assert torch.equal(hidden_patches(torch.tensor([17]), 196, 0.5, 0.5)[0], mask[17])
    assert hidden_patches(torch.arange(99), 4, 1.0, 0.01).sum(1).unique().tolist() == [1]


def test_tokens_are_the_trunks_and_a_hidden_patch_is_never_looked_at() -> None:
    shape: dict[str, Any] = {"size_px": 16, "patch_px": 4, "width": 16, "depth": 2, "num_heads": 2, "seed": 0}
    fixed, free = (build_trunk("vit_tiny_patch16_224", **shape, is_size_free=is_free).eval() for is_free in (False, True))
    assert {name: value.shape for name, value in fixed.state_dict().items()} == {k: v.shape for k, v in free.state_dict().items()}
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    tokens = encode_tokens(free, images)
    assert tokens.shape == (2, 17, 16)
    assert torch.allclose(tokens[:, 0], fixed(images), atol=1e-6)
    assert encode_tokens(free, images[..., :8, :8]).shape == (2, 5, 16)
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[0, 5] = True  # the second row, second column: pixels 4 to 7 of both axes
    other = images.clone()
    other[0, :, 4:8, 4:8] = 9.0
    found = encode_tokens(free, images, mask, torch.ones(16))
    assert torch.equal(found, encode_tokens(free, other, mask, torch.ones(16)))
    assert not torch.allclose(found[0], tokens[0], atol=1e-3)
    assert torch.equal(found[1], tokens[1])
    assert torch.equal(encode_tokens(free, images), tokens)  # nothing stays on the trunk


def test_momentum_rises_to_one() -> None:
    assert teacher_momentum(0, 0.994, 100) == pytest.approx(0.994)
    assert teacher_momentum(50, 0.994, 100) == pytest.approx(0.997)
    assert teacher_momentum(100, 0.994, 100) == 1.0


def test_the_teacher_follows_the_student_and_learns_nothing() -> None:
    objective: SynClr = baseline("synclr")
    before = {name: value.clone() for name, value in objective.teacher.state_dict().items()}
    assert all(torch.equal(value, objective.towers.state_dict()[name]) for name, value in before.items() if name.startswith("trunk"))
    total, image, _ = objective(*batch(3), **crops(3))
    total.backward()
    assert float(total.detach()) > float(image.detach()) > 0
    assert all(parameter.grad is None for parameter in objective.teacher.parameters())
    learnt = [name for name, parameter in objective.named_parameters() if parameter.grad is not None and bool(parameter.grad.any())]
    assert {name.split(".")[0] for name in learnt} == {"towers", "predictor", "prototypes", "hidden_token_F"}
    with torch.no_grad():
        for parameter in objective.towers.parameters():
            parameter.add_(1.0)
    objective.after_step(0)
    after = objective.teacher.state_dict()
    for name, value in before.items():
        moved = 0.0 if name.startswith("prototypes") else 1 - SYNCLR.teacher_momentum
        torch.testing.assert_close(after[name], value + moved)


def test_total_is_the_sum_of_its_terms_written_out() -> None:
    objective: SynClr = baseline("synclr").double().eval()
    views, tokens, labels = batch(3)
    more = crops(3)
    more["local_LNCHW"] = more["local_LNCHW"].double()
    views = views.double()
    with torch.no_grad():
        total, image, _ = objective(views, tokens, labels, **more)
        mask = hidden_patches(more["view_key_MN"].flatten(), 4, 0.5, 0.5)
        teacher = encode_tokens(objective.teacher["trunk"], views.flatten(0, 1))
        key = objective.teacher["head"](teacher[:, 0])
        student = encode_tokens(objective.towers.trunk, views.flatten(0, 1), mask, objective.hidden_token_F)
        query = objective.predictor(objective.towers.head(student[:, 0]))
        local = encode_tokens(objective.towers.trunk, more["local_LNCHW"].flatten(0, 1))[:, 0]
        local_query = objective.predictor(objective.towers.head(local))
        patch = masked_patches(
            objective.prototypes(student[:, 1:][mask]), balanced(objective.teacher["prototypes"](teacher[:, 1:][mask]), 0.07), mask, 0.1
        )
    expected = key_loss(query, key, LABELS * 3, LABELS * 3, list(range(18))) + key_loss(local_query, key, LABELS * 6, LABELS * 3, None)
    assert float(image) == pytest.approx(expected, rel=1e-6)
    assert float(total) == pytest.approx(expected + float(patch), rel=1e-6)
    with pytest.raises(DataError, match="expected 2 small crops of every image and a key of every view"):
        objective(views, tokens, labels)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("pretrain.head.norm=batch", "pretrain.head.norm: expected layer with pretrain.objective=synclr, found batch"),
        ("pretrain.zero_stage=3", "whose teacher follows them, found 3; set pretrain.zero_stage=2"),
        ("pretrain.is_compiled=true", "which looks at patches, found true"),
        ("pretrain.accumulation_steps=2", "expected 1 with pretrain.objective=synclr, found 2; set pretrain.is_activation_checkpointed"),
        ("pretrain.images_per_caption=1", "expected 2 or more"),
        ("pretrain.synclr.local_scale_min=0.5", "expected 0 < min <= max <= 1"),
    ],
)
def test_what_does_not_go_together_is_refused(words: str, message: str) -> None:
    base = "pretrain.objective=synclr pretrain.head.norm=layer pretrain.num_processes=2"
    with pytest.raises(ConfigError, match=message):
        load_recipe("smoke", f"{base} {words}" if "norm" not in words else f"pretrain.objective=synclr {words}")


def test_the_recipe_is_the_papers() -> None:
    pretrain = RECIPES["synclr_b16"].pretrain
    assert (pretrain.temperature, pretrain.lr, pretrain.beta2, pretrain.captions_per_batch) == (0.08, 2e-3, 0.999, 8192)
    assert (pretrain.weight_decay, pretrain.weight_decay_end, pretrain.synclr.teacher_momentum) == (0.04, 0.2, 0.994)
    assert "synclr" in decisive_settings(replace(pretrain, synclr=SYNCLR))
    assert not {"synclr", "weight_decay_end"} & decisive_settings(RECIPES["quickstart"].pretrain).keys()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Any, Any]:
    store = Store(str(tmp_path_factory.mktemp("synclr")))
    plan = tiny_run(store, **RUN)
    return store, plan, train_alone(store, plan)


def _weights(store: Store, plan: Any, record: Any) -> bytes:
    return store.read(f"{plan.prefix}/checkpoints/step-{record.step}/{record.file(WEIGHTS_NAME).name}")


def test_it_learns(undisturbed: tuple[Store, Any, Any]) -> None:
    store, plan, record = undisturbed
    history = read_history(store.at(plan.prefix), METRICS_KEY)
    total, image = ([value for _, value in series(history, "stablerep_training_loss", term=term)] for term in ("total", "image"))
    assert total[-1] < total[0] - 0.5
    assert image[-1] < image[0]
    assert record.metrics["text_loss"] == 0.0


def test_the_teacher_of_a_run_moves(store: Store) -> None:
    plan = tiny_run(store, **RUN | {"num_steps": 2, "checkpoint_every_steps": 2})
    record = train_alone(store, plan)
    file = record.file("state.pt")
    assert file is not None
    state = torch.load(io.BytesIO(store.read(f"{plan.prefix}/checkpoints/step-2/{file.name}")), weights_only=True)["objective"]
    first = build_objective(plan.pretrain, model_spec(plan.pretrain, None)).state_dict()
    name = "trunk.blocks.0.mlp.fc1.weight"
    start, student, teacher = first[f"towers.{name}"], state[f"towers.{name}"], state[f"teacher.{name}"]
    assert 0.0 < float((teacher - start).norm()) < 0.5 * float((student - start).norm())


def test_stopped_and_continued_is_never_stopped(undisturbed: tuple[Store, Any, Any], store: Store) -> None:
    done_store, done_plan, record = undisturbed
    plan = tiny_run(store, **RUN)
    with pytest.raises(Preempted, match="stopped after step 5 of 12"):
        train_alone(store, plan, is_stop_asked=StopAfter(5))
    assert _weights(store, plan, train_alone(store, plan, attempt="b")) == _weights(done_store, done_plan, record)


def test_the_export_is_the_students_plain_trunk(undisturbed: tuple[Store, Any, Any]) -> None:
    store, plan, record = undisturbed
    final: CheckpointRef = checkpoint_ref(record, store.at(plan.prefix))
    records = {"dataset": plan.dataset.to_json(), "generator": GENERATOR.to_json(), "checkpoint": final.to_json()}
    model = export.run("smoke", overrides_of(plan.pretrain), store.uri, **records)
    folder = store.local_path(f"models/{model.model_id}") or Path()
    encoder = load_encoder(folder)
    assert encoder.embed(torch.zeros(2, 3, 16, 16)).shape == (2, plan.pretrain.trunk.width)
    assert not encoder.has_text
    assert "SynCLR: teacher keys, small crops, masked patches" in (folder / "MODEL_CARD.md").read_text()
