"""A running fit: the models, the losses so far, and the checkpoint that ties them together.

The checkpoint is written every so many steps and at the end of a phase; `Fit.run` starts from it when there is one. Because a step
draws its random numbers from (seed, phase, step), models, optimizer and number of steps are the whole state.

Dimension key: N images, S image size, C latent channels, H and W latent size, T tokens.
"""

import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import nn
from transformers import CLIPTokenizer

from stablerep.groups.fit_checkpoint import read_checkpoint, write_checkpoint
from stablerep.groups.fit_models import build_text_encoder, build_unet, build_vae, make_grey, save_pipeline, standardise_latents
from stablerep.groups.fit_tokenizer import build_tokenizer
from stablerep.groups.fit_training import DenoiserPhase, FitSettings, VaePhase, generator_for

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

OnStep = Callable[[str, int, int, float], None]
CHECKPOINT_FILE = "checkpoint.pt"


@dataclass
class Fit:
    """One fit; see `stablerep.groups.fit.fit_generator` for the arguments."""

    images_NHW: npt.NDArray[np.uint8]
    captions: Sequence[str]
    num_vae_steps: int
    num_steps: int
    seed: int
    settings: FitSettings
    partial_dir: Path
    fingerprint: str
    checkpoint_every: int
    on_step: OnStep | None
    losses: dict[str, list[float]] = field(default_factory=lambda: {VaePhase.name: [], DenoiserPhase.name: []})
    latent_std: float = 0.0
    num_resumed_steps: int = 0

    def run(self, num_threads: int) -> Path:
        """Both phases, from the checkpoint if there is one; returns the written folder inside `partial_dir`."""
        self.partial_dir.mkdir(parents=True, exist_ok=True)
        saved = read_checkpoint(self.partial_dir / CHECKPOINT_FILE, self.fingerprint)
        if saved is not None:
            self.losses = saved["losses"]
            self.num_resumed_steps = sum(map(len, self.losses.values()))
        with _threads(num_threads), _seeded(self.seed):
            return self._run(saved)

    def _run(self, saved: dict[str, Any] | None) -> Path:
        tokenizer = build_tokenizer(self.captions, self.partial_dir / "tokenizer")
        vae = build_vae(self.settings.vae_channels)
        unet = build_unet(self.settings.unet_channels, self.settings.text_width)
        cast("nn.Module", unet).to(memory_format=torch.channels_last)
        text_encoder = build_text_encoder(tokenizer, self.settings.text_width)
        self._fit_vae(vae, saved)
        latents_NCHW = self._encode(vae)
        self.latent_std = float(latents_NCHW.std())
        tokens_NT, empty_1T = _tokens(tokenizer, self.captions), _tokens(tokenizer, [""])
        phase = DenoiserPhase(
            unet.train(), text_encoder.train(), latents_NCHW, tokens_NT, empty_1T[0], self.settings, self.seed, self.num_steps
        )
        if saved is not None and saved["phase"] == phase.name:
            phase.load(saved["state"])
        self._advance(phase, self.num_steps, {"vae": vae.state_dict()})
        phase.use_averages()
        folder = self.partial_dir / "folder"
        shutil.rmtree(folder, ignore_errors=True)
        save_pipeline(folder, vae.eval(), unet.eval(), text_encoder.eval(), tokenizer)
        return folder

    def _fit_vae(self, vae: AutoencoderKL, saved: dict[str, Any] | None) -> None:
        if saved is not None and saved["phase"] == DenoiserPhase.name:
            vae.load_state_dict(saved["vae"])
            return
        images_N1SS = torch.from_numpy(self.images_NHW.astype(np.float32) / 127.5 - 1)[:, None]
        phase = VaePhase(vae.train(), images_N1SS.expand(-1, 3, -1, -1), self.settings, self.seed, self.num_vae_steps)
        if saved is not None:
            phase.load(saved["state"])
        self._advance(phase, self.num_vae_steps, {})
        make_grey(vae)
        latents_NCHW = self._encode(vae)
        standardise_latents(vae, latents_NCHW.mean((0, 2, 3)), latents_NCHW.std((0, 2, 3)))

    @torch.no_grad()
    def _encode(self, vae: AutoencoderKL) -> torch.Tensor:
        images_N1SS = torch.from_numpy(self.images_NHW.astype(np.float32) / 127.5 - 1)[:, None]
        encoder = cast("Any", vae.eval())
        return torch.cat([encoder.encode(part.expand(-1, 3, -1, -1)).latent_dist.mode() for part in images_N1SS.split(100)])

    def _advance(self, phase: VaePhase | DenoiserPhase, num_steps: int, also_saved: dict[str, Any]) -> None:
        """Run the phase to its end, recording losses and checkpoints."""
        losses = self.losses[phase.name]
        while len(losses) < num_steps:
            step = len(losses)
            losses.append(phase.step(step))
            if len(losses) % self.checkpoint_every == 0 or len(losses) == num_steps:
                content = {"phase": phase.name, "losses": self.losses, "state": phase.state(), **also_saved}
                write_checkpoint(self.partial_dir / CHECKPOINT_FILE, self.fingerprint, content)
            if self.on_step:
                self.on_step(phase.name, step, num_steps, losses[-1])


def _tokens(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> torch.Tensor:
    """Token ids padded as StableDiffusionPipeline pads them: int64 [N,T]."""
    length = tokenizer.model_max_length
    encoded = cast("Any", tokenizer)(list(captions), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return encoded["input_ids"]


@contextmanager
def _threads(num_threads: int) -> Generator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _seeded(seed: int) -> Generator[None]:
    """Weights are initialised from the global generator: seed it, and put its state back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_for(seed, "weights").initial_seed())
        yield
