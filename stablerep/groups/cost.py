"""What images cost before any is made: TFLOP an image, images a second, hours and money, for Stable Diffusion 1.5 at 512 px.

Computed from one evaluation of the denoiser (0.803 TFLOP) and one decoding (2.515 TFLOP), counted on the architecture. The text encoder,
once a group, is left out (0.02 %). What a GPU reaches is measured for the H200 (790 TFLOP/s on bf16 matrix products) and assumed, as the
same share of the data sheet's dense half-precision figure, for the others; the share that a lane reaches is assumed until one has run.
No model library is imported here.
"""

from dataclasses import dataclass

from stablerep.errors import ConfigError
from stablerep.typed import suggestion

EVALUATION_TFLOP, DECODING_TFLOP = 0.803, 2.515
REACHED_SHARE = 790 / 989  # of the data sheet, measured on an H200
UTILISATION = 0.45  # assumed


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU: TFLOP/s that matrix products reach, and how that is known."""

    name: str
    tflop_per_second: float
    source: str


def _assumed(name: str, sheet: float) -> Gpu:
    return Gpu(name, sheet * REACHED_SHARE, f"assumed: 80 % of {sheet:g} on the data sheet")


GPUS: dict[str, Gpu] = {
    gpu.name: gpu for gpu in (Gpu("h200", 790.0, "measured"), _assumed("h100", 989.0), _assumed("a100", 312.0), _assumed("l4", 121.0))
}


@dataclass(frozen=True)
class Cost:
    """What a number of images costs."""

    tflop_per_image: float
    images_per_second: float
    gpu_hours: float
    money: float


def gpu_named(name: str) -> Gpu:
    """A GPU of the table.

    Raises:
        ConfigError: there is none of that name.
    """
    if name.lower() not in GPUS:
        raise ConfigError(f"--gpu: expected one of {', '.join(GPUS)}, found {name!r}{suggestion(name.lower(), set(GPUS))}")
    return GPUS[name.lower()]


def gpu_of_device(device_name: str) -> Gpu | None:
    """The GPU of the table that a driver calls `NVIDIA H100 80GB HBM3`, say."""
    return next((gpu for gpu in GPUS.values() if gpu.name.upper() in device_name.upper().split()), None)


def tflop_per_image(num_steps: int, num_base_steps: int, guidance: float) -> float:
    """TFLOP of one image: steps with guidance evaluate the denoiser twice; a student's steps, after the base model's, once."""
    per_step = 2 if guidance > 1 else 1
    num_evaluations = num_base_steps * per_step + (num_steps - num_base_steps) if num_base_steps else num_steps * per_step
    return num_evaluations * EVALUATION_TFLOP + DECODING_TFLOP


def cost(num_images: float, tflop: float, gpu: Gpu, price_per_hour: float, utilisation: float = UTILISATION) -> Cost:
    """What images cost on one kind of GPU.

    Args:
        num_images: in all.
        tflop: of one image.
        gpu: from the table.
        price_per_hour: of one GPU.
        utilisation: share of what matrix products reach, above 0, at most 1.

    Raises:
        ConfigError: numbers that cannot be.
    """
    if not (num_images > 0 and price_per_hour >= 0 and 0 < utilisation <= 1):
        raise ConfigError(
            f"plan: expected captions above 0, a price of 0 or more and a utilisation above 0, at most 1, found {num_images:g} images, "
            f"price {price_per_hour:g}, utilisation {utilisation:g}"
        )
    rate = gpu.tflop_per_second * utilisation / tflop
    hours = num_images / rate / 3600
    return Cost(tflop, rate, hours, hours * price_per_hour)
