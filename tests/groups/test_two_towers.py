"""Agreement models by path: open_clip, transformers and our own, with random weights; and the one that ships finds wrong captions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

from stablerep.captions.packaged import load_packaged
from stablerep.errors import ConfigError, DataError
from stablerep.groups.agreement_fit import AgreementSettings, fit_agreement
from stablerep.groups.embedded_models import agreement_path
from stablerep.groups.inspection import AgreementModel, score_group
from stablerep.groups.two_towers import folder_digest, kind_of, open_two_tower, two_tower_folder

IMAGES = [np.random.default_rng(seed).integers(0, 256, (40, 40, 3)).astype(np.uint8) for seed in range(3)]
WORDS = ["<pad>", "<unk>", "<end>", "a", "photo", "of", "four", "seven"]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What transformers writes of a CLIP with two small layers."""
    folder = tmp_path_factory.mktemp("clip")
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", eos_token="<end>")
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text: dict[str, Any] = {**sizes, "vocab_size": len(WORDS), "max_position_embeddings": 9, "eos_token_id": 2, "pad_token_id": 0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config={**sizes, "image_size": 16, "patch_size": 8}, projection_dim=8))
    model.save_pretrained(folder, safe_serialization=True)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def open_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What open_clip's `local-dir:` reads: its config and safetensors."""
    import open_clip

    folder = tmp_path_factory.mktemp("open_clip")
    model: dict[str, Any] = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(open_clip.CLIP(**model).state_dict(), str(folder / "open_clip_model.safetensors"))
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}))
    return folder


def _check(model: AgreementModel) -> None:
    rows = model.embed_images(IMAGES)
    assert rows.shape[0] == 3
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1.0)
    assert np.array_equal(rows, model.embed_images(IMAGES))
    text = model.embed_text("a photo of four")
    assert text.shape == rows.shape[1:]
    assert np.linalg.norm(text) == pytest.approx(1.0)
    assert not np.allclose(text, model.embed_text("a photo of seven"))
    assert len(score_group(rows, text).agreement) == 3


def test_a_clip_of_transformers_scores(clip_folder: Path) -> None:
    assert kind_of(clip_folder) == "transformers"
    model = open_two_tower(two_tower_folder(str(clip_folder), "quality.scorer"), "cpu")
    _check(model)
    assert model.identity == folder_digest(clip_folder)


def test_a_clip_of_open_clip_scores(open_clip_folder: Path) -> None:
    assert kind_of(open_clip_folder) == "open_clip"
    _check(open_two_tower(two_tower_folder(open_clip_folder.as_uri(), "quality.scorer"), "cpu"))


def test_what_cannot_be_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"quality.scorer '.*nowhere': expected embedded:<name>, or an existing folder"):
        two_tower_folder(str(tmp_path / "nowhere"), "quality.scorer")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(DataError, match=r"expected weights as .safetensors, found pytorch_model.bin, a pickle, which can run code"):
        two_tower_folder(str(tmp_path), "quality.scorer")
    save_file({"weight": torch.zeros(1)}, str(tmp_path / "model.safetensors"))
    with pytest.raises(DataError, match=r"quality.judge .*: expected open_clip_config.json, or a config.json of transformers or of this"):
        two_tower_folder(str(tmp_path), "quality.judge")
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(DataError, match=r"quality.scorer .*: cannot be loaded"):
        open_two_tower(tmp_path, "cpu")
    with pytest.raises(DataError, match=r"expected an embedded agreement model, one of mnist, found 'emoji'"):
        two_tower_folder("embedded:emoji", "quality.scorer")


def test_an_image_model_judges_but_does_not_score(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    config = ViTConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8)
    ViTModel(config).save_pretrained(tmp_path, safe_serialization=True)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    model = open_two_tower(two_tower_folder(str(tmp_path), "quality.judge"), "cpu")
    assert model.embed_images(IMAGES).shape == (3, 16)
    with pytest.raises(ConfigError, match=r"expected a model with a text tower, found images only"):
        model.embed_text("a photo")


def test_the_shipped_model_tells_right_captions_from_wrong_ones() -> None:
    data = load_packaged("mnist", "train")
    model = open_two_tower(agreement_path("mnist"), "cpu")
    chosen = np.random.default_rng(0).permutation(len(data.images))[:40]
    rows = model.embed_images([np.repeat(data.images[index][:, :, None], 3, axis=2) for index in chosen])
    texts = np.stack([model.embed_text(data.captions[index]) for index in chosen])
    right, wrong = (rows * texts).sum(1), (rows * np.roll(texts, 1, axis=0)).sum(1)
    assert (right > wrong).mean() >= 0.95
    assert right.mean() - wrong.mean() > 0.4


def test_equal_fits_write_equal_bytes_and_learn(tmp_path: Path) -> None:
    data = load_packaged("mnist", "train")
    tiny = AgreementSettings(batch_size=32, width=16, depth=1, patch_px=16, out_dim=8)
    losses: list[float] = []
    first = fit_agreement(data, tmp_path / "a", num_steps=12, seed=1, settings=tiny, on_step=lambda _, loss: losses.append(loss))
    second = fit_agreement(data, tmp_path / "b", num_steps=12, seed=1, settings=tiny)
    assert first == second
    assert folder_digest(tmp_path / "a") == folder_digest(tmp_path / "b")
    assert losses[-1] < losses[0]
    assert "cc-by-sa-3.0" in (tmp_path / "a" / "README.md").read_text()
