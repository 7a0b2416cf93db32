"""Probe features are the pooled CLS token in evaluation mode (traps 16 and 23), whatever the batch size."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from stablerep.errors import DivergenceError
from stablerep.models import build_trunk
from stablerep.probes.features import extract, frozen, pixels

HALF = (0.5, 0.5, 0.5)
SHAPE = {"patch_px": 8, "width": 48, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}


def images(num: int, is_grey: bool = False, side: int = 32) -> np.ndarray:
    drawn = np.random.default_rng(0).integers(0, 256, (num, 1 if is_grey else 3, side, side), dtype=np.uint8)
    return np.repeat(drawn, 3, 1) if is_grey else drawn


def test_features_are_what_the_model_returns_without_classifier() -> None:
    trunk, data = build_trunk("vit_tiny_patch16_224", size_px=32, **SHAPE, seed=3), images(10)
    found = extract(frozen(trunk, "cpu"), data, mean=HALF, std=HALF, batch_size=4)
    reference = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=2, mlp_ratio=2.0, num_classes=0
    ).eval()
    reference.load_state_dict(trunk.state_dict())
    with torch.no_grad():
        normalised = (torch.from_numpy(data).float() / 255 - 0.5) / 0.5
        expected, tokens = reference(normalised), reference.forward_features(normalised)
    assert found.shape == (10, 48)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, tokens[:, 0], rtol=1e-4, atol=1e-5)


def test_a_trunk_left_in_training_mode_is_frozen() -> None:
    trunk = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3072), nn.Dropout(0.5)).train()
    embed = frozen(trunk, "cpu")
    first, second = (extract(embed, images(6), mean=HALF, std=HALF, batch_size=size) for size in (6, 4))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not any(p.requires_grad for p in trunk.parameters())
    assert int(trunk[1].num_batches_tracked) == 0


def test_batches_are_counted_and_normalised() -> None:
    told: list[int] = []
    found = extract(
        lambda x: x.mean((2, 3)),
        np.full((5, 3, 8, 8), 255, np.uint8),
        mean=(0.0, 0.5, 1.0),
        std=(1.0, 0.5, 2.0),
        batch_size=2,
        on_batch=told.append,
    )
    assert told == [2, 2, 1]
    assert found.tolist() == [[1.0, 1.0, 0.0]] * 5


def test_features_that_are_not_finite_name_the_image() -> None:
    def embed(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x.flatten(1)[:, :2] > 0.99, torch.inf, 1.0)

    data = np.zeros((6, 3, 8, 8), np.uint8)
    data[5] = 255
    with pytest.raises(DivergenceError, match=r"NaN or infinity in 1 of 2 images, first image 5; training diverged"):
        extract(embed, data, mean=(0.0,) * 3, std=(1.0,) * 3, batch_size=2)


def test_pixels_are_averaged_and_grey_is_kept_once() -> None:
    assert pixels(images(4), 3).shape == (4, 3 * 256)
    grey = images(4, is_grey=True)
    found = pixels(grey, 3)
    assert found.shape == (4, 256)
    assert found[2, 17].item() == pytest.approx(grey[2, 0, 2:4, 2:4].mean() / 255)
    assert pixels(images(4, side=8), 2).shape == (4, 192)
