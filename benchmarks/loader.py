"""Images a second of one core from stored bytes to normalised views: this project against Pillow and torchvision image by image.

    python benchmarks/loader.py [--repeats N]

Both sides decode the same bytes and make the same kind of view, on one thread, in CPU seconds (so a busy machine matters less); the best
of several repeats counts. `quickstart` is 256 views of 32 px a step, `paper` 224 px views of 256 px JPEG images.
"""

import argparse
import hashlib
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from stablerep.batches import GroupLoader
from stablerep.config.recipes import RECIPES
from stablerep.config.schema import AugmentConfig
from stablerep.records import Caption

HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class MemoryGroups:
    """Groups held in memory."""

    groups: list[list[bytes]]

    @property
    def num_groups(self) -> int:
        """Number of groups."""
        return len(self.groups)

    @property
    def images_per_caption(self) -> int:
        """Images of every group."""
        return len(self.groups[0])

    @property
    def total_images(self) -> int:
        """Images of all groups."""
        return self.num_groups * self.images_per_caption

    def caption(self, position: int) -> Caption:
        """A made-up caption."""
        text = f"picture {position}"
        return Caption(hashlib.sha256(text.encode()).hexdigest()[:16], text)

    def num_images(self, position: int) -> int:
        """Images of one group."""
        return len(self.groups[position])

    def images(self, position: int, indices: Sequence[int]) -> list[bytes]:
        """Some of them."""
        return [self.groups[position][index] for index in indices]

    def shard_name(self, position: int) -> str:
        """There are no shards."""
        return "memory"


def pictures(num: int, size_px: int, image_format: str, *, is_grey: bool) -> list[bytes]:
    """Smooth random pictures with a little grain, encoded."""
    random = np.random.default_rng(0)
    encoded: list[bytes] = []
    for _ in range(num):
        coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((size_px, size_px), Image.Resampling.BICUBIC)
        grain = random.integers(-6, 7, (size_px, size_px, 3))
        image = Image.fromarray((np.asarray(coarse).astype(int) + grain).clip(0, 255).astype(np.uint8))
        stream = io.BytesIO()
        (image.convert("L") if is_grey else image).save(stream, image_format, quality=90)
        encoded.append(stream.getvalue())
    return encoded


def torchvision_chain(augment: AugmentConfig, size_px: int) -> v2.Compose:
    """The same augmentation with torchvision, for one image."""
    steps: list[torch.nn.Module] = [v2.RandomResizedCrop(size_px, scale=(augment.crop_scale_min, 1.0))]
    if augment.is_flipped:
        steps.append(v2.RandomHorizontalFlip())
    if augment.rotation_degrees:
        steps.append(v2.RandomRotation(augment.rotation_degrees, v2.InterpolationMode.BILINEAR))
    jitter = v2.ColorJitter(augment.jitter, augment.jitter, augment.jitter, augment.hue)
    steps.append(v2.RandomApply([jitter], augment.jitter_probability))
    if augment.grey_probability:
        steps.append(v2.RandomGrayscale(augment.grey_probability))
    if augment.blur_probability:
        steps.append(v2.RandomApply([v2.GaussianBlur(13, (0.1, 2.0))], augment.blur_probability))
    steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    if augment.noise:
        steps.append(v2.GaussianNoise(sigma=augment.noise, clip=False))
    return v2.Compose([*steps, v2.Normalize(HALF, HALF)])


def opened(data: bytes) -> Image.Image:
    """The image, as a plain pipeline opens it."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def cpu_seconds(work: Callable[[int], object], repeats: int) -> float:
    """The least CPU time of a step over some repeats."""
    work(0)
    best = float("inf")
    for repeat in range(1, repeats + 1):
        started_at = time.process_time()
        work(repeat)
        best = min(best, time.process_time() - started_at)
    return best


def measure(name: str, augment: AugmentConfig, size_px: int, dataset: MemoryGroups, captions: int, drawn: int, repeats: int) -> None:
    """Print a table for one setting."""
    num_views = captions * drawn

    def loader(cache_bytes: int) -> GroupLoader:
        return GroupLoader(
            dataset,
            None,
            captions_per_batch=captions,
            images_per_caption=drawn,
            rank=0,
            world_size=1,
            seed=0,
            augment=augment,
            size_px=size_px,
            mean=HALF,
            std=HALF,
            num_workers=0,
            cache_bytes=cache_bytes,
        )

    decoding, kept = loader(0)._reader, loader(1 << 30)._reader
    for step in range(2 * decoding.order.steps_per_epoch):
        kept.load(step)
    data = [image for group in dataset.groups for image in group][:num_views]
    rows: list[tuple[str, Callable[[int], object]]] = [
        ("this project, decoding", decoding.read),
        ("this project, images kept in memory", kept.read),
        ("this project, decoding alone", decoding.load),
    ]
    chain = torchvision_chain(augment, size_px)
    to_tensor = v2.functional.pil_to_tensor
    rows += [
        ("torchvision v2 on Pillow images, one by one", lambda _: torch.stack([chain(opened(one)) for one in data])),
        ("torchvision v2 on uint8 tensors, one by one", lambda _: torch.stack([chain(to_tensor(opened(one))) for one in data])),
    ]
    print(f"\n{name}: {num_views} views of {size_px} px a step\n\n| pipeline | ms a step | images/s/core |\n|---|---|---|")
    for label, work in rows:
        seconds = cpu_seconds(work, repeats)
        print(f"| {label} | {1000 * seconds:.1f} | {num_views / seconds:.0f} |")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    small = pictures(400 * 6, 32, "PNG", is_grey=True)
    quickstart = RECIPES["quickstart"].pretrain
    measure("quickstart", quickstart.augment, 32, MemoryGroups([small[6 * i : 6 * i + 6] for i in range(400)]), 64, 4, repeats)
    large = pictures(96, 256, "JPEG", is_grey=False)
    paper = RECIPES["cc3m_b16"].pretrain
    measure("paper", paper.augment, 224, MemoryGroups([large[6 * i : 6 * i + 6] for i in range(16)]), 8, 6, repeats)


if __name__ == "__main__":
    main()
