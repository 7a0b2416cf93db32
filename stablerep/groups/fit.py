"""Fit a small genuine Stable Diffusion to captioned images and write it as a pipeline folder.

Two phases with budgets in steps, because seconds are not reproducible: an autoencoder of the images, then denoiser and text encoder
on its latents. On one thread the result depends on data, settings, seed and step counts only, also when the fit is killed and run
again: a checkpoint under `<output_dir>.partial` continues it bit for bit. The folder it writes is sampled by the same code as
Stable Diffusion 1.5. Nothing here chooses data or measures quality.

Dimension key: N images, H and W pixels.
"""

import json
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stablerep.errors import ConfigError, DataError
from stablerep.groups.fit_card import model_card
from stablerep.groups.fit_models import SIZE_PX
from stablerep.groups.fit_run import Fit, OnStep
from stablerep.groups.fit_training import FitSettings
from stablerep.identity import digest, sha256_bytes

FIT_FILE = "fit.json"
CARD_FILE = "README.md"
MAX_CURVE_POINTS = 200
LIBRARIES = ("torch", "diffusers", "transformers", "tokenizers", "safetensors", "numpy")


@dataclass(frozen=True)
class FitReport:
    """What a fit did.

    The losses hold every step of each phase, unless the fit was complete before: then they are the thinned curves of `fit.json`.
    `num_resumed_steps` counts the steps, of both phases, that an earlier call had done.
    """

    folder: Path
    fingerprint: str
    vae_losses: tuple[float, ...]
    losses: tuple[float, ...]
    num_resumed_steps: int


def fit_generator(
    images_NHW: npt.NDArray[np.uint8],
    captions: Sequence[str],
    *,
    num_vae_steps: int,
    num_steps: int,
    seed: int,
    output_dir: Path,
    settings: FitSettings | None = None,
    notes: Mapping[str, Any] | None = None,
    checkpoint_every: int = 200,
    num_threads: int = 1,
    on_step: OnStep | None = None,
) -> FitReport:
    """Fit autoencoder, text encoder and denoiser and write them as a `StableDiffusionPipeline` folder.

    Args:
        images_NHW: uint8 [N,32,32], grey; the train part of a data set.
        captions: N texts, one for each image.
        num_vae_steps: updates of the autoencoder.
        num_steps: updates of denoiser and text encoder.
        seed: of weights, order and noise.
        output_dir: the folder to write: absent, empty, or the finished result of the same fit.
        settings: widths, learning rates and so on.
        notes: JSON values to keep in `fit.json`; the model card uses `data_name`, `licence`, `source` and `command`.
        checkpoint_every: steps between checkpoints; the result does not depend on it.
        num_threads: of torch; the result is bit-exact only for equal numbers, and 1 is what the golden losses were made with.
        on_step: called after every update with phase name, step, steps of the phase, loss. An exception in it stops the fit, and
            the next call resumes it from the last checkpoint.

    Raises:
        ConfigError: a step count is not positive, or `output_dir` holds something else.
        DataError: images and captions do not fit together.
        CheckpointError: the unfinished fit at `<output_dir>.partial` is damaged or is another fit.
        DivergenceError: a loss is not finite.
    """
    _check(images_NHW, captions, num_vae_steps, num_steps, checkpoint_every)
    settings = settings or FitSettings()
    what: dict[str, Any] = {
        "images": sha256_bytes(np.ascontiguousarray(images_NHW).tobytes()),
        "captions": sha256_bytes("\n".join(captions).encode()),
        "seed": seed,
        "num_vae_steps": num_vae_steps,
        "num_steps": num_steps,
        "settings": asdict(settings),
    }
    fingerprint = digest(what)[:16]
    if output_dir.exists() and any(output_dir.iterdir()):
        return _finished(output_dir, fingerprint)
    partial_dir = output_dir.with_name(output_dir.name + ".partial")
    fit = Fit(images_NHW, captions, num_vae_steps, num_steps, seed, settings, partial_dir, fingerprint, checkpoint_every, on_step)
    folder = fit.run(num_threads)
    curves = {name: _thin(losses) for name, losses in fit.losses.items()}
    libraries = {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
    record = {**(notes or {}), "fit": what, "fingerprint": fingerprint, "num_images": len(captions), "libraries": libraries}
    record |= {"latent_std": fit.latent_std, "loss_curves": curves}
    (folder / FIT_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (folder / CARD_FILE).write_text(model_card(record), encoding="utf-8")
    folder.replace(output_dir)
    shutil.rmtree(partial_dir)
    return FitReport(output_dir, fingerprint, tuple(fit.losses["vae"]), tuple(fit.losses["denoiser"]), fit.num_resumed_steps)


def golden_losses(
    images_NHW: npt.NDArray[np.uint8], captions: Sequence[str], seed: int, num_steps: int = 10, settings: FitSettings | None = None
) -> dict[str, list[float]]:
    """Losses of a short fit of `num_steps` steps in each phase: a fingerprint of the numerics, to be kept and compared with later."""
    with tempfile.TemporaryDirectory() as scratch:
        report = fit_generator(
            images_NHW,
            captions,
            num_vae_steps=num_steps,
            num_steps=num_steps,
            seed=seed,
            output_dir=Path(scratch) / "golden",
            settings=settings,
        )
    return {"vae": list(report.vae_losses), "denoiser": list(report.losses)}


def _check(images_NHW: npt.NDArray[np.uint8], captions: Sequence[str], num_vae_steps: int, num_steps: int, checkpoint_every: int) -> None:
    if images_NHW.dtype != np.uint8 or images_NHW.shape[1:] != (SIZE_PX, SIZE_PX):
        found = f"{images_NHW.dtype} {list(images_NHW.shape)}"
        raise DataError(f"expected grey images uint8 [N,{SIZE_PX},{SIZE_PX}], found {found}; pad or resize them first")
    if not captions or len(captions) != len(images_NHW):
        raise DataError(f"expected one caption for each of {len(images_NHW)} images, found {len(captions)} captions; pass equally many")
    if min(num_vae_steps, num_steps, checkpoint_every) < 1:
        raise ConfigError(
            f"expected positive numbers of steps, found num_vae_steps={num_vae_steps}, num_steps={num_steps}, "
            f"checkpoint_every={checkpoint_every}; set each to at least 1"
        )


def _finished(output_dir: Path, fingerprint: str) -> FitReport:
    """The report of a fit that was complete before."""
    record: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        record = json.loads((output_dir / FIT_FILE).read_text(encoding="utf-8"))
    if record.get("fingerprint") != fingerprint:
        raise ConfigError(
            f"expected {output_dir} to be empty or the result of fit {fingerprint}, found fit {record.get('fingerprint')}; "
            "choose another output directory or remove this one"
        )
    curves = {name: tuple(loss for _, loss in curve) for name, curve in record["loss_curves"].items()}
    num_resumed_steps = record["fit"]["num_vae_steps"] + record["fit"]["num_steps"]
    return FitReport(output_dir, fingerprint, curves["vae"], curves["denoiser"], num_resumed_steps)


def _thin(losses: Sequence[float]) -> list[tuple[int, float]]:
    """At most about MAX_CURVE_POINTS pairs (step, loss), the last step included."""
    stride = -(-len(losses) // MAX_CURVE_POINTS)
    steps = sorted({*range(0, len(losses), stride), len(losses) - 1})
    return [(step, losses[step]) for step in steps]
