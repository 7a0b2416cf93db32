"""Learning rate by step: linear warm-up, then cosine to 0 (paper, appendix; the released code's per-iteration schedule).

Pure functions of the step, so there is no scheduler state to save. Unlike the released code the first step has a rate above 0, and
every pair of steps and warm-up steps gives finite rates.
"""

import math

REFERENCE_IMAGES = 512  # the released code divides by 256 and halves for one crop of each image


def peak_learning_rate(lr: float, base_lr: float, num_images: int) -> float:
    """The rate at the end of the warm-up.

    Args:
        lr: used as it is when above 0.
        base_lr: else this rate is scaled linearly with the batch.
        num_images: images in the batch over all processes.

    Source: the released train scripts: 2e-4 x 8256 images / 512 = 3.2e-3.
    """
    return lr if lr > 0 else base_lr * num_images / REFERENCE_IMAGES


def decay_at(step: int, *, start: float, end: float, num_steps: int) -> float:
    """Weight decay of update number `step`: from `start` to `end` as half a cosine (arXiv 2312.17742: 0.04 to 0.2)."""
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * min(1.0, step / max(num_steps, 1))))


def learning_rate(step: int, *, peak: float, num_steps: int, warmup_steps: int) -> float:
    """The rate of the update number `step`, counted from 0.

    Rises in equal parts to `peak` over `warmup_steps` updates, then falls as half a cosine that would reach 0 at `num_steps`. With
    `warmup_steps >= num_steps` it only rises.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(num_steps - warmup_steps, 1)
    return 0.5 * peak * (1.0 + math.cos(math.pi * min(progress, 1.0)))
