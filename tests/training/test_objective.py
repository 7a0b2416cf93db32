"""The objective of a step against the paper's formulas, and who decays."""

from typing import Any

import pytest
import torch
from tiny_training import TINY

from stablerep.batches.tokenize import build_tokenizer
from stablerep.distributed import stop
from stablerep.errors import LaunchError
from stablerep.losses import image_text_plain, multi_positive_plain
from stablerep.models import build_two_tower
from stablerep.stages.pretrain_parts import model_spec
from stablerep.training.engine import OptimizerSettings, build_optimizer
from stablerep.training.objective import MultiPositive
from stablerep.training.processes import join_processes

NUM_VIEWS, NUM_CAPTIONS = 3, 4


@pytest.fixture(scope="module")
def towers() -> Any:
    tokenizer = build_tokenizer(["one two three"], vocabulary="captions", vocabulary_size=256, context_length=8)
    return build_two_tower(model_spec(TINY, tokenizer), seed=0).train()


@pytest.fixture(scope="module")
def batch(towers: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens_NT = torch.randint(1, towers.spec.text.eot_id, (NUM_CAPTIONS, 8), generator=generator)
    tokens_NT[:, 5] = towers.spec.text.eot_id
    labels_N = torch.tensor([7, 3, 7, 9])  # one caption twice
    return torch.randn(NUM_VIEWS, NUM_CAPTIONS, 3, 16, 16, generator=generator), tokens_NT, labels_N


@pytest.mark.parametrize(("image_weight", "text_weight"), [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.3, 2.0)])
@torch.no_grad()
def test_is_the_weighted_sum_of_the_papers_losses(towers: Any, batch: Any, image_weight: float, text_weight: float) -> None:
    views_MNCHW, tokens_NT, labels_N = batch
    objective = MultiPositive(towers, image_weight=image_weight, text_weight=text_weight, temperature=0.1)
    total, image, text = objective(views_MNCHW, tokens_NT, labels_N)
    output = towers(views_MNCHW, tokens_NT)
    labels_B = torch.tensor([int(labels_N[n]) for _ in range(NUM_VIEWS) for n in range(NUM_CAPTIONS)])
    expected_image = multi_positive_plain(output.image_BD, output.image_BD, labels_B, labels_B, torch.arange(len(labels_B)), 0.1)
    expected_text = image_text_plain(output.image_text_BD, output.text_ND, labels_B, labels_N, output.logit_scale)
    assert float(total) == pytest.approx(float(image_weight * expected_image + text_weight * expected_text), rel=1e-5)
    assert float(image) == pytest.approx(float(expected_image) if image_weight else 0.0, rel=1e-5)
    assert float(text) == pytest.approx(float(expected_text) if text_weight else 0.0, rel=1e-5)


@torch.no_grad()
def test_an_image_of_weight_0_is_only_a_negative(towers: Any, batch: Any) -> None:
    views_MNCHW, tokens_NT, labels_N = batch
    objective = MultiPositive(towers, image_weight=1.0, text_weight=1.0, temperature=0.1)
    weights_MN = torch.ones(NUM_VIEWS, NUM_CAPTIONS)
    plain = objective(views_MNCHW, tokens_NT, labels_N)
    torch.testing.assert_close(objective(views_MNCHW, tokens_NT, labels_N, weights_MN=weights_MN), plain)
    weights_MN[1, 3] = 0.0
    _, image, text = objective(views_MNCHW, tokens_NT, labels_N, weights_MN=weights_MN)
    output = towers(views_MNCHW, tokens_NT)
    labels_B = labels_N.repeat(NUM_VIEWS)
    labels_B[1 * NUM_CAPTIONS + 3] = 1000  # a caption of its own: no target of anybody, and no anchor
    expected_image = multi_positive_plain(output.image_BD, output.image_BD, labels_B, labels_B, torch.arange(len(labels_B)), 0.1)
    expected_text = image_text_plain(output.image_text_BD, output.text_ND, labels_B, labels_N, output.logit_scale)
    assert (float(image), float(text)) == pytest.approx((float(expected_image), float(expected_text)), rel=1e-5)
    weights_MN[1, 3] = 0.25
    half = objective(views_MNCHW, tokens_NT, labels_N, weights_MN=weights_MN)
    assert len({float(losses[1]) for losses in (plain, half, (0, image))}) == 3
    assert len({float(losses[2]) for losses in (plain, half, (0, 0, text))}) == 3


def test_matrices_decay_and_vectors_do_not(towers: Any) -> None:
    objective = MultiPositive(towers, image_weight=1.0, text_weight=1.0, temperature=0.1)
    optimizer = build_optimizer(objective, OptimizerSettings(0.1, 0.9, 0.98, 0.0, "fp32"))
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    decayed, plain = ({names[id(p)] for p in group["params"]} for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert decayed | plain == set(names.values())
    assert {"towers.trunk.cls_token", "towers.trunk.pos_embed", "towers.text.token_embedding.weight"} <= decayed
    assert {"towers.logit_scale", "towers.trunk.norm.weight", "towers.trunk.blocks.0.attn.qkv.bias"} <= plain


def test_as_many_processes_as_the_settings_say() -> None:
    try:
        with pytest.raises(LaunchError, match=r"expected pretrain\.num_processes=2 processes, found 1; launch the job with as many"):
            join_processes(2)
    finally:
        stop()
