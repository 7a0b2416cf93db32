"""The linear probe on random views: equal to a plain loop that augments, embeds and steps; only what it should touch changes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_encoder import write_encoder
from torch import nn

from stablerep.batches.augment import Augmenter
from stablerep.config.schema import AugmentConfig
from stablerep.models import Encoder, load_encoder
from stablerep.probes.data import LabelledImages, load_labelled
from stablerep.probes.evaluate import evaluate_encoder
from stablerep.probes.features import augmented, extract
from stablerep.probes.linear import EPSILON, LinearSettings, fit_heads
from stablerep.probes.protocol import ALL_LABELS, ProbeProtocol
from stablerep.probes.report import report_html

PROTOCOL = ProbeProtocol(("linear", "knn"), (2, ALL_LABELS), 2, 4, 8, (0.05, 0.5), 3, 0.07, 50, 0)
CROPS = AugmentConfig(crop_scale_min=0.3, is_flipped=True, jitter_probability=0.0, grey_probability=0.0, blur_probability=0.0)


@pytest.fixture
def encoder(tmp_path: Path) -> Encoder:
    write_encoder(tmp_path / "encoder", seed=4, has_text=False)
    return load_encoder(tmp_path / "encoder")


@pytest.fixture
def images(image_folder: Callable[..., Path]) -> LabelledImages:
    return load_labelled(str(image_folder(num_train=7)), 32)


def _augmenter(encoder: Encoder, seed: int = 3) -> Augmenter:
    return Augmenter(CROPS, size_px=32, mean=encoder.mean, std=encoder.std, seed=seed)


def test_views_are_a_function_of_seed_epoch_and_image(encoder: Encoder, images: LabelledImages) -> None:
    views = augmented(encoder.embed, images.train, _augmenter(encoder), batch_size=5)
    first = views(0)
    assert first.shape == (21, encoder.embedding_dim)
    assert torch.equal(views(0), first)
    assert not torch.isclose(views(1), first).all(1).any()
    other_batches = augmented(encoder.embed, images.train, _augmenter(encoder), batch_size=21)(0)
    assert torch.allclose(other_batches, first, atol=1e-5)
    assert not torch.isclose(augmented(encoder.embed, images.train, _augmenter(encoder, seed=4), 5)(0), first).all()


def test_heads_equal_a_plain_loop_that_augments(encoder: Encoder, images: LabelledImages) -> None:
    """Augment, embed, scale, step: batch by batch with torch's own SGD."""
    plain_NF = extract(encoder.embed, images.train, mean=encoder.mean, std=encoder.std, batch_size=8)
    labels_N = torch.from_numpy(images.train_labels)
    settings = LinearSettings(3, (0.1,), num_epochs=3, batch_size=8, is_standardised=False, seed=5)
    views = augmented(encoder.embed, images.train, _augmenter(encoder), batch_size=8)
    heads = fit_heads(plain_NF[None], labels_N[None], torch.tensor([[0.1]]), settings, lambda epoch: views(epoch)[None])

    mean_F, scale = plain_NF.mean(0), (plain_NF.var(0, correction=0).mean() + EPSILON).sqrt()
    head = nn.Linear(plain_NF.shape[1], 3)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimiser = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(5)
    step, num_steps = 0, 3 * 3
    for epoch in range(3):
        for chosen_B in torch.randperm(21, generator=generator).split(8):
            picked = torch.from_numpy(images.train[0:21])[chosen_B]
            features_BF = encoder.embed(_augmenter(encoder)(picked, chosen_B, torch.zeros_like(chosen_B), epoch))
            optimiser.param_groups[0]["lr"] = 0.05 * (1 + torch.cos(torch.tensor(torch.pi * step / num_steps)).item())
            optimiser.zero_grad()
            nn.functional.cross_entropy(head((features_BF - mean_F) / scale), labels_N[chosen_B]).backward()
            optimiser.step()
            step += 1
    assert torch.allclose(heads.weight_PFO[0].T, head.weight, atol=1e-4)
    assert torch.allclose(heads.bias_P1O[0, 0], head.bias, atol=1e-4)
    cached = fit_heads(plain_NF[None], labels_N[None], torch.tensor([[0.1]]), settings)
    assert not torch.allclose(cached.weight_PFO, heads.weight_PFO, atol=1e-3)


def test_only_heads_with_all_labels_change(encoder: Encoder, images: LabelledImages) -> None:
    def scores(protocol: ProbeProtocol) -> dict[tuple[str, str, int], float]:
        whole = images.train if protocol.augmentation != "none" else None
        result = evaluate_encoder(encoder, images, protocol, identity={"folder": "x"}, uri="file:///evals", batch_size=10, whole=whole)
        pages.append(report_html(result))
        return {(s.source, s.probe, s.num_labels_per_class): s.accuracy for s in result.evaluation.scores}

    pages: list[str] = []
    plain, views = scores(PROTOCOL), scores(replace(PROTOCOL, augmentation="crop"))
    changed = {key for key in plain if plain[key] != views[key]}
    assert changed
    assert changed <= {("encoder", "linear", ALL_LABELS), ("random_init", "linear", ALL_LABELS)}
    assert "computed once, without augmentation" in pages[0]
    assert "learnt from random views" in pages[1]


def test_it_makes_another_suite() -> None:
    ids = {replace(PROTOCOL, augmentation=kind).suite({"a": 1}) for kind in ("none", "crop", "crop_flip")}
    assert len(ids) == 3
