"""Sampler settings by name: `generate.preset=sd15_dpm20` is short for the words below; words behind it go over them.

`sd15_ddim50` is the paper's. `sd15_lcm4` needs a consistency LoRA (`generator.lora`); its first step is made by the base model with
guidance, because few-step students commit at the first step and lose the diversity of a group (arXiv 2503.10637). No preset is said to be
equal to the paper's: they were compared on the embedded generator only (`stablerep compare-presets`, docs/operations.md).
"""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "sd15_ddim50": {"scheduler": "ddim", "num_inference_steps": 50, "num_base_steps": 0},
    "sd15_dpm20": {"scheduler": "dpm++", "num_inference_steps": 20, "num_base_steps": 0},
    "sd15_lcm4": {"scheduler": "lcm", "num_inference_steps": 4, "num_base_steps": 1},
}
