"""Images from any diffusers text-to-image pipeline (paper, section 3: Stable Diffusion 1.5, DDIM, guidance 2).

The latents of an image come from `noise` and from nothing else. A caption is encoded by itself, once, so that its embedding does not
depend on its neighbours. The null prompt of classifier-free guidance is the pipeline's own: the empty prompt, as in training. No
image is filtered here, and nothing but numbers that are not finite is judged.

Dimension key: B images of a call, C channels, H and W pixels, S stored size.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from stablerep.errors import ConfigError, DataError
from stablerep.groups.diffusers_extras import add_lora, base_first, tune
from stablerep.groups.diffusers_pipeline import PromptEncoder, call_parameters, choose_device, latent_shape, load_pipeline
from stablerep.groups.noise import image_key, latent_noise, step_generator
from stablerep.groups.sampler import ImageHW3, ImageRequest
from stablerep.groups.schedulers import build_scheduler

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class DiffusersSampler:
    """Samples a pipeline folder.

    Args:
        path: a folder that diffusers can read, see `resolve`.
        scheduler: ddim, dpm++, unipc, euler or lcm.
        num_inference_steps: of the scheduler.
        guidance: w in w * conditional + (1 - w) * unconditional; 1 is conditional only, 0 unconditional.
        negative_prompt: replaces the null prompt as the unconditional one.
        noise_seed: of the data set.
        dtype: fp32, fp16 or bf16.
        device: auto (a GPU if there is one), cpu, cuda, cuda:1 ...
        size_px: height and width of the returned images.
        lora: a checked safetensors file, see `lora`.
        num_base_steps: so many first steps are made without the LoRA and with guidance, the others with it and without guidance.
        is_compiled: compile denoiser and decoder, for calls of one length.
        is_vae_sliced: decode image by image.

    Raises:
        ConfigError: a setting that the model or this machine does not have.
        DataError: the folder does not hold a text-to-image pipeline that loads.
    """

    def __init__(
        self,
        path: Path,
        *,
        scheduler: str,
        num_inference_steps: int,
        guidance: float,
        negative_prompt: str,
        noise_seed: int,
        dtype: str,
        device: str,
        size_px: int,
        lora: Path | None = None,
        num_base_steps: int = 0,
        is_compiled: bool = False,
        is_vae_sliced: bool = False,
    ) -> None:
        if not (guidance == 0 or guidance >= 1):
            raise ConfigError(f"generate.guidance: expected 0 (unconditional), 1 (conditional) or more, found {guidance}")
        self.size_px = size_px
        self.device = choose_device(device)
        self._pipeline = load_pipeline(path, DTYPES[dtype], self.device)
        self._pipeline.scheduler = build_scheduler(scheduler, self._pipeline.scheduler, num_inference_steps)
        if lora is not None:
            add_lora(self._pipeline, lora)
        self._num_base_steps = num_base_steps
        tune(self._pipeline, is_compiled=is_compiled, is_vae_sliced=is_vae_sliced)
        self._prompts = PromptEncoder(self._pipeline, negative_prompt, guidance)
        self._latent_shape = latent_shape(self._pipeline)
        self._noise_seed = noise_seed
        self._settings: dict[str, Any] = {
            "num_inference_steps": num_inference_steps,
            "guidance_scale": max(guidance, 1.0),  # 0 is the null prompt as the prompt
            "output_type": "pt",
        }
        if "eta" in call_parameters(self._pipeline):
            self._settings["eta"] = 0.0

    def sample(self, requests: Sequence[ImageRequest]) -> list[ImageHW3 | None]:
        """One image for each request, in their order; see `sampler.ImageSampler`.

        Raises:
            ConfigError: the pipeline refuses the settings (a number of steps, say).
        """
        keys = [image_key(request.caption_id, request.image_index, self._noise_seed) for request in requests]
        arguments = self._settings | {"generator": [step_generator(key) for key in keys]}
        if self._latent_shape is not None:
            noise_BCHW = torch.stack([latent_noise(key, self._latent_shape) for key in keys])
            arguments["latents"] = noise_BCHW.to(self.device, self._pipeline.dtype)
        with warnings.catch_warnings(), torch.inference_mode(), torch.backends.cudnn.flags(True, benchmark=False, deterministic=True):
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)  # diffusers' schedulers under numpy 2
            if self._num_base_steps:
                arguments |= base_first(self._pipeline, self._num_base_steps)
            arguments |= self._prompts.arguments([request.text for request in requests])
            try:
                images = self._pipeline(**arguments).images
            except ValueError as error:
                raise ConfigError(f"{type(self._pipeline).__name__} refuses the settings of generate: {error}") from error
            return _stored(images, self.size_px)

    @property
    def device_name(self) -> str:
        """As its driver calls it; empty for a CPU."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else ""

    def tflop_per_image(self) -> float:
        """Counted while one image is made (torch.utils.flop_counter: matrix products, convolutions, attention)."""
        with FlopCounterMode(display=False) as counter:
            self.sample([ImageRequest("flops", "", 0)])
        return counter.get_total_flops() / 1e12


def _stored(images_BCHW: Any, size_px: int) -> list[ImageHW3 | None]:
    """Images in [0, 1] as the uint8 RGB that is stored, None for those that are not finite."""
    if not isinstance(images_BCHW, torch.Tensor) or images_BCHW.ndim != 4 or images_BCHW.shape[1] not in (1, 3):
        found = getattr(images_BCHW, "shape", type(images_BCHW).__name__)
        raise DataError(f"expected images of 1 or 3 channels from the pipeline, found {found}; choose a text-to-image pipeline")
    images_BCHW = images_BCHW.float()
    is_finite_B = images_BCHW.isfinite().flatten(1).all(1).tolist()
    if images_BCHW.shape[-2:] != (size_px, size_px):
        images_BCHW = functional.interpolate(images_BCHW, (size_px, size_px), mode="bicubic", antialias=True, align_corners=False)
    levels_BCSS = images_BCHW.nan_to_num().clamp(0, 1).mul(255).round().to(torch.uint8)
    levels_BSS3 = levels_BCSS.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return [np.ascontiguousarray(image) if is_finite else None for image, is_finite in zip(levels_BSS3, is_finite_B, strict=True)]
