"""What a lane takes its images from: a text-to-image model, or real images of the captions' classes. Loaded when a lane has work."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from stablerep.captions.prompt_set import LABEL
from stablerep.config.schema import GenerateConfig
from stablerep.groups.lora import resolve_lora
from stablerep.groups.real import RealSampler, locate_real
from stablerep.groups.resolve import is_real, locate_generator
from stablerep.groups.sampler import ImageSampler
from stablerep.records import Caption, GeneratorRef
from stablerep.store import Store


@dataclass(frozen=True)
class OpenSampler:
    """A sampler, and who it is: kept in the records of shards, no part of any id."""

    sampler: ImageSampler
    producer: dict[str, str]
    tflop_per_image: float = 0.0  # counted; 0 where nothing is computed
    device_name: str = ""  # as its driver calls it


def open_sampler(
    settings: GenerateConfig,
    generator: GeneratorRef,
    store: Store,
    captions: Sequence[Caption],
    on_halved: Callable[[int], None] = lambda _: None,
) -> OpenSampler:
    """Load what makes the images.

    Args:
        settings: of `generate`.
        generator: record of stage generator.
        store: of the run.
        captions: of the prompt set; real images are chosen by their classes.
        on_halved: called when a batch did not fit in memory, with the size of the next.

    Raises:
        ConfigError: settings that the model or this machine does not have.
        DataError: the model, or the images, are not those of the record.
    """
    if is_real(generator.uri):
        class_of = {caption.caption_id: str(caption.metadata[LABEL]) for caption in captions if LABEL in caption.metadata}
        images = RealSampler(locate_real(generator), class_of, noise_seed=settings.noise_seed, size_px=settings.stored_size_px)
        return OpenSampler(images, {"device": "cpu", "pillow": version("pillow")})
    return _model_sampler(settings, generator, store, on_halved)


def _model_sampler(settings: GenerateConfig, generator: GeneratorRef, store: Store, on_halved: Callable[[int], None]) -> OpenSampler:
    import torch

    from stablerep.groups.diffusers_sampler import DiffusersSampler
    from stablerep.groups.memory import HalvingSampler

    sampler = DiffusersSampler(
        locate_generator(generator, store),
        scheduler=settings.scheduler,
        num_inference_steps=settings.num_inference_steps,
        guidance=settings.guidance,
        negative_prompt=settings.negative_prompt,
        noise_seed=settings.noise_seed,
        dtype=settings.dtype,
        device=settings.device,
        size_px=settings.stored_size_px,
        lora=resolve_lora(generator.lora_uri, generator.lora_sha256)[0] if generator.lora_uri else None,
        num_base_steps=settings.num_base_steps,
        is_compiled=settings.is_compiled,
        is_vae_sliced=settings.is_vae_sliced,
    )
    if sampler.device.type == "cpu":
        torch.set_num_threads(1)  # lanes are processes; more threads also cost bit-equality between machines
    producer = {"device": str(sampler.device)} | {name: version(name) for name in ("torch", "diffusers")}
    return OpenSampler(HalvingSampler(sampler, on_halved), producer, sampler.tflop_per_image(), sampler.device_name)
