"""Randomly initialised pipelines of the true diffusers classes, small enough for a test: 16x16 pixels, a tokenizer of single letters."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

SIZE_PX = 16
LATENT_SHAPE = (4, 8, 8)

# The scheduler that Stable Diffusion 1.5 ships.
SD15_SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}


def tiny_tokenizer(folder: Path) -> CLIPTokenizer:
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=24)


def write_sd(folder: Path, *, seed: int = 0, image_channels: int = 3) -> Path:
    """A StableDiffusionPipeline with the scheduler of version 1.5."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = tiny_tokenizer(folder.with_name(folder.name + "-letters"))
        StableDiffusionPipeline(
            vae=_vae(image_channels),
            text_encoder=CLIPTextModel(_text_config(tokenizer, 32)),
            tokenizer=tokenizer,
            unet=_unet(cross_attention_dim=32),
            scheduler=PNDMScheduler(**SD15_SCHEDULE),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(folder)
    return folder


def write_sdxl(folder: Path, *, seed: int = 0) -> Path:
    """A StableDiffusionXLPipeline: two text encoders, pooled embeddings, time ids, zeros for the null prompt."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = tiny_tokenizer(folder.with_name(folder.name + "-letters"))
        unet = _unet(
            cross_attention_dim=32 + 48,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=48 + 6 * 8,
        )
        StableDiffusionXLPipeline(
            vae=_vae(3),
            text_encoder=CLIPTextModel(_text_config(tokenizer, 32)),
            text_encoder_2=CLIPTextModelWithProjection(_text_config(tokenizer, 48)),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=unet,
            scheduler=PNDMScheduler(**SD15_SCHEDULE),
            add_watermarker=False,
        ).save_pretrained(folder)
    return folder


def _vae(image_channels: int) -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=image_channels,
        out_channels=image_channels,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        latent_channels=LATENT_SHAPE[0],
        norm_num_groups=8,
        sample_size=SIZE_PX,
    )


def _unet(**options: Any) -> UNet2DConditionModel:
    unet = UNet2DConditionModel(
        sample_size=LATENT_SHAPE[1],
        in_channels=LATENT_SHAPE[0],
        out_channels=LATENT_SHAPE[0],
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        norm_num_groups=8,
        **options,
    )
    with torch.no_grad():
        unet.conv_out.weight *= 4  # so that text and guidance are seen
    return unet


def _text_config(tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
