"""What a pipeline may be given beyond its own weights: a LoRA, a first step without it, compilation, decoding in slices.

The first steps of a few-step student are made by the base model with guidance and the rest by the student without: students commit to a
picture at the first step, which costs the diversity that a group is made for (https://arxiv.org/abs/2503.10637).
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import inspect
from pathlib import Path
from typing import Any

from stablerep.errors import ConfigError, DataError

_COMPILED = ("unet", "transformer")


def add_lora(pipeline: Any, path: Path) -> None:
    """Load a checked LoRA file into a pipeline.

    Raises:
        ConfigError: the pipeline takes none.
        DataError: it does not fit the model.
    """
    if not hasattr(pipeline, "load_lora_weights"):
        raise ConfigError(f"generator.lora: expected a pipeline that takes a LoRA, found {type(pipeline).__name__}; leave it out")
    try:
        pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name="lora")
        active = pipeline.get_active_adapters()
    except Exception as error:  # whatever peft and diffusers raise for weights of another model
        raise DataError(
            f"{path}: expected a LoRA for {type(pipeline).__name__}, found one that does not load ({type(error).__name__}: "
            f"{str(error)[:200]}); choose one that was made for this model"
        ) from error
    if "lora" not in active:
        raise DataError(f"{path}: expected a LoRA for {type(pipeline).__name__}, found no weight that fits it; choose another")


def base_first(pipeline: Any, num_base_steps: int) -> dict[str, Any]:
    """Arguments of a call whose first steps are made without the LoRA and with guidance, the others with it and without guidance.

    Raises:
        ConfigError: the pipeline tells nobody about its steps.
    """
    if "callback_on_step_end" not in inspect.signature(type(pipeline).__call__).parameters or not hasattr(pipeline, "enable_lora"):
        raise ConfigError(
            f"generate.num_base_steps: expected a pipeline with callbacks and LoRA, found {type(pipeline).__name__}; set it to 0"
        )
    pipeline.disable_lora()

    def on_step_end(running: Any, step: int, _: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == num_base_steps - 1:
            running.enable_lora()
            if running.do_classifier_free_guidance:  # https://huggingface.co/docs/diffusers/using-diffusers/callback
                tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[-1]
                running._guidance_scale = 1.0
        return tensors

    return {"callback_on_step_end": on_step_end, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}


def tune(pipeline: Any, *, is_compiled: bool, is_vae_sliced: bool) -> None:
    """Compile what takes the time, for shapes that do not change; decode in slices where memory is short."""
    vae = getattr(pipeline, "vae", None)
    if is_vae_sliced and vae is not None and hasattr(vae, "enable_slicing"):
        vae.enable_slicing()
    if is_compiled:
        for module in (*(getattr(pipeline, name, None) for name in _COMPILED), getattr(vae, "decoder", None)):
            if module is not None:
                module.compile(dynamic=False)
