"""The small Stable Diffusion that is fitted here: the architecture of every part, and how the parts become a pipeline folder.

All parts are the stock classes that Stable Diffusion 1.5 is made of, only narrow: 32x32 RGB images, 8x8x4 latents. Cross-attention
sits at the 4x4 level and in the middle, where attention is cheap and a digit is global. This module builds and writes; it trains
nothing.

Dimension key: B images, C latent channels, H and W latent size.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

SIZE_PX = 32
LATENT_SIZE = 8
LATENT_CHANNELS = 4
NUM_TRAIN_TIMESTEPS = 1000
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": NUM_TRAIN_TIMESTEPS,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "steps_offset": 1,  # unused with trailing spacing, but StableDiffusionPipeline insists on it
}


def build_vae(channels: Sequence[int] = (8, 16, 32)) -> AutoencoderKL:
    """An untrained autoencoder 3x32x32 <-> 4x8x8."""
    # diffusers annotates these tuples as having one element.
    levels: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * len(channels),
        "up_block_types": ("UpDecoderBlock2D",) * len(channels),
        "block_out_channels": tuple(channels),
    }
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        **levels,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIZE_PX,
        scaling_factor=1.0,
    )


def build_unet(channels: Sequence[int] = (48, 80), text_width: int = 64) -> UNet2DConditionModel:
    """An untrained denoiser of 8x8x4 latents under text."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=tuple(channels),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=text_width,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        norm_num_groups=8,
    )


def build_text_encoder(tokenizer: CLIPTokenizer, text_width: int = 64) -> CLIPTextModel:
    """An untrained two-layer text encoder for the vocabulary of `tokenizer`.

    The special ids are set explicitly: with the default `eos_token_id=2`, transformers would pool an arbitrary word.
    """
    special_ids: dict[str, Any] = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=text_width,
            intermediate_size=4 * text_width,
            projection_dim=text_width,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            **special_ids,
        )
    )


def signal_and_noise() -> tuple[torch.Tensor, torch.Tensor]:
    """Factors of clean latent and of noise at every training step: two float32 tensors [1000]."""
    alphas = DDPMScheduler(**SCHEDULE).alphas_cumprod.float()
    return alphas.sqrt(), (1 - alphas).sqrt()


@torch.no_grad()
def standardise_latents(vae: AutoencoderKL, mean_C: torch.Tensor, std_C: torch.Tensor) -> None:
    """Fold a shift and a scale per channel into the 1x1 convolutions around the latent, so that latents have mean 0 and std 1.

    Decoding is unchanged: what `quant_conv` subtracts and divides, `post_quant_conv` multiplies and adds back.
    """
    (quant_weight, quant_bias), (post_weight, post_bias) = _weights(vae.quant_conv), _weights(vae.post_quant_conv)
    num_channels = len(mean_C)
    post_bias += post_weight[:, :, 0, 0] @ mean_C
    post_weight *= std_C.view(1, -1, 1, 1)
    quant_weight[:num_channels] /= std_C.view(-1, 1, 1, 1)
    quant_bias[:num_channels] = (quant_bias[:num_channels] - mean_C) / std_C
    quant_bias[num_channels:] -= 2 * std_C.log()  # the other half of the moments is the log variance


@torch.no_grad()
def make_grey(vae: AutoencoderKL) -> None:
    """Average the output convolution over RGB: exactly grey images, and for grey targets never a larger squared error."""
    weight, bias = _weights(vae.decoder.conv_out)
    weight.copy_(weight.mean(0, keepdim=True).expand_as(weight))
    bias.copy_(bias.mean().expand_as(bias))


def _weights(convolution: nn.Conv2d | None) -> tuple[torch.Tensor, torch.Tensor]:
    assert convolution is not None
    assert convolution.bias is not None
    return convolution.weight, convolution.bias


def save_pipeline(
    folder: Path, vae: AutoencoderKL, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer
) -> None:
    """Write a folder that `StableDiffusionPipeline.from_pretrained` reads: weights in half precision, DPM-Solver++ as scheduler.

    The text encoder stays in single precision: transformers loads the stored type, and the parts must agree without an argument.
    """
    parts: dict[str, Any] = {
        "vae": vae.half(),
        "text_encoder": text_encoder.float(),
        "tokenizer": tokenizer,
        "unet": unet.half(),
        "scheduler": DPMSolverMultistepScheduler(**SCHEDULE),
        "safety_checker": None,
        "feature_extractor": None,
    }
    pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipeline.save_pretrained(folder, safe_serialization=True)
