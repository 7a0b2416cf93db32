"""Generation on a GPU, against what issue 5 asks of an H200.

    python benchmarks/gpu_generation.py --hardware h200 [--batch-size 64] [--batches 3]
    python benchmarks/gpu_generation.py --tiny --results build       every part in small on any device: tries the script, measures nothing

Pipelines of the Stable Diffusion 1.5 architecture with random weights (an image costs the same whatever it shows), 512 px decoded and
256 px kept, fp16, guidance 2. Presets run through the sampler that lanes use, compiled, with as many images a call as `--batch-size`;
the consistency LoRA of `sd15_lcm4` is random too. The baseline is diffusers as its documentation has it: eager, DDIM 50 steps, at the
fastest of several batch sizes. Compilation is not timed.
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from device import DEVICE, seconds_a_call
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from result import Row, parser_of, write
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from stablerep.config.presets import PRESETS
from stablerep.groups.diffusers_sampler import DiffusersSampler
from stablerep.groups.embedded_models import embedded_path
from stablerep.groups.sampler import ImageRequest

GUIDANCE, STORED_PX, IMAGES_PER_CAPTION = 2.0, 256, 4
TARGETS = {"sd15_ddim50": 4.3, "sd15_dpm20": 10.0, "sd15_lcm4": 45.0}
SPEEDUP_TARGET = 1.6


def write_pipeline(folder: Path, is_tiny: bool) -> Path:
    """A pipeline folder of the architecture, or of a fraction of its widths; random weights, the embedded tokenizer."""
    torch.manual_seed(0)
    widths = (32, 64, 64, 64) if is_tiny else (320, 640, 1280, 1280)
    text_width = 64 if is_tiny else 768
    tokenizer = CLIPTokenizer.from_pretrained(embedded_path() / "tokenizer", model_max_length=77)
    text = CLIPTextConfig(
        vocab_size=49_408,
        hidden_size=text_width,
        intermediate_size=4 * text_width,
        projection_dim=text_width,
        num_hidden_layers=2 if is_tiny else 12,
        num_attention_heads=text_width // 64,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    unet = UNet2DConditionModel(
        sample_size=8 if is_tiny else 64,
        block_out_channels=widths,
        layers_per_block=2,
        attention_head_dim=8,
        cross_attention_dim=text_width,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    )
    vae_widths = (32, 32, 64, 64) if is_tiny else (128, 256, 512, 512)
    vae = AutoencoderKL(
        block_out_channels=vae_widths,
        layers_per_block=2,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=64 if is_tiny else 512,
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    unet.add_adapter(LoraConfig(r=4 if is_tiny else 64, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    StableDiffusionPipeline.save_lora_weights(folder.with_name("lora"), unet_lora_layers=get_peft_model_state_dict(unet))
    return folder


def preset_rate(folder: Path, preset: str, options: argparse.Namespace) -> tuple[float, float]:
    """Images a second of a preset through the sampler, and its TFLOP an image."""
    settings = dict(PRESETS[preset])
    sampler = DiffusersSampler(
        folder,
        scheduler=settings["scheduler"],
        num_inference_steps=settings["num_inference_steps"],
        num_base_steps=settings["num_base_steps"],
        guidance=GUIDANCE,
        negative_prompt="",
        noise_seed=0,
        dtype="fp16" if DEVICE.type == "cuda" else "fp32",
        device=DEVICE.type,
        size_px=STORED_PX,
        lora=folder.with_name("lora") / "pytorch_lora_weights.safetensors" if settings["num_base_steps"] else None,
        is_compiled=DEVICE.type == "cuda",
    )
    size = options.batch_size
    requests = [
        ImageRequest(f"{n // IMAGES_PER_CAPTION:016x}", f"a red bus {n // IMAGES_PER_CAPTION}", n % IMAGES_PER_CAPTION) for n in range(size)
    ]
    return size / seconds_a_call(lambda: sampler.sample(requests), 1, options.batches), sampler.tflop_per_image()


def eager_rate(folder: Path, options: argparse.Namespace) -> tuple[float, int]:
    """Images a second of diffusers by itself, and the batch size that is fastest."""
    dtype = torch.float16 if DEVICE.type == "cuda" else torch.float32
    pipeline: Any = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=dtype, safety_checker=None).to(DEVICE)
    pipeline.set_progress_bar_config(disable=True)
    found: list[tuple[float, int]] = []
    for size in sorted({min(size, options.batch_size) for size in (1, 4, 16, 64, options.batch_size)}):
        texts = [f"a red bus {n}" for n in range(size)]
        call = partial(pipeline, texts, num_inference_steps=50, guidance_scale=GUIDANCE)
        found.append((size / seconds_a_call(call, 1, options.batches), size))
    return max(found)


def main() -> int:
    """Measure, print and store; 2 where there is no GPU."""
    parser = parser_of(__doc__ or "")
    parser.add_argument("--batch-size", type=int, default=64, help="images a call")
    parser.add_argument("--batches", type=int, default=3, help="timed calls")
    parser.add_argument("--tiny", action="store_true", help="try the script")
    options = parser.parse_args()
    if options.tiny:
        options.batch_size, options.batches = 2, 1
    elif DEVICE.type != "cuda":
        print("gpu_generation: expected a GPU, found none; not measured (--tiny tries the script without one)", file=sys.stderr)
        return 2
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = write_pipeline(Path(name) / "sd15", options.tiny)
        eager, best_size = eager_rate(folder, options)
        for preset, target in TARGETS.items():
            rate, tflop = preset_rate(folder, preset, options)
            ours = f"{rate:.2f} images/s of {tflop:.2f} TFLOP, {rate * tflop:.0f} TFLOP/s"
            if preset == "sd15_ddim50":
                rows.append(
                    Row(f"{preset}, against diffusers", ours, f"{eager:.2f} images/s, batch {best_size}", rate / eager, "x", SPEEDUP_TARGET)
                )
            rows.append(Row(f"{preset}, 512 px", ours, "", rate, "images/s", target))
    device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "no GPU"
    setting = f"{device}, batches of {options.batch_size}{', TINY: figures mean nothing' if options.tiny else ''}."
    write("gpu_generation", "Generation on a GPU", "python benchmarks/gpu_generation.py", setting, rows, [], options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
