"""The two-tower model: shapes, order of views, scale, weight decay."""

from dataclasses import replace

import pytest
import torch

from stablerep.errors import ConfigError, DataError
from stablerep.losses import LOG_SCALE_MAX, LOG_SCALE_START, image_text, multi_positive
from stablerep.models import HeadSpec, ModelSpec, TextSpec, TrunkSpec, TwoTower, build_two_tower, weight_decay_groups

TRUNK = TrunkSpec("vit_tiny_patch16_224", size_px=16, patch_px=8, width=32, depth=2, num_heads=2, mlp_ratio=2.0)
HEAD = HeadSpec(num_layers=2, hidden_dim=24, out_dim=12)
TEXT = TextSpec(vocabulary_size=30, eot_id=29, context_length=8, width=16, depth=2, num_heads=2, out_dim=10, projection="mlp")
PLUS = ModelSpec(TRUNK, HEAD, TEXT)


def batch(num_views: int = 3, num_captions: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 28, (num_captions, 8), generator=generator)
    tokens[:, 6] = 29
    return torch.randn(num_views, num_captions, 3, 16, 16, generator=generator), tokens


def test_shapes_of_stablerep_plus():
    output = build_two_tower(PLUS, seed=0)(*batch())
    assert output.image_BD.shape == (12, 12)
    assert output.image_text_BD.shape == (12, 10)
    assert output.text_ND.shape == (4, 10)
    assert output.logit_scale.item() == pytest.approx(LOG_SCALE_START)


def test_shapes_of_stablerep():
    model = build_two_tower(ModelSpec(TRUNK, HEAD), seed=0)
    output = model(batch()[0])
    assert output.image_BD.shape == (12, 12)
    assert output[1:] == (None, None, None)
    assert model.logit_scale is None
    assert not any("text" in name or "projection" in name for name, _ in model.named_parameters())


def test_without_a_head_there_is_none():
    model = build_two_tower(replace(PLUS, has_head=False), seed=0)
    output = model(*batch())
    assert output.image_BD is None
    assert output.image_text_BD.shape == (12, 10)
    assert not any(name.startswith("head") for name, _ in model.named_parameters())


def test_rows_are_view_major():
    """Trap 7: row m*N + n is view m of caption n, so the labels of a batch repeat."""
    model = build_two_tower(PLUS, seed=0).eval()
    views, tokens = batch()
    output = model(views, tokens)
    for view in range(3):
        for caption in range(4):
            features = model.trunk(views[view, caption][None])
            torch.testing.assert_close(output.image_BD[view * 4 + caption], model.head(features)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("projection", ["linear", "mlp"])
def test_every_parameter_learns(projection):
    """One step of the whole objective reaches every weight."""
    model = build_two_tower(replace(PLUS, text=replace(TEXT, projection=projection)), seed=0)
    assert len(model.image_projection.linears) == (1 if projection == "linear" else 2)
    views, tokens = batch()
    output, labels = model(views, tokens), torch.arange(4)
    repeated = labels.repeat(3)
    loss = multi_positive(output.image_BD, output.image_BD, repeated, repeated, torch.arange(12), 0.1)
    loss = loss + image_text(output.image_text_BD, output.text_ND, repeated, labels, output.logit_scale)
    loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_scale_starts_at_clips_and_stays_in_range():
    model = build_two_tower(PLUS, seed=0).eval()
    assert model.logit_scale.exp().item() == pytest.approx(1 / 0.07, rel=1e-6)
    with torch.no_grad():
        model.logit_scale.fill_(8.0)
    assert model(*batch()).logit_scale.item() == pytest.approx(LOG_SCALE_MAX)


def test_weights_are_a_function_of_the_seed():
    state = torch.get_rng_state()
    first, second = build_two_tower(PLUS, seed=3).state_dict(), build_two_tower(PLUS, seed=3).state_dict()
    other = build_two_tower(PLUS, seed=4).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_vectors_do_not_decay_and_tables_do():
    """Trap 20: the whole list of what does not decay; cls_token and pos_embed do, as in the released code."""
    model = build_two_tower(PLUS, seed=0)
    decay, no_decay = weight_decay_groups(model)
    assert sorted(decay + no_decay) == sorted(name for name, _ in model.named_parameters())
    assert {"trunk.cls_token", "trunk.pos_embed", "text.positions", "text.token_embedding.weight", "head.linears.1.weight"} <= set(decay)
    assert {name for name in no_decay if not name.endswith(".bias")} == {
        "logit_scale",
        "trunk.blocks.0.norm1.weight",
        "trunk.blocks.0.norm2.weight",
        "trunk.blocks.1.norm1.weight",
        "trunk.blocks.1.norm2.weight",
        "trunk.norm.weight",
        "head.norms.0.weight",
        "text.blocks.0.norm_1.weight",
        "text.blocks.0.norm_2.weight",
        "text.blocks.1.norm_1.weight",
        "text.blocks.1.norm_2.weight",
        "text.norm.weight",
        "image_projection.norms.0.weight",
        "text_projection.norms.0.weight",
    }
    assert not any(name.endswith(".bias") for name in decay)


def test_frozen_parameters_are_in_no_group():
    model = build_two_tower(PLUS, seed=0)
    model.trunk.requires_grad_(False)
    assert not any(name.startswith("trunk") for group in weight_decay_groups(model) for name in group)


def test_refusals():
    model = build_two_tower(PLUS, seed=0)
    views, tokens = batch()
    with pytest.raises(DataError, match=r"expected views \[M, N, C, H, W\], found shape"):
        model(views[0], tokens)
    with pytest.raises(DataError, match="expected tokens of 4 captions, found none"):
        model(views)
    with pytest.raises(DataError, match=r"expected tokens of 4 captions, found shape \(3, 8\)"):
        model(views, tokens[:3])
    with pytest.raises(ConfigError, match="or none of them"):
        TwoTower(model.trunk, model.head, model.text, None, model.text_projection, spec=PLUS)
    with pytest.raises(ConfigError, match="or none of them"):
        TwoTower(model.trunk, model.head, None, None, None, spec=PLUS)
