"""The trunk: shapes from timm, features, reproducible weights, refusals."""

import pytest
import torch

from stablerep.errors import ConfigError
from stablerep.models import build_trunk, compile_trunk

SMALL = {"size_px": 32, "patch_px": 8, "width": 48, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}


def small(**changes):
    return build_trunk("vit_tiny_patch16_224", **(SMALL | {"seed": 0} | changes))


def test_overrides_shape_the_trunk():
    trunk = small()
    assert trunk.num_features == 48
    assert trunk.pos_embed.shape == (1, 1 + 16, 48)
    assert trunk.patch_embed.proj.weight.shape == (48, 3, 8, 8)
    assert len(trunk.blocks) == 2
    assert trunk.blocks[0].attn.num_heads == 2
    assert trunk.blocks[0].mlp.fc1.out_features == 96


def test_zeros_keep_the_architecture_of_the_paper():
    trunk = build_trunk("vit_small_patch16_224", seed=0)
    assert (trunk.num_features, len(trunk.blocks), trunk.blocks[0].attn.num_heads) == (384, 12, 6)
    assert trunk.pos_embed.shape == (1, 1 + 14 * 14, 384)


def test_features_are_the_class_token_after_the_norm():
    """Trap 16: timm's forward_features returns every token; the encoder's feature is one row an image."""
    trunk = small().eval()
    images = torch.randn(5, 3, 32, 32)
    features = trunk(images)
    assert features.shape == (5, 48)
    tokens = trunk.forward_features(images)
    assert tokens.shape == (5, 17, 48)
    torch.testing.assert_close(features, tokens[:, 0])


def test_weights_are_a_function_of_the_seed_alone():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = small().state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.randn(10)
    second, other = small().state_dict(), small(seed=1).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["pos_embed"], other["pos_embed"])


def test_without_seed_the_global_generator_decides():
    torch.manual_seed(7)
    first = small(seed=None).state_dict()
    second = small(seed=None).state_dict()
    assert not torch.equal(first["pos_embed"], second["pos_embed"])


def test_checkpointing_changes_no_gradient():
    images = torch.randn(4, 3, 32, 32)
    grads = []
    for is_checkpointed in (False, True):
        trunk = small(is_checkpointed=is_checkpointed)
        trunk(images).pow(2).sum().backward()
        grads.append(trunk.patch_embed.proj.weight.grad)
        assert trunk.grad_checkpointing is is_checkpointed
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("vit_tiny_patch16_223", {}, r"has no 'vit_tiny_patch16_223'; did you mean vit_tiny_patch16_224"),
        ("hf-hub:someone/vit", {}, "has no 'hf-hub:someone/vit'"),
        ("zzz", {}, r"has no 'zzz'; see timm\.list_models"),
        ("resnet18", {"patch_px": 0, "width": 0, "depth": 0, "num_heads": 0, "mlp_ratio": 0.0}, "trunk: resnet18 cannot be built"),
        ("mixer_s16_224", {}, "trunk: mixer_s16_224 cannot be built"),
        ("vit_tiny_patch16_224", {"size_px": 30}, "expected a multiple of the patch side 8, found 30; 24, 32 would fit"),
        ("vit_tiny_patch16_224", {"size_px": 20, "patch_px": 0}, "expected a multiple of the patch side 16, found 20; 16, 32 would fit"),
        ("vit_tiny_patch16_224", {"size_px": 4}, "expected a multiple of the patch side 8, found 4; 8 would fit"),
        ("vit_tiny_patch16_224", {"num_heads": 5}, "cannot be built with .*'num_heads': 5"),
        ("vit_tiny_patch16_224", {"size_px": 0}, "trunk.size_px: expected 1 or more, found 0"),
        ("vit_tiny_patch16_224", {"depth": -1}, r"trunk.depth: expected 0 \(as the architecture\) or more, found -1"),
        ("vit_medium_patch16_gap_240", {}, "cannot be built with .*Token pooling needs the class token"),
        ("deit_tiny_distilled_patch16_224", {}, "expected a vision transformer whose feature is its class token, found deit_tiny_dist"),
        ("beit_base_patch16_224", {}, r"whose feature is its class token, found beit_base_patch16_224 \(Beit\)"),
    ],
)
def test_what_cannot_be_built_is_explained(architecture, changes, message):
    with pytest.raises(ConfigError, match=message):
        build_trunk(architecture, **(SMALL | changes))


@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_compiled_is_the_same_function_with_the_same_names(is_checkpointed):
    """torch.compile traces the trunk into graphs; they run as they are here, inductor takes a minute to turn them into code."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain, compiled = (small(is_checkpointed=is_checkpointed) for _ in range(2))
    compile_trunk(compiled, backend)
    features = [trunk(images) for trunk in (plain, compiled)]
    assert graphs
    torch.testing.assert_close(features[1], features[0])
    for rows in features:
        rows.pow(2).sum().backward()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(compiled.get_parameter(name).grad, parameter.grad, msg=name)
    assert list(compiled.state_dict()) == list(plain.state_dict())
