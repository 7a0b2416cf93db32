"""A LoRA is one whole safetensors file; a student's steps come after the base model's, without guidance."""

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import tiny_diffusion
import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict

from stablerep.errors import DataError
from stablerep.groups.diffusers_sampler import DiffusersSampler
from stablerep.groups.lora import resolve_lora
from stablerep.groups.sampler import ImageHW3, ImageRequest

REQUESTS = [ImageRequest("caption", "red cat", number) for number in range(2)]
SETTINGS: dict[str, Any] = {
    "scheduler": "lcm",
    "num_inference_steps": 4,
    "guidance": 2.0,
    "negative_prompt": "",
    "noise_seed": 0,
    "dtype": "fp32",
    "device": "cpu",
    "size_px": 16,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny Stable Diffusion, and a LoRA that changes it."""
    folder = tmp_path_factory.mktemp("lora")
    sd = tiny_diffusion.write_sd(folder / "sd")
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(sd, safety_checker=None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline.unet.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False))
    layers = {name: 3 * value for name, value in get_peft_model_state_dict(pipeline.unet).items()}
    diffusers.StableDiffusionPipeline.save_lora_weights(folder / "student", unet_lora_layers=layers)
    return sd, folder / "student" / "pytorch_lora_weights.safetensors"


def _sampled(sampler: DiffusersSampler) -> list[ImageHW3]:
    return [image for image in sampler.sample(REQUESTS) if image is not None]


def test_the_lora_changes_the_images(model: tuple[Path, Path]) -> None:
    sd, lora = model
    plain, changed = (_sampled(DiffusersSampler(sd, **SETTINGS, lora=each)) for each in (None, lora))
    assert any((x != y).any() for x, y in zip(plain, changed, strict=True))


def test_first_the_base_model_with_guidance_then_the_student_without(model: tuple[Path, Path]) -> None:
    sd, lora = model
    sampler = DiffusersSampler(sd, **SETTINGS, lora=lora, num_base_steps=1)
    unet = sampler._pipeline.unet
    layer = next(module for module in unet.modules() if isinstance(module, BaseTunerLayer))
    seen: list[tuple[int, bool]] = []
    unet.register_forward_pre_hook(lambda _, inputs: seen.append((len(inputs[0]), not layer.disable_adapters)))
    first = _sampled(sampler)
    assert seen == [(4, False), (2, True), (2, True), (2, True)]
    again = _sampled(sampler)
    assert all(np.array_equal(x, y) for x, y in zip(first, again, strict=True)), "a call leaves nothing behind for the next"
    student = _sampled(DiffusersSampler(sd, **(SETTINGS | {"guidance": 1.0}), lora=lora))
    assert any((x != y).any() for x, y in zip(first, student, strict=True)), "the first step was the base model's"


def test_a_lora_is_identified_by_its_digest(model: tuple[Path, Path], tmp_path: Path) -> None:
    path, uri, sha256 = resolve_lora(str(model[1]))
    assert resolve_lora(uri, sha256) == (path, uri, sha256)
    with pytest.raises(DataError, match=r"expected the LoRA with digest 0000000000000000..., found .*it changed since stage generator ran"):
        resolve_lora(uri, "0" * 64)
    with pytest.raises(DataError, match=r"expected a .safetensors file, found 'lora.bin'; other formats can run code"):
        resolve_lora(str(tmp_path / "lora.bin"))
    with pytest.raises(DataError, match="expected a file, found none at"):
        resolve_lora(str(tmp_path / "gone.safetensors"))
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"cut.safetensors: expected \d+ bytes as its header says"):
        resolve_lora(str(tmp_path / "cut.safetensors"))


def test_a_lora_of_another_model_is_refused(model: tuple[Path, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = tmp_path / "wide.safetensors"
    save_file({name: torch.zeros(*value.shape[:-1], value.shape[-1] + 8) for name, value in load_file(model[1]).items()}, path)
    with pytest.raises(DataError, match=r"wide.safetensors: expected a LoRA for StableDiffusionPipeline, found one that does not load"):
        DiffusersSampler(model[0], **SETTINGS, lora=path)


def test_floating_point_work_is_counted(model: tuple[Path, Path]) -> None:
    one, two = (DiffusersSampler(model[0], **(SETTINGS | {"num_inference_steps": n})).tflop_per_image() for n in (2, 4))
    assert 0 < one < two < 2 * one
