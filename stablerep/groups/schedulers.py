"""Schedulers by name, made from the pipeline's own configuration.

What the model was trained with (betas, prediction type, zero terminal SNR) is kept; the solver is exchanged. Few steps start at the
noisy end (`trailing`, Lin et al. 2023, https://arxiv.org/abs/2305.08891): `leading`, the old default of Stable Diffusion, leaves out
1/steps of the noise there, which shows as grey, low-contrast images.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from typing import Any

import diffusers

from stablerep.errors import ConfigError

TRAILING_BELOW_STEPS = 25

_CLASSES = {
    "ddim": "DDIMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "lcm": "LCMScheduler",
}
_OPTIONS: dict[str, dict[str, Any]] = {
    "ddim": {"clip_sample": False},  # latents are not in [-1, 1]
    "dpm++": {"algorithm_type": "dpmsolver++", "solver_order": 2},
    "lcm": {"clip_sample": False},
}


def build_scheduler(name: str, current: Any, num_inference_steps: int) -> Any:
    """The scheduler `name` for a pipeline whose scheduler is `current`.

    Args:
        name: ddim, dpm++ (multistep, second order), unipc, euler or lcm.
        current: the pipeline's own scheduler.
        num_inference_steps: decides the spacing of the timesteps.

    Raises:
        ConfigError: the name is unknown, or the model is a flow-matching one that has no such solver.
    """
    if name not in _CLASSES:
        raise ConfigError(f"generate.scheduler: expected one of {', '.join(_CLASSES)}, found {name!r}")
    if type(current).__name__.startswith("FlowMatch"):
        if name != "euler":
            raise ConfigError(
                f"generate.scheduler: this model is trained by flow matching ({type(current).__name__}), expected euler, found {name!r}; "
                "pass --set generate.scheduler=euler"
            )
        return current
    options = dict(_OPTIONS.get(name, {}))
    if num_inference_steps < TRAILING_BELOW_STEPS:
        options["timestep_spacing"] = "trailing"
    return getattr(diffusers, _CLASSES[name]).from_config(current.config, **options)
