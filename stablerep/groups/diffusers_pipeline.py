"""Loading a diffusers pipeline and asking it what it is: device, latent shape, prompt embeddings.

Only the public interface of diffusers is used, so any of its text-to-image pipelines works; what a pipeline does not say about itself
(Flux packs its latents, for one) is left to the pipeline. Weights are read from safetensors only.

Dimension key: B images of a call, C channels, H and W pixels.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from stablerep.errors import ConfigError, DataError
from stablerep.groups.model_folder import model_index

_UNUSED = ("safety_checker", "image_encoder")
_UNUSED_WITH_CHECKER = "feature_extractor"
_CONVOLUTIONAL = ("unet", "vae")  # channels last: 15 % less time on a CPU, more on a GPU

_PAIR = ("prompt_embeds", "negative_prompt_embeds")
_POOLED = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")

# What `encode_prompt` returns, in order, for pipelines that pad every prompt to one length. Others encode their prompts themselves.
_EMBEDDINGS: dict[str, tuple[str, ...]] = {
    "StableDiffusionPipeline": _PAIR,
    "LatentConsistencyModelPipeline": _PAIR,
    "StableDiffusionXLPipeline": _PAIR + _POOLED,
    "StableDiffusion3Pipeline": _PAIR + _POOLED,
}


def choose_device(name: str) -> torch.device:
    """The device of `generate.device`: auto is a GPU if there is one.

    Raises:
        ConfigError: there is no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"generate.device: expected auto, cpu, cuda or cuda:<n>, found {name!r}") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"generate.device: expected a device of this machine ({torch.cuda.device_count()} GPUs), found {name!r}; "
            "use auto, cpu or the index of a GPU that is there"
        )
    return device


def load_pipeline(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """The pipeline in `folder`, ready to sample, without its safety checker and without progress bars.

    Raises:
        DataError: it does not load, or makes no images from prompts.
    """
    components = model_index(folder)
    omitted: dict[str, Any] = {name: None for name in _UNUSED if name in components}
    if "safety_checker" in components:
        omitted |= {"requires_safety_checker": False, _UNUSED_WITH_CHECKER: None}
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    try:
        pipeline: Any = DiffusionPipeline.from_pretrained(folder, local_files_only=True, use_safetensors=True, **omitted)
        pipeline.to(dtype)
        pipeline.to(device)
        for name in _CONVOLUTIONAL:
            if getattr(pipeline, name, None) is not None:
                getattr(pipeline, name).to(memory_format=torch.channels_last)
    except Exception as error:  # whatever a damaged folder makes diffusers, transformers or safetensors raise
        raise DataError(
            f"{folder}: expected a diffusers text-to-image pipeline, found one that does not load ({type(error).__name__}: {error}); "
            "write it again with save_pretrained, or download it again"
        ) from error
    accepted = call_parameters(pipeline)
    if missing := {"prompt", "num_inference_steps", "guidance_scale", "generator", "output_type"} - accepted:
        raise DataError(
            f"{folder}: expected a text-to-image pipeline, found {type(pipeline).__name__}, whose call takes no "
            f"{', '.join(sorted(missing))}; choose a pipeline that makes images from prompts"
        )
    if "image" in accepted:
        raise DataError(f"{folder}: expected a text-to-image pipeline, found {type(pipeline).__name__}, which starts from an image")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def call_parameters(pipeline: Any) -> set[str]:
    """Names of the arguments of a pipeline's call."""
    return set(inspect.signature(type(pipeline).__call__).parameters)


def latent_shape(pipeline: Any) -> tuple[int, int, int] | None:
    """[C,H,W] of the latents of one image, or None where the pipeline has its own layout."""
    denoiser = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    config: Mapping[str, Any] = denoiser.config if denoiser is not None else {}
    size, channels = config.get("sample_size"), config.get("in_channels")
    if size is None or channels is None or "latents" not in call_parameters(pipeline):
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return channels, height, width


class PromptEncoder:
    """Prompt embeddings, one pass of the text encoder for each caption.

    Args:
        pipeline: the loaded pipeline.
        negative_prompt: empty for the pipeline's own null prompt.
        guidance: as in `DiffusersSampler`.
    """

    def __init__(self, pipeline: Any, negative_prompt: str, guidance: float) -> None:
        self._pipeline, self._negative_prompt, self._guidance = pipeline, negative_prompt, guidance
        self._accepted = call_parameters(pipeline)
        names = _EMBEDDINGS.get(type(pipeline).__name__, ())
        self._names, self._negative_names = names[::2], names[1::2]
        self._null = self._encode("", is_null=True) if names else ()
        self._kept: dict[str, tuple[torch.Tensor, ...]] = {}

    def arguments(self, texts: list[str]) -> dict[str, Any]:
        """What the pipeline's call needs for these captions, one row for each.

        The embeddings of the captions of the last call are kept: the images of a caption may span two calls.
        """
        if not self._names:
            return self._plain(texts)
        self._kept = {text: self._kept[text] if text in self._kept else self._encode(text) for text in dict.fromkeys(texts)}
        rows = [self._kept[text] if self._guidance > 0 else self._null for text in texts]
        arguments = {name: torch.cat(column) for name, column in zip(self._names, zip(*rows, strict=True), strict=True)}
        if self._guidance > 1:
            for name, null in zip(self._negative_names, self._null, strict=True):
                arguments[name] = null.expand(len(texts), *null.shape[1:])
        return {name: value for name, value in arguments.items() if name in self._accepted}

    def _plain(self, texts: list[str]) -> dict[str, Any]:
        if self._guidance == 0:
            return {"prompt": [self._negative_prompt] * len(texts)}
        if not self._negative_prompt or "negative_prompt" not in self._accepted:
            return {"prompt": texts}
        return {"prompt": texts, "negative_prompt": [self._negative_prompt] * len(texts)}

    @torch.inference_mode()
    def _encode(self, text: str, is_null: bool = False) -> tuple[torch.Tensor, ...]:
        """Embeddings of one caption alone, or of the null prompt."""
        parameters = inspect.signature(self._pipeline.encode_prompt).parameters
        outputs = self._pipeline.encode_prompt(
            prompt=text,
            device=self._pipeline.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=is_null,
            negative_prompt=self._negative_prompt or None,
            **{name: None for name in ("prompt_2", "prompt_3") if name in parameters},
        )
        return tuple(outputs[1::2] if is_null else outputs[::2])
