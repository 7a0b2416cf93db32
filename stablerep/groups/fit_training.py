"""Training of the small Stable Diffusion: first the autoencoder, then denoiser and text encoder together.

Every random number of a step comes from a generator seeded by (seed, phase, step), and the order of the images from one seeded by
(seed, phase, epoch). So a step needs no history: a fit resumed from a checkpoint is the fit that was never stopped, bit for bit.
Objective of the second phase: v-prediction (Salimans and Ho 2022, https://arxiv.org/abs/2202.00512) with captions dropped to the
empty prompt for classifier-free guidance (Ho and Salimans 2022, https://arxiv.org/abs/2207.12598).

Dimension key: N images of the data, B of a batch, S image size, C latent channels, H and W latent size, T tokens.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch.nn import functional
from transformers import CLIPTextModel

from stablerep.errors import DivergenceError
from stablerep.groups.fit_models import NUM_TRAIN_TIMESTEPS, signal_and_noise

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

State = dict[str, Any]


@dataclass(frozen=True)
class FitSettings:
    """Everything besides data, seed and step counts that decides the weights."""

    batch_size: int = 64
    vae_lr: float = 2e-3
    lr: float = 2e-3
    warmup_steps: int = 50
    clip_norm: float = 1.0
    ema_decay: float = 0.995
    caption_dropout: float = 0.12
    kl_weight: float = 1e-3
    vae_channels: tuple[int, ...] = (8, 16, 32)
    unet_channels: tuple[int, ...] = (48, 80)
    text_width: int = 64


def generator_for(seed: int, *key: str | int) -> torch.Generator:
    """An own random stream for one purpose, independent of every other key."""
    text = "/".join(map(str, (seed, *key)))
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1)


def batch_indices(num_images: int, batch_size: int, seed: int, phase: str, step: int) -> torch.Tensor:
    """Which images step `step` sees: int64 [B]. Each epoch is one permutation; a batch may span two epochs."""
    first = step * batch_size
    epochs = range(first // num_images, (first + batch_size - 1) // num_images + 1)
    order = torch.cat([torch.randperm(num_images, generator=generator_for(seed, phase, "epoch", epoch)) for epoch in epochs])
    offset = first - epochs[0] * num_images
    return order[offset : offset + batch_size]


def learning_rate(peak: float, step: int, num_steps: int, warmup_steps: int) -> float:
    """Linear warm-up, constant until half of the steps, then a half cosine to zero."""
    warm = min(1.0, (step + 1) / max(1, min(warmup_steps, num_steps // 4)))
    progress = max(0.0, (step + 1) / num_steps - 0.5) * 2
    return peak * warm * 0.5 * (1 + math.cos(math.pi * progress))


class VaePhase:
    """Reconstruction of the images by the autoencoder: L1 + L2 + a small KL."""

    name = "vae"

    def __init__(self, vae: AutoencoderKL, images_N3SS: torch.Tensor, settings: FitSettings, seed: int, num_steps: int) -> None:
        self.vae = cast("Any", vae)  # its outputs are annotated as tuples
        self.images_N3SS, self.settings, self.seed, self.num_steps = images_N3SS, settings, seed, num_steps
        self.optimizer = torch.optim.AdamW(vae.parameters(), lr=settings.vae_lr, weight_decay=1e-4, foreach=True)

    def step(self, step: int) -> float:
        """One update; returns the loss before it."""
        settings = self.settings
        rows_B = batch_indices(len(self.images_N3SS), settings.batch_size, self.seed, self.name, step)
        images_B3SS = self.images_N3SS[rows_B]
        posterior = self.vae.encode(images_B3SS).latent_dist
        noise_BCHW = torch.randn(posterior.mean.shape, generator=generator_for(self.seed, self.name, "noise", step))
        decoded_B3SS = self.vae.decode(posterior.mean + posterior.std * noise_BCHW).sample
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        loss = functional.mse_loss(decoded_B3SS, images_B3SS) + functional.l1_loss(decoded_B3SS, images_B3SS) + settings.kl_weight * kl
        lr = learning_rate(settings.vae_lr, step, self.num_steps, settings.warmup_steps)
        return _update(loss, self.optimizer, lr, settings.clip_norm, self.name, step)

    def state(self) -> State:
        """What a checkpoint keeps."""
        return {"vae": self.vae.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: State) -> None:
        """Put back what `state` returned."""
        self.vae.load_state_dict(state["vae"])
        self.optimizer.load_state_dict(state["optimizer"])


class DenoiserPhase:
    """Denoiser and text encoder, trained together, with an exponential moving average of both."""

    name = "denoiser"

    def __init__(
        self,
        unet: UNet2DConditionModel,
        text_encoder: CLIPTextModel,
        latents_NCHW: torch.Tensor,
        tokens_NT: torch.Tensor,
        empty_T: torch.Tensor,
        settings: FitSettings,
        seed: int,
        num_steps: int,
    ) -> None:
        self.unet, self.text_encoder, self.latents_NCHW = cast("Any", unet), text_encoder, latents_NCHW
        self.tokens_NT, self.empty_T = tokens_NT, empty_T
        self.settings, self.seed, self.num_steps = settings, seed, num_steps
        self.parameters = [*unet.parameters(), *text_encoder.parameters()]
        self.averages = [parameter.detach().clone() for parameter in self.parameters]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=settings.lr, weight_decay=1e-2, foreach=True)
        self.signal, self.noise = signal_and_noise()

    def step(self, step: int) -> float:
        """One update; returns the loss before it."""
        settings, random = self.settings, generator_for(self.seed, self.name, "step", step)
        rows_B = batch_indices(len(self.latents_NCHW), settings.batch_size, self.seed, self.name, step)
        clean_BCHW = self.latents_NCHW[rows_B]
        noise_BCHW = torch.randn(clean_BCHW.shape, generator=random)
        timesteps_B = torch.randint(0, NUM_TRAIN_TIMESTEPS, (len(rows_B),), generator=random)
        is_dropped_B = torch.rand(len(rows_B), generator=random) < settings.caption_dropout
        tokens_BT = torch.where(is_dropped_B[:, None], self.empty_T, self.tokens_NT[rows_B])
        signal_B111, sigma_B111 = self.signal[timesteps_B].view(-1, 1, 1, 1), self.noise[timesteps_B].view(-1, 1, 1, 1)
        noisy_BCHW = (signal_B111 * clean_BCHW + sigma_B111 * noise_BCHW).contiguous(memory_format=torch.channels_last)
        target_BCHW = signal_B111 * noise_BCHW - sigma_B111 * clean_BCHW
        text_BTD = self.text_encoder(tokens_BT).last_hidden_state
        loss = functional.mse_loss(self.unet(noisy_BCHW, timesteps_B, text_BTD).sample, target_BCHW)
        lr = learning_rate(settings.lr, step, self.num_steps, settings.warmup_steps)
        value = _update(loss, self.optimizer, lr, settings.clip_norm, self.name, step)
        decay = min(settings.ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for average, parameter in zip(self.averages, self.parameters, strict=True):
                average.lerp_(parameter, 1 - decay)
        return value

    def state(self) -> State:
        """What a checkpoint keeps."""
        return {
            "unet": self.unet.state_dict(),
            "text_encoder": self.text_encoder.state_dict(),
            "averages": self.averages,
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: State) -> None:
        """Put back what `state` returned."""
        self.unet.load_state_dict(state["unet"])
        self.text_encoder.load_state_dict(state["text_encoder"])
        self.averages = [average.clone() for average in state["averages"]]
        self.optimizer.load_state_dict(state["optimizer"])

    @torch.no_grad()
    def use_averages(self) -> None:
        """Replace the weights of denoiser and text encoder by their moving averages, for sampling and saving."""
        for parameter, average in zip(self.parameters, self.averages, strict=True):
            parameter.copy_(average)


def _update(loss: torch.Tensor, optimizer: torch.optim.Optimizer, lr: float, clip_norm: float, phase: str, step: int) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise DivergenceError(f"expected a finite loss, found {value} at step {step} of phase {phase!r}; lower the learning rate")
    parameters: list[torch.Tensor] = []
    for group in optimizer.param_groups:
        group["lr"] = lr
        parameters += group["params"]
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, clip_norm, foreach=True)
    optimizer.step()
    return value
