"""The model card of a fitted generator: what it is, what it was made from, how to repeat it, and under which terms it may be used.

The licence stands in the front matter, where `stablerep.groups.model_folder` and model hubs look for it. Measured quality is passed in by
whoever measured it; without it the card says that nothing was measured.
"""

from collections.abc import Mapping, Sequence
from typing import Any


def model_card(record: Mapping[str, Any], quality: Sequence[str] = ()) -> str:
    """README.md for a fitted folder.

    Args:
        record: what `fit.json` holds. `licence`, `source`, `data_name` and `command` come from the notes of the fit.
        quality: sentences with measured numbers, each saying how it was measured.
    """
    fit, settings = record["fit"], record["fit"]["settings"]
    licence = str(record.get("licence", "unstated"))
    libraries = ", ".join(f"{name} {version}" for name, version in record["libraries"].items())
    measured = "\n".join(f"- {sentence}" for sentence in quality) or "- Nothing was measured on this fit."
    return f"""---
license: {licence.lower().replace(" ", "-")}
library_name: diffusers
pipeline_tag: text-to-image
---

# A small Stable Diffusion of `{record.get("data_name", "unnamed")}`

Makes 32x32 pictures from captions such as *a photo of a wide right leaning seven in bold pen*. It is a genuine
`diffusers.StableDiffusionPipeline`, so the code that samples Stable Diffusion 1.5 samples this folder, on a CPU, in a few hundredths of a
second per picture. Recommended: DPM-Solver++ (the scheduler saved here), 8 to 10 steps, guidance 2.

## Data and licence

- Fitted to {record["num_images"]} images and their derived captions, the train part only. Source: {record.get("source", "not stated")}.
- Licence of the data: {licence}. The weights are distributed under the same terms: keep this attribution when you pass them on.

## Architecture

- AutoencoderKL {tuple(settings["vae_channels"])}, 3x32x32 <-> 4x8x8, latents standardised per channel (scaling factor 1).
- UNet2DConditionModel {tuple(settings["unet_channels"])}, cross-attention at 4x4 and in the middle, v-prediction, squared-cosine schedule.
- CLIPTextModel, 2 layers, width {settings["text_width"]}; CLIP tokenizer whose vocabulary was learnt from the captions; 20 tokens.
- No safety checker: it draws nothing but what it was fitted to. Weights of UNet and autoencoder are stored in half precision.

## How it was made

- `{record.get("command", "not stated")}`
- Seed {fit["seed"]}, {fit["num_vae_steps"]} autoencoder steps, {fit["num_steps"]} denoiser steps of {settings["batch_size"]} images.
- {libraries}. Loss curves and the losses of a short reference fit are in `fit.json`.

## Measured

{measured}

## Limits

- It knows the words of its captions and nothing else; other words fall back to letters it has never seen in use.
- Captions name terciles of measured pixel properties, so `left leaning` means: in the leftmost third of the data.
"""
