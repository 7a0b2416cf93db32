"""Features that probes look at: the CLS token of a frozen encoder, of an untrained trunk of the same shape, and plain pixels.

The untrained trunk says what the architecture gives without learning; pixels say how hard the images are (a linear probe on pixels
beats an untrained trunk by far, so both belong in a report). Features are computed once, in evaluation mode, from images as they are;
`augmented` computes those of random views, anew in each epoch, which is what the paper's linear probe learns from.

Dimension key: N images, B images of a batch, S pixels a side, F features.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from stablerep.batches.augment import Augmenter
from stablerep.errors import DivergenceError
from stablerep.probes.lazy import Images

PIXELS_SIDE = 16

Embed = Callable[[Tensor], Tensor]


def extract(
    embed: Embed,
    images: Images,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int,
    on_batch: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """Features of all images.

    Args:
        embed: maps normalised images float32 [B,3,S,S] to features [B,F]; frozen and in evaluation mode.
        images: uint8, read batch by batch.
        mean: subtracted from each channel, in units of [0, 1].
        std: divides each channel.
        batch_size: images at a time.
        on_batch: told the number of images after each batch.

    Returns:
        float32 [N,F] on the CPU.

    Raises:
        DivergenceError: a feature is not finite.
    """
    mean_311, std_311 = (torch.tensor(values)[:, None, None] for values in (mean, std))
    parts: list[Tensor] = []
    for start in range(0, len(images), batch_size):
        batch_B3SS = torch.from_numpy(images[start : start + batch_size]).float() / 255
        with torch.inference_mode():
            parts.append(embed((batch_B3SS - mean_311) / std_311).float().cpu().clone())
        _check_finite(parts[-1], start)
        on_batch(len(parts[-1]))
    return torch.cat(parts)


def augmented(embed: Embed, images: Images, augmenter: Augmenter, batch_size: int) -> Callable[[int], Tensor]:
    """Features of a new random view of every image in each epoch: a function of the epoch, to float32 [N,F] on the CPU.

    Args:
        embed: as for `extract`.
        images: uint8, read batch by batch in every epoch.
        augmenter: makes and normalises the views; a view is a function of (its seed, epoch, number of the image).
        batch_size: images at a time.
    """

    def of_epoch(epoch: int) -> Tensor:
        parts: list[Tensor] = []
        for start in range(0, len(images), batch_size):
            image_B3DD = torch.from_numpy(images[start : start + batch_size])
            number_B = torch.arange(start, start + len(image_B3DD))
            with torch.inference_mode():
                view_B3SS = augmenter(image_B3DD, number_B, torch.zeros_like(number_B), epoch)
                parts.append(embed(view_B3SS).float().cpu().clone())
            _check_finite(parts[-1], start)
        return torch.cat(parts)

    return of_epoch


def pixels(images: Images, batch_size: int) -> Tensor:
    """Pixels in [0, 1] averaged down to at most 16x16, as a row: float32 [N,768], [N,256] where all images are grey."""
    parts: list[Tensor] = []
    for start in range(0, len(images), batch_size):
        batch_B3SS = torch.from_numpy(images[start : start + batch_size]).float() / 255
        side = min(PIXELS_SIDE, batch_B3SS.shape[-1])
        parts.append(nn.functional.adaptive_avg_pool2d(batch_B3SS, side))
    pooled_N3SS = torch.cat(parts)
    is_grey = bool((pooled_N3SS == pooled_N3SS[:, :1]).all())
    return (pooled_N3SS[:, :1] if is_grey else pooled_N3SS).flatten(1)


def frozen(trunk: nn.Module, device: torch.device | str) -> Embed:
    """A trunk as `embed`: evaluation mode, no gradients, on `device`."""
    module = trunk.to(device).eval().requires_grad_(False)
    return lambda images_B3SS: module(images_B3SS.to(device))


def _check_finite(features_BF: Tensor, start: int) -> None:
    is_bad_B = ~torch.isfinite(features_BF).all(1)
    if is_bad_B.any():
        first = start + int(is_bad_B.nonzero()[0])
        raise DivergenceError(
            f"expected finite features, found NaN or infinity in {int(is_bad_B.sum())} of {len(features_BF)} images, first image {first}; "
            f"training diverged: look at the loss curves, lower pretrain.lr or set pretrain.clip_norm"
        )
