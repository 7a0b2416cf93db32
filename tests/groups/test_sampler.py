"""The diffusers sampler against DDIM written out by hand, against the pipelines' own calls, and what must never change an image."""

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import tiny_diffusion
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from stablerep.config import load_recipe
from stablerep.errors import ConfigError, DataError
from stablerep.groups import diffusers_pipeline, diffusers_sampler
from stablerep.groups.diffusers_sampler import DiffusersSampler
from stablerep.groups.noise import image_key, latent_noise
from stablerep.groups.quality import difference
from stablerep.groups.resolve import resolve_generator
from stablerep.groups.sampler import ImageHW3, ImageRequest
from stablerep.groups.schedulers import build_scheduler
from stablerep.store import Store

SETTINGS: dict[str, Any] = {
    "scheduler": "ddim",
    "num_inference_steps": 4,
    "guidance": 2.0,
    "negative_prompt": "",
    "noise_seed": 0,
    "dtype": "fp32",
    "device": "cpu",
    "size_px": tiny_diffusion.SIZE_PX,
}
REQUESTS = [ImageRequest(f"caption{number // 2}", ("red cat", "old dog", "sea")[number // 2], number % 2) for number in range(6)]


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_diffusion.write_sd(tmp_path_factory.mktemp("sd") / "model")


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_diffusion.write_sdxl(tmp_path_factory.mktemp("sdxl") / "model")


def _images(folder: Path, requests: list[ImageRequest] = REQUESTS, **changes: Any) -> list[ImageHW3]:
    images = DiffusersSampler(folder, **(SETTINGS | changes)).sample(requests)
    assert all(image is not None for image in images)
    return [image for image in images if image is not None]


def _largest(first: list[ImageHW3], second: list[ImageHW3]) -> int:
    return max(int(np.abs(x.astype(int) - y.astype(int)).max()) for x, y in zip(first, second, strict=True))


def _ddim_by_hand(folder: Path, request: ImageRequest, timesteps: list[int], guidance: float, negative: str = "") -> ImageHW3:
    """DDIM (https://arxiv.org/abs/2010.02502, eq. 12, sigma 0) with eps = w cond + (1 - w) uncond, one image, no diffusers pipeline."""
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    signal = torch.cumprod(1 - betas, 0)

    def encode(text: str) -> torch.Tensor:
        tokens = pipe.tokenizer([text], padding="max_length", max_length=24, truncation=True, return_tensors="pt").input_ids
        return pipe.text_encoder(tokens)[0]

    with torch.no_grad():
        conditional, unconditional = encode(request.text), encode(negative)
        x = latent_noise(image_key(request.caption_id, request.image_index, 0), tiny_diffusion.LATENT_SHAPE)[None]
        for step, timestep in enumerate(timesteps):
            noise = guidance * pipe.unet(x, timestep, conditional).sample + (1 - guidance) * pipe.unet(x, timestep, unconditional).sample
            now = signal[timestep]
            after = signal[timesteps[step + 1]] if step + 1 < len(timesteps) else signal[0]  # set_alpha_to_one is off in version 1.5
            clean = (x - (1 - now).sqrt() * noise) / now.sqrt()
            x = (after.sqrt() * clean + (1 - after).sqrt() * noise).float()
        image = pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample[0]
    return ((image / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.0, 7.5])
def test_equals_ddim_written_out(sd: Path, guidance: float) -> None:
    """Guidance 1 is conditional only, 0 unconditional only, and the null prompt is the empty text."""
    trailing = [999, 749, 499, 249]
    expected = [_ddim_by_hand(sd, request, trailing, guidance) for request in REQUESTS[1:3]]
    assert _largest(_images(sd, REQUESTS[1:3], guidance=guidance), expected) <= 1


def test_guidance_is_seen(sd: Path) -> None:
    """Else the comparison above could not fail."""
    images = {guidance: _images(sd, guidance=guidance) for guidance in (0.0, 1.0, 2.0, 7.5)}
    pairs = [(0.0, 1.0), (1.0, 2.0), (2.0, 7.5)]
    assert all(difference(images[a][0], images[b][0]) > 0.5 for a, b in pairs)


def test_many_steps_keep_the_pipelines_own_spacing(sd: Path) -> None:
    """25 steps of version 1.5 are 961, 921 ... 1: leading, with an offset of 1."""
    leading = list(range(961, 0, -40))
    assert len(leading) == 25
    expected = [_ddim_by_hand(sd, request, leading, 2.0) for request in REQUESTS[:1]]
    assert _largest(_images(sd, REQUESTS[:1], num_inference_steps=25), expected) <= 1


def test_negative_prompt_replaces_the_null_prompt(sd: Path) -> None:
    images = _images(sd, REQUESTS[:2], negative_prompt="blurry", guidance=3.0)
    expected = [_ddim_by_hand(sd, request, [999, 749, 499, 249], 3.0, negative="blurry") for request in REQUESTS[:2]]
    assert _largest(images, expected) <= 1
    assert difference(images[0], _images(sd, REQUESTS[:2], guidance=3.0)[0]) > 0.5


def test_paper_recipe_on_the_true_class(sd: Path, store: Store) -> None:
    """Recipe cc3m_b16, with another model and fewer steps: resolved, verified, sampled, stored at 256 pixels."""
    recipe = load_recipe("cc3m_b16", f"generator.model={sd} generate.num_inference_steps=3 generate.dtype=fp32")
    folder, reference = resolve_generator(recipe.generator.model, "", recipe.generator.licence, store)
    assert (reference.pipeline_class, reference.size_px) == ("StableDiffusionPipeline", 16)
    config = recipe.generate
    assert (config.scheduler, config.guidance, config.stored_size_px) == ("ddim", 2.0, 256)
    settings = {name: getattr(config, name) for name in SETTINGS if name != "size_px"}
    images = _images(folder, **settings, size_px=config.stored_size_px)
    assert all(image.shape == (256, 256, 3) and image.dtype == np.uint8 for image in images)
    native = _images(folder, num_inference_steps=3)
    assert all(abs(float(x.mean()) - float(y.mean())) < 2 for x, y in zip(images, native, strict=True))


def test_half_precision_is_close(sd: Path) -> None:
    exact = _images(sd, REQUESTS[:2])
    assert difference(_images(sd, REQUESTS[:2], dtype="bf16")[0], exact[0]) < 8
    assert difference(_images(sd, REQUESTS[:2], dtype="fp16")[0], exact[0]) < 2


@pytest.mark.parametrize("scheduler", ["ddim", "dpm++", "lcm"])
def test_neighbours_and_place_do_not_matter(sd: Path, scheduler: str) -> None:
    """In calls of equal length every image has equal bytes, wherever it is and whoever is beside it."""
    sampler = DiffusersSampler(sd, **(SETTINGS | {"scheduler": scheduler}))
    whole = sampler.sample(REQUESTS)
    assert all(np.array_equal(x, y) for x, y in zip(sampler.sample(REQUESTS[::-1])[::-1], whole, strict=True))
    others = [ImageRequest("other", "a tree", number) for number in range(5)]
    assert np.array_equal(sampler.sample([*others, REQUESTS[3]])[5], whole[3])
    assert np.array_equal(sampler.sample([REQUESTS[3], *others])[0], whole[3])


@pytest.mark.parametrize("scheduler", ["ddim", "dpm++", "lcm"])
def test_batch_size_moves_a_pixel_by_one_level_at_most(sd: Path, scheduler: str) -> None:
    whole = _images(sd, scheduler=scheduler)
    sampler = DiffusersSampler(sd, **(SETTINGS | {"scheduler": scheduler}))
    single = [image for request in REQUESTS for image in sampler.sample([request]) if image is not None]
    assert _largest(whole, single) <= 1


def test_a_sliced_decoder_sees_one_image_at_a_time_and_gives_the_same(sd: Path) -> None:
    seen: dict[bool, list[int]] = {}
    images: dict[bool, Any] = {}
    for is_vae_sliced in (False, True):
        sampler = DiffusersSampler(sd, **(SETTINGS | {"num_inference_steps": 1}), is_vae_sliced=is_vae_sliced)
        lengths = seen.setdefault(is_vae_sliced, [])
        sampler._pipeline.vae.decoder.register_forward_hook(lambda _, inputs, __, lengths=lengths: lengths.append(len(inputs[0])))
        images[is_vae_sliced] = sampler.sample(REQUESTS)
    assert seen == {False: [6], True: [1] * 6}
    assert _largest(images[True], images[False]) <= 1


def test_compiled_parts_give_the_same_images_and_are_compiled_once(sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as for a GPU; the graphs are run as they are, because the compiler itself takes minutes."""
    compile_module, counters = torch.nn.Module.compile, torch._dynamo.utils.counters
    given: list[dict[str, Any]] = []

    def traced(module: torch.nn.Module, **options: Any) -> None:
        given.append(options)
        compile_module(module, backend="eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    torch._dynamo.reset()
    counters.clear()
    settings = SETTINGS | {"num_inference_steps": 2}
    sampler, plain = DiffusersSampler(sd, **settings, is_compiled=True), DiffusersSampler(sd, **settings)
    assert given == [{"dynamic": False}] * 2, "denoiser and decoder"
    assert sampler.tflop_per_image() == plain.tflop_per_image() > 0
    assert counters["stats"]["unique_graphs"] == 0, "counting is no reason to compile for one image"
    images = sampler.sample(REQUESTS)
    num_graphs = counters["stats"]["unique_graphs"]
    assert num_graphs >= 2
    assert _largest(images, plain.sample(REQUESTS)) <= 1
    sampler.sample(REQUESTS[::-1])
    assert counters["stats"]["unique_graphs"] == num_graphs


def test_images_of_a_group_differ(sd: Path) -> None:
    images = _images(sd)
    assert all(difference(x, y) > 5 for i, x in enumerate(images) for y in images[:i])
    assert difference(images[0], _images(sd, noise_seed=1)[0]) > 5


def test_each_image_has_its_own_noise_in_every_step(sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LCM draws noise between steps: even from equal latents two images of a caption must come apart."""
    monkeypatch.setattr(diffusers_sampler, "latent_noise", lambda _, shape: torch.zeros(shape))
    assert difference(*_images(sd, REQUESTS[:2], scheduler="ddim")) == 0
    assert difference(*_images(sd, REQUESTS[:2], scheduler="lcm")) > 5


def test_levels_are_rounded_to_the_nearest() -> None:
    levels_HW = torch.arange(256, dtype=torch.float32).view(16, 16)
    for offset in (-0.4, 0.0, 0.4):
        (image,) = diffusers_sampler._stored(((levels_HW + offset) / 255).clamp(0, 1).expand(1, 3, 16, 16), 16)
        assert image is not None
        assert np.array_equal(image[:, :, 1], levels_HW.numpy())


def test_what_is_no_image_batch_is_refused() -> None:
    for wrong in (torch.zeros(2, 4, 8, 8), torch.zeros(3, 8, 8), [1, 2]):
        with pytest.raises(DataError, match="expected images of 1 or 3 channels from the pipeline, found "):
            diffusers_sampler._stored(wrong, 8)


def test_the_text_encoder_runs_once_for_each_caption(sd: Path) -> None:
    sampler = DiffusersSampler(sd, **SETTINGS)
    seen: list[int] = []
    sampler._pipeline.text_encoder.register_forward_hook(lambda _, __, output: seen.append(len(output[0])))
    sampler.sample(REQUESTS)
    assert seen == [1, 1, 1]
    sampler.sample([REQUESTS[5], *(ImageRequest("caption2", "sea", index) for index in range(2, 6))])
    assert seen == [1, 1, 1], "the last caption of a call is still known in the next"


def test_prompts_and_embeddings_give_the_same_images(sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pipelines that are not known to pad to one length encode their prompts themselves."""
    expected = {guidance: _images(sd, guidance=guidance, negative_prompt="blurry") for guidance in (0.0, 1.0, 3.0)}
    plain = _images(sd)
    monkeypatch.setattr(diffusers_pipeline, "_EMBEDDINGS", {})
    assert _largest(_images(sd), plain) <= 1
    for guidance, images in expected.items():
        assert _largest(_images(sd, guidance=guidance, negative_prompt="blurry"), images) <= 1


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("negative", ["", "blurry"])
def test_sdxl_equals_its_own_call(sdxl: Path, guidance: float, negative: str) -> None:
    """Two text encoders, pooled embeddings, time ids; its null prompt is zeros unless a negative prompt is given."""
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing", clip_sample=False)
    noise = torch.stack([latent_noise(image_key(r.caption_id, r.image_index, 0), tiny_diffusion.LATENT_SHAPE) for r in REQUESTS])
    own = pipe(
        prompt=[request.text for request in REQUESTS],
        negative_prompt=[negative] * len(REQUESTS) if negative else None,
        latents=noise,
        num_inference_steps=4,
        guidance_scale=guidance,
        output_type="np",
    ).images
    expected = [(image * 255).round().astype(np.uint8) for image in own]
    assert _largest(_images(sdxl, guidance=guidance, negative_prompt=negative), expected) <= 1


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ddim", "DDIMScheduler"),
        ("dpm++", "DPMSolverMultistepScheduler"),
        ("unipc", "UniPCMultistepScheduler"),
        ("euler", "EulerDiscreteScheduler"),
        ("lcm", "LCMScheduler"),
    ],
)
def test_schedulers_keep_what_the_model_was_trained_with(name: str, kind: str) -> None:
    current = diffusers.DPMSolverMultistepScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", timestep_spacing="linspace", num_train_timesteps=800
    )
    few, many = (build_scheduler(name, current, steps) for steps in (8, 50))
    assert type(few).__name__ == kind
    for scheduler in (few, many):
        config = scheduler.config
        assert (config.beta_schedule, config.prediction_type, config.num_train_timesteps) == ("squaredcos_cap_v2", "v_prediction", 800)
        assert not config.get("clip_sample", False)
    assert (few.config.timestep_spacing, many.config.timestep_spacing) == ("trailing", "linspace")
    assert few.config.get("algorithm_type", "dpmsolver++") == "dpmsolver++"


def test_solvers_agree_with_many_steps(sd: Path) -> None:
    """They solve the same equation; a wrong prediction type or noise scale would show here."""
    images = {name: _images(sd, REQUESTS[:1], scheduler=name, num_inference_steps=40)[0] for name in ("ddim", "dpm++", "unipc", "euler")}
    assert all(difference(image, images["ddim"]) < 6 for image in images.values())


def test_flow_matching_models_take_their_own_scheduler() -> None:
    current = FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert build_scheduler("euler", current, 8) is current
    with pytest.raises(ConfigError, match=r"flow matching.*expected euler, found 'ddim'.*--set generate.scheduler=euler"):
        build_scheduler("ddim", current, 8)


def test_one_channel_becomes_three(tmp_path: Path) -> None:
    images = _images(tiny_diffusion.write_sd(tmp_path / "grey", image_channels=1))
    assert all(image.shape == (16, 16, 3) and (image == image[:, :, :1]).all() for image in images)
    assert difference(images[0], images[1]) > 5


@pytest.mark.parametrize("size_px", [8, 32])
def test_stored_size(sd: Path, size_px: int) -> None:
    assert all(image.shape == (size_px, size_px, 3) for image in _images(sd, size_px=size_px))


def test_every_part_is_in_evaluation_mode(sd: Path) -> None:
    """Dropout while sampling would make an image depend on its neighbours."""
    pipeline = DiffusersSampler(sd, **SETTINGS)._pipeline
    assert not any(module.training for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder) for module in part.modules())


def test_numbers_that_are_not_finite_are_no_image(sd: Path) -> None:
    sampler = DiffusersSampler(sd, **SETTINGS)

    def poison(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        output[1, 0, 3, 3] = float("nan")
        output[4, 2, 0, 0] = float("inf")
        return output

    sampler._pipeline.vae.decoder.register_forward_hook(poison)
    images = sampler.sample(REQUESTS)
    assert [image is None for image in images] == [False, True, False, False, False, False]
    assert images[4] is not None, "an infinity is clamped by the pipeline to white"


def test_settings_that_cannot_be(sd: Path) -> None:
    with pytest.raises(ConfigError, match=r"generate.guidance: expected 0 .* or more, found 0.5"):
        DiffusersSampler(sd, **(SETTINGS | {"guidance": 0.5}))
    with pytest.raises(ConfigError, match=r"generate.device: expected a device of this machine \(0 GPUs\), found 'cuda'"):
        DiffusersSampler(sd, **(SETTINGS | {"device": "cuda"}))
    with pytest.raises(ConfigError, match=r"generate.device: expected auto, cpu, cuda or cuda:<n>, found 'gpu'"):
        DiffusersSampler(sd, **(SETTINGS | {"device": "gpu"}))
    with pytest.raises(ConfigError, match=r"StableDiffusionPipeline refuses the settings of generate: .*100.*50"):
        DiffusersSampler(sd, **(SETTINGS | {"scheduler": "lcm", "num_inference_steps": 100})).sample(REQUESTS)
    assert DiffusersSampler(sd, **(SETTINGS | {"device": "auto"})).device.type == "cpu"


def test_a_folder_that_does_not_load(sd: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    tiny_diffusion.write_sd(broken)
    (broken / "unet" / "config.json").write_text("{}")
    with pytest.raises(DataError, match=r"expected a diffusers text-to-image pipeline, found one that does not load .*save_pretrained"):
        DiffusersSampler(broken, **SETTINGS)


def test_pipelines_that_make_no_images_from_prompts(sd: Path, tmp_path: Path) -> None:
    for kind in ("DDPMPipeline", "StableDiffusionImg2ImgPipeline"):
        folder = tmp_path / kind
        pipe = diffusers.StableDiffusionPipeline.from_pretrained(sd, safety_checker=None)
        if kind == "DDPMPipeline":
            diffusers.DDPMPipeline(pipe.unet, diffusers.DDPMScheduler()).save_pretrained(folder)
        else:
            diffusers.StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False).save_pretrained(folder)
        with pytest.raises(DataError, match=rf"expected a text-to-image pipeline, found {kind}"):
            DiffusersSampler(folder, **SETTINGS)
