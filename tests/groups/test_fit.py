"""The fit: exact when repeated, resumed or compared with its golden losses; and the shipped model draws what captions say."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from stablerep.captions.derived import class_of_caption
from stablerep.captions.packaged import caption_corpus, load_packaged
from stablerep.errors import CheckpointError, ConfigError, DataError, DivergenceError
from stablerep.groups.diffusers_pipeline import PromptEncoder
from stablerep.groups.embedded_models import embedded_path
from stablerep.groups.fit import FitReport, fit_generator, golden_losses
from stablerep.groups.fit_models import build_text_encoder, build_vae, make_grey, signal_and_noise, standardise_latents
from stablerep.groups.fit_tokenizer import END_TOKEN, build_tokenizer
from stablerep.groups.fit_training import DenoiserPhase, FitSettings, batch_indices, learning_rate

TINY = FitSettings(batch_size=8, vae_channels=(8, 8, 8), unet_channels=(8, 16), text_width=8, warmup_steps=2)


def _fit(folder: Path, num_vae_steps: int = 4, num_steps: int = 5, **changes: Any) -> FitReport:
    data = load_packaged("mnist")
    arguments: dict[str, Any] = {"seed": 1, "settings": TINY, "checkpoint_every": 2} | changes
    return fit_generator(
        data.images[:20], data.captions[:20], num_vae_steps=num_vae_steps, num_steps=num_steps, output_dir=folder, **arguments
    )


def _contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _half_size(images: np.ndarray) -> np.ndarray:
    return images.reshape(-1, 16, 2, 16, 2).mean((2, 4)).reshape(-1, 256)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> FitReport:
    return _fit(tmp_path_factory.mktemp("whole") / "model")


class Killed(Exception):
    """Stands for SIGKILL: nothing of the fit runs after it."""


# --- the fit is exact -----------------------------------------------------------------------------------------------------------------


def test_equal_fits_write_equal_bytes(whole: FitReport, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    again = _fit(tmp_path / "model", checkpoint_every=100)
    assert again.vae_losses == whole.vae_losses
    assert again.losses == whole.losses
    assert _contents(again.folder) == _contents(whole.folder)
    assert {"fit.json", "model_index.json", "unet/diffusion_pytorch_model.safetensors"} < set(_contents(whole.folder))
    assert not list(tmp_path.glob("*.partial"))


def test_notes_reach_the_record_and_the_card(tmp_path: Path) -> None:
    notes = {"data_name": "mnist", "licence": "CC BY-SA 3.0", "source": "somebody's digits", "command": "make digits"}
    folder = _fit(tmp_path / "model", num_vae_steps=1, num_steps=1, notes=notes).folder
    record = json.loads((folder / "fit.json").read_text(encoding="utf-8"))
    assert notes.items() <= record.items()
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: cc-by-sa-3.0\n")
    for fact in ("somebody's digits", "`make digits`", "20 images", "Seed 1, 1 autoencoder steps", "Nothing was measured"):
        assert fact in card


@pytest.mark.parametrize(("phase", "step"), [("vae", 0), ("vae", 2), ("vae", 3), ("denoiser", 0), ("denoiser", 3), ("denoiser", 4)])
def test_a_killed_fit_continues_bit_for_bit(phase: str, step: int, whole: FitReport, tmp_path: Path) -> None:
    def kill(at_phase: str, at_step: int, num_steps: int, loss: float) -> None:
        if (at_phase, at_step) == (phase, step):
            raise Killed

    with pytest.raises(Killed):
        _fit(tmp_path / "model", on_step=kill)
    assert not (tmp_path / "model").exists()
    torch.manual_seed(999)  # a new process has another global state
    resumed = _fit(tmp_path / "model")
    done_before = step + 1 + (4 if phase == "denoiser" else 0)
    at_checkpoint = 4 + (5 if step == 4 else 2 * ((step + 1) // 2)) if phase == "denoiser" else 2 * ((step + 1) // 2)
    assert resumed.num_resumed_steps == at_checkpoint <= done_before
    assert (resumed.vae_losses, resumed.losses) == (whole.vae_losses, whole.losses)
    assert _contents(resumed.folder) == _contents(whole.folder)


def test_a_finished_fit_is_not_repeated(whole: FitReport) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a step was made")

    again = _fit(whole.folder, on_step=refuse)
    assert again.num_resumed_steps == 9
    assert again.losses == whole.losses
    with pytest.raises(ConfigError, match=r"empty or the result of fit .* found fit .*; choose another output directory"):
        _fit(whole.folder, seed=2)


def test_seed_settings_and_captions_decide_the_result(whole: FitReport, tmp_path: Path) -> None:
    assert _fit(tmp_path / "seed", seed=2).vae_losses != whole.vae_losses
    dropped = _fit(tmp_path / "dropout", settings=FitSettings(**{**vars(TINY), "caption_dropout": 1.0}))
    assert dropped.vae_losses == whole.vae_losses
    assert dropped.losses != whole.losses


def test_training_drops_captions_to_the_null_prompt_of_sampling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 15: the tokens that stand for no caption are those that guidance asks for."""
    trained, asked = list[torch.Tensor](), list[torch.Tensor]()
    step = DenoiserPhase.step

    def watched(phase: DenoiserPhase, number: int) -> float:
        handle = phase.text_encoder.register_forward_pre_hook(lambda _, arguments: trained.extend(arguments[0]))
        try:
            return step(phase, number)
        finally:
            handle.remove()

    monkeypatch.setattr(DenoiserPhase, "step", watched)
    report = _fit(tmp_path / "model", 1, 2, settings=replace(TINY, caption_dropout=1.0))
    pipeline = StableDiffusionPipeline.from_pretrained(report.folder, safety_checker=None)
    pipeline.text_encoder.register_forward_pre_hook(lambda _, arguments: asked.extend(arguments[0]))
    PromptEncoder(pipeline, "", 2.0)
    assert len(trained) == 2 * TINY.batch_size
    assert asked
    assert all(torch.equal(tokens_T, asked[-1]) for tokens_T in trained + asked)


def test_what_is_written_is_the_moving_average_of_denoiser_and_text_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 23: images are drawn with averaged weights of both."""
    averages = list[torch.Tensor]()
    step = DenoiserPhase.step

    def watched(phase: DenoiserPhase, number: int) -> float:
        if not averages:
            averages.extend(parameter.detach().clone() for parameter in phase.parameters)
        loss = step(phase, number)
        share = 1 - min(TINY.ema_decay, (1 + number) / (10 + number))
        for average, parameter in zip(averages, phase.parameters, strict=True):
            average.add_(parameter.detach() - average, alpha=share)
        return loss

    monkeypatch.setattr(DenoiserPhase, "step", watched)
    pipeline = StableDiffusionPipeline.from_pretrained(_fit(tmp_path / "model", 1, 4).folder, safety_checker=None)
    written = [*pipeline.unet.parameters(), *pipeline.text_encoder.parameters()]
    assert all(torch.allclose(x, y.half().float(), rtol=1e-3, atol=1e-6) for x, y in zip(written, averages, strict=True))


def test_the_global_random_state_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    _fit(tmp_path / "model", num_vae_steps=1, num_steps=1)
    assert torch.equal(torch.rand(3), expected)


def test_a_foreign_or_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    def kill(*_: object) -> None:
        raise Killed

    with pytest.raises(Killed):
        _fit(tmp_path / "model", on_step=kill, checkpoint_every=1)
    with pytest.raises(CheckpointError, match=r"found one of fit .* remove .*model.partial to start over"):
        _fit(tmp_path / "model", seed=2)
    checkpoint = tmp_path / "model.partial" / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-2000])
    with pytest.raises(CheckpointError, match="found a damaged file; remove it"):
        _fit(tmp_path / "model")


def test_what_can_not_be_fitted_is_refused(tmp_path: Path) -> None:
    data = load_packaged("mnist")
    budget: dict[str, Any] = {"num_vae_steps": 1, "num_steps": 1, "seed": 0, "output_dir": tmp_path / "model"}
    with pytest.raises(DataError, match=r"uint8 \[N,32,32\], found uint8 \[2, 28, 28\]"):
        fit_generator(data.images[:2, 2:-2, 2:-2], data.captions[:2], **budget)
    with pytest.raises(DataError, match="each of 2 images, found 1 captions"):
        fit_generator(data.images[:2], data.captions[:1], **budget)
    with pytest.raises(ConfigError, match="num_steps=0"):
        fit_generator(data.images[:2], data.captions[:2], **{**budget, "num_steps": 0})
    with pytest.raises(DivergenceError, match="expected a finite loss, found nan at step 1"):
        _fit(tmp_path / "model", settings=FitSettings(**{**vars(TINY), "vae_lr": 1e30}))


# --- its parts ------------------------------------------------------------------------------------------------------------------------


def test_batches_cover_each_epoch_once() -> None:
    seen = torch.cat([batch_indices(10, 4, 0, "vae", step) for step in range(5)])
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()
    assert len(batch_indices(3, 8, 0, "vae", 1)) == 8


def test_learning_rate_warms_up_holds_and_ends_near_zero() -> None:
    rates = [learning_rate(1.0, step, 100, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:50] == pytest.approx([1.0] * 41)
    assert rates[74] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0.0)


def test_noise_schedule_keeps_the_variance() -> None:
    signal, noise = signal_and_noise()
    torch.testing.assert_close(signal**2 + noise**2, torch.ones(1000))
    assert signal[0] > 0.999
    assert signal[-1] < 1e-3


def test_standardised_latents_decode_to_the_same_grey_images() -> None:
    torch.manual_seed(0)
    vae: Any = build_vae((8, 8, 8)).eval()
    images = torch.rand(16, 1, 32, 32).expand(-1, 3, -1, -1) * 2 - 1
    with torch.no_grad():
        make_grey(vae)
        before = vae.encode(images).latent_dist
        decoded = vae.decode(before.mode()).sample
        mean, std = before.mode().mean((0, 2, 3)), before.mode().std((0, 2, 3))
        standardise_latents(vae, mean, std)
        after = vae.encode(images).latent_dist
    torch.testing.assert_close(vae.decode(after.mode()).sample, decoded, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(after.mode().mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(after.mode().std((0, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(after.std / before.std, (1 / std).view(1, 4, 1, 1).expand_as(after.std), atol=0, rtol=1e-3)
    assert torch.equal(decoded[:, 0], decoded[:, 2])


def test_tokenizer_keeps_words_whole_and_the_end_token_last(tmp_path: Path) -> None:
    captions = load_packaged("mnist").captions
    tokenizer: Any = build_tokenizer(captions, tmp_path)
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == len(tokenizer) - 1
    assert tokenizer.convert_ids_to_tokens(tokenizer.eos_token_id) == END_TOKEN
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("A photo of a thin 7, upright")["input_ids"])
    assert tokens[1:-1] == ["a</w>", "photo</w>", "of</w>", "a</w>", "thin</w>", "7</w>", ",</w>", "upright</w>"]
    long = tokenizer("wholly unknown words, ünïcode too" * 9, truncation=True)["input_ids"]
    assert len(long) == 20
    assert long[-1] == tokenizer.eos_token_id
    unknown = tokenizer("zebra Ω")["input_ids"]
    assert tokenizer.decode(unknown, skip_special_tokens=True).strip() == "zebra ω"
    with pytest.raises(DataError, match=r"at most 6 tokens, found \d+ in"):
        build_tokenizer(captions, tmp_path / "short", max_tokens=6)


def test_tokens_are_numbered_by_frequency_then_alphabet(tmp_path: Path) -> None:
    build_tokenizer(["gh ef cd ab kl ij", "ij op", "mn"], tmp_path)
    merges = (tmp_path / "merges.txt").read_text(encoding="utf-8").split("\n")[1:-1]
    assert merges == ["i j</w>", "a b</w>", "c d</w>", "e f</w>", "g h</w>", "k l</w>", "m n</w>", "o p</w>"]
    tokenizer: Any = build_tokenizer(["aaaaa banana"], tmp_path)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("banana aaaaa aaaa")["input_ids"])
    assert tokens[1:-1] == ["banana</w>", "aaaaa</w>", "aa", "a", "a</w>"]


def test_text_encoder_pools_the_end_token_whatever_the_padding(tmp_path: Path) -> None:
    tokenizer: Any = build_tokenizer(load_packaged("mnist").captions, tmp_path)
    torch.manual_seed(0)
    encoder = build_text_encoder(tokenizer, 16).eval()
    short = tokenizer("a thin seven", return_tensors="pt")["input_ids"]
    padded = tokenizer("a thin seven", padding="max_length", return_tensors="pt")["input_ids"]
    other = tokenizer("a thin eight", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        out, out_padded, out_other = encoder(short), encoder(padded), encoder(other)
    torch.testing.assert_close(out.pooler_output, out.last_hidden_state[:, -1])
    torch.testing.assert_close(out_padded.pooler_output, out.pooler_output, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(out_other.pooler_output, out.pooler_output, atol=1e-2)


# --- the shipped model ----------------------------------------------------------------------------------------------------------------


def test_unknown_embedded_model_is_refused() -> None:
    with pytest.raises(DataError, match="one of mnist, found 'cat'"):
        embedded_path("cat")


def test_shipped_folder_is_small_and_says_where_it_comes_from() -> None:
    folder = embedded_path()
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 6e6
    card = (folder / "README.md").read_text(encoding="utf-8")
    for fact in ("CC BY-SA 3.0", "LeCun", "Cortes", "stablerep generator"):
        assert fact in card
    record = json.loads((folder / "fit.json").read_text(encoding="utf-8"))
    losses = [loss for _, loss in record["loss_curves"]["denoiser"]]
    assert np.mean(losses[-20:]) < 0.5 * losses[0]


@pytest.mark.slow
def test_golden_losses_of_the_shipped_fit() -> None:
    """A change of the data, the captions, the architecture or the mathematics of the fit shows here."""
    record = json.loads((embedded_path() / "fit.json").read_text(encoding="utf-8"))
    data = load_packaged("mnist")
    found = golden_losses(data.images, data.captions, record["fit"]["seed"])
    assert len(record["golden_losses"]["vae"]) == len(record["golden_losses"]["denoiser"]) == 10
    for phase, losses in record["golden_losses"].items():
        np.testing.assert_allclose(found[phase], losses, rtol=1e-3)
        assert losses[-1] < losses[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' schedulers under numpy 2
def test_shipped_model_draws_what_its_captions_say() -> None:
    from diffusers import StableDiffusionPipeline
    from sklearn.svm import SVC

    pipeline: Any = StableDiffusionPipeline.from_pretrained(embedded_path())
    assert {part.dtype for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder)} == {torch.float32}
    pipeline.set_progress_bar_config(disable=True)
    captions = [caption for caption, _ in caption_corpus("mnist", 40, seed=11)]
    generators = [torch.Generator().manual_seed(index) for index in range(len(captions))]
    images = pipeline(captions, num_inference_steps=8, guidance_scale=2.0, generator=generators, output_type="np").images
    assert images.shape == (40, 32, 32, 3)
    np.testing.assert_array_equal(images[..., 0], images[..., 2])
    train = load_packaged("mnist")
    judge = SVC(C=10).fit(_half_size(train.images / 255.0), train.labels)
    predicted = judge.predict(_half_size(images[..., 0]))
    assert np.mean(predicted == [class_of_caption(caption) for caption in captions]) >= 0.85
