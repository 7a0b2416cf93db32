"""What batching, cached prompts and channels-last are worth, and what a batch size does to the pixels.

    python benchmarks/sampler.py [--num-captions 25] [--num-repeats 3]

The embedded model, DPM-Solver++ 8 steps, guidance 2, one thread; CPU-seconds of the fastest of the repeats, so that other processes do not
count. The plain way is one call of the pipeline for one image, as a first script would do it. Every batch size is also compared, image
by image, with the first one.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

from stablerep.captions.packaged import caption_corpus
from stablerep.groups.diffusers_sampler import DiffusersSampler
from stablerep.groups.embedded_models import embedded_path
from stablerep.groups.make import make_shard
from stablerep.groups.sampler import ImageRequest
from stablerep.identity import sha256_bytes
from stablerep.records import Caption

NUM_STEPS, GUIDANCE, IMAGES_PER_CAPTION = 8, 2.0, 6
BATCH_SIZES = (50, 150, 64, 32, 16, 8, 2)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-captions", type=int, default=25)
    parser.add_argument("--num-repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    texts = [text for text, _ in caption_corpus("mnist", options.num_captions, 0)]
    captions = [Caption(sha256_bytes(text.encode())[:16], text) for text in texts]
    requests = [ImageRequest(c.caption_id, c.text, index) for c in captions for index in range(IMAGES_PER_CAPTION)]
    plain_ms = fastest_ms(plain_way(embedded_path(), texts[:10]), 10, options.num_repeats)
    print(f"plain way, one image a call: {plain_ms:.1f} CPU-ms an image")
    sampler = DiffusersSampler(
        embedded_path(),
        scheduler="dpm++",
        num_inference_steps=NUM_STEPS,
        guidance=GUIDANCE,
        negative_prompt="",
        noise_seed=0,
        dtype="fp32",
        device="cpu",
        size_px=32,
    )
    first = np.zeros(0)
    for batch_size in BATCH_SIZES:
        images = sample_all(sampler, requests, batch_size)
        first = first if first.size else images
        # Images beyond the last whole batch would be timed at another size.
        num_whole = len(requests) // batch_size * batch_size
        ms = fastest_ms(lambda size=batch_size, num=num_whole: sample_all(sampler, requests[:num], size), num_whole, options.num_repeats)
        change = np.abs(images.astype(int) - first.astype(int))
        print(
            f"batch {batch_size:3}: {ms:6.1f} CPU-ms an image, {plain_ms / ms:4.1f} times the plain way; against batch {BATCH_SIZES[0]}: "
            f"{int((change.max((1, 2, 3)) > 0).sum())} of {len(images)} images differ, {int((change > 0).sum())} of {change.size} values, "
            f"by {int(change.max())} level"
        )
    settings: dict[str, Any] = {"images_per_caption": IMAGES_PER_CAPTION, "batch_size": 50, "max_retries": 2}
    ms = fastest_ms(
        lambda: make_shard(sampler, captions, image_format="png", image_quality=90, **settings), len(requests), options.num_repeats
    )
    print(f"a whole shard (judged, encoded as PNG), batch 50: {ms:.1f} CPU-ms an image")


def plain_way(folder: Path, texts: list[str]) -> Callable[[], object]:
    """One call of the pipeline for each text."""
    pipeline: Any = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    return lambda: [pipeline(text, num_inference_steps=NUM_STEPS, guidance_scale=GUIDANCE).images[0] for text in texts]


def sample_all(sampler: DiffusersSampler, requests: list[ImageRequest], batch_size: int) -> np.ndarray:
    """uint8 [N,32,32,3]; short batches are filled up as `make_shard` does."""
    parts: list[Any] = []
    for start in range(0, len(requests), batch_size):
        batch = requests[start : start + batch_size]
        parts += sampler.sample(batch + batch[-1:] * (batch_size - len(batch)))[: len(batch)]
    return np.stack(parts)


def fastest_ms(work: Callable[[], object], num_images: int, num_repeats: int) -> float:
    """CPU-milliseconds an image of the fastest of several runs."""
    seconds: list[float] = []
    for _ in range(num_repeats):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return 1000 * min(seconds) / num_images


if __name__ == "__main__":
    main()
