"""What an embedded text-to-image model is worth: do its images show what the captions say, do they differ, are they copies?

    python benchmarks/embedded_generator.py [--folder FOLDER] [--num-captions 300] [--images-per-caption 6] [--sheet sheet.png]

The judge is a support vector machine trained on the real train part; its own accuracy on the real test part is printed beside the
agreement. Distances are Euclidean between 32x32 images in [0, 1]. Copies would be nearer to the train part than to equally many real
test images that the model never saw. One thread; seconds are CPU-seconds.

Dimension key: N captions, M images per caption, S image size, K classes.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from sklearn.svm import SVC

from stablerep.captions.derived import measure
from stablerep.captions.packaged import caption_corpus, load_packaged, tercile_edges
from stablerep.groups.embedded_models import embedded_path

BATCH_SIZE = 32


def sample(folder: Path, captions: list[str], num_steps: int, guidance: float) -> tuple[np.ndarray, float]:
    """Grey images uint8 [len(captions),32,32], each from its own noise, and CPU-seconds per image."""
    pipeline: Any = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet.to(memory_format=torch.channels_last)
    parts, start = [], time.process_time()
    for first in range(0, len(captions), BATCH_SIZE):
        batch = captions[first : first + BATCH_SIZE]
        generators = [torch.Generator().manual_seed(1000 + first + index) for index in range(len(batch))]
        parts.append(pipeline(batch, num_inference_steps=num_steps, guidance_scale=guidance, generator=generators, output_type="np").images)
    seconds = (time.process_time() - start) / len(captions)
    return np.round(np.concatenate(parts)[..., 0] * 255).astype(np.uint8), seconds


def rows(images_NSS: np.ndarray) -> np.ndarray:
    """Images as points: float32 [N,S*S] in [0, 1]."""
    return images_NSS.reshape(len(images_NSS), -1).astype(np.float32) / 255


def nearest(from_rows: np.ndarray, to_rows: np.ndarray) -> np.ndarray:
    """Distance of each row to its nearest neighbour in the other set."""
    squared = (from_rows**2).sum(1)[:, None] + (to_rows**2).sum(1) - 2 * from_rows @ to_rows.T
    return np.sqrt(np.maximum(squared.min(1), 0))


def mean_pair_distance(points: np.ndarray) -> float:
    """Mean distance between two different points."""
    distances = np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))
    return float(distances[np.triu_indices(len(points), 1)].mean())


def caption_cells(data: Any) -> list[np.ndarray]:
    """Indices of the real train images that share class and all three terciles, where there are at least five."""
    edges, measured = tercile_edges(data.name), measure(data.images)
    limits = (edges.weight, edges.slant, edges.width)
    terciles = np.stack([np.searchsorted(limit, measured[:, column]) for column, limit in enumerate(limits)], axis=1)
    keys = np.concatenate([data.labels[:, None], terciles], axis=1)
    return [members for key in np.unique(keys, axis=0) if len(members := np.flatnonzero((keys == key).all(1))) >= 5]


def quality(
    folder: Path, name: str, num_captions: int, group_size: int, num_steps: int, guidance: float
) -> tuple[dict[str, Any], np.ndarray]:
    """Every measured number, and the images [N,M,32,32]."""
    train, test = load_packaged(name, "train"), load_packaged(name, "test")
    corpus = caption_corpus(name, num_captions, seed=7)
    source = np.repeat([index for _, index in corpus], group_size)
    images, seconds = sample(folder, [caption for caption, _ in corpus for _ in range(group_size)], num_steps, guidance)
    judge = SVC(C=10).fit(rows(train.images), train.labels)
    predicted, labels = judge.predict(rows(images)), train.labels[source]
    groups = predicted.reshape(-1, group_size)
    rng = np.random.default_rng(0)
    per_class = [len(test.images) // len(train.class_names)] * len(train.class_names)
    members = [rng.permutation(np.flatnonzero(train.labels == label))[:count] for label, count in enumerate(per_class)]
    seen, unseen, made = rows(train.images[np.concatenate(members)]), rows(test.images), rows(images)
    measured, wanted = measure(images), measure(train.images)[source]
    real = rows(train.images)
    result = {
        "captions x images, steps, guidance": [num_captions, group_size, num_steps, guidance],
        "judge on real test images": judge.score(unseen, test.labels),
        "agreement with the caption's class": float((predicted == labels).mean()),
        "agreement per class": [float((predicted[labels == k] == k).mean()) for k in range(len(train.class_names))],
        "group purity": float(np.mean([np.bincount(group).max() / group_size for group in groups])),
        "distance inside a group": float(np.mean([mean_pair_distance(group) for group in made.reshape(num_captions, group_size, -1)])),
        "distance inside a real class": float(np.mean([mean_pair_distance(real[train.labels == k][:100]) for k in range(10)])),
        "distance inside a real caption cell": float(np.mean([mean_pair_distance(real[cell]) for cell in caption_cells(train)])),
        "nearest train image (2,000)": float(nearest(made, seen).mean()),
        "nearest unseen test image (2,000)": float(nearest(made, unseen).mean()),
        "share nearer to train than to test": float((nearest(made, seen) < nearest(made, unseen)).mean()),
        "nearest train image of real test images": float(nearest(unseen, seen).mean()),
        "correlation of weight, slant, width": [float(np.corrcoef(measured[:, c], wanted[:, c])[0, 1]) for c in range(3)],
        "CPU-ms per image": seconds * 1e3,
    }
    return result, images.reshape(num_captions, group_size, *images.shape[1:])


def main() -> None:
    """Measure, print, and draw a sheet if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=embedded_path())
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--num-captions", type=int, default=300)
    parser.add_argument("--images-per-caption", type=int, default=6)
    parser.add_argument("--num-steps", type=int, default=8)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--sheet", type=Path, help="PNG of the first twenty groups")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result, images_NMSS = quality(
        options.folder, options.data, options.num_captions, options.images_per_caption, options.num_steps, options.guidance
    )
    for what, value in result.items():
        print(f"{what:42} {np.round(value, 3).tolist()}")
    if options.sheet:
        lines = [np.concatenate(list(group), axis=1) for group in images_NMSS[:20]]
        half = (len(lines) + 1) // 2
        lines += [np.zeros_like(lines[0])] * (2 * half - len(lines))
        sheet = np.concatenate([np.concatenate(lines[:half]), np.concatenate(lines[half:])], axis=1)
        Image.fromarray(sheet).resize((sheet.shape[1] * 2, sheet.shape[0] * 2), Image.Resampling.NEAREST).save(options.sheet)


if __name__ == "__main__":
    main()
