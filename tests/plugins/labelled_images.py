"""A folder of labelled images: three tints under much noise."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (110, 115, 140), "green": (110, 140, 115), "red": (140, 110, 110)}


def write_images(root: Path, num_train: int = 8, num_test: int = 5, test_folder: str = "test") -> Path:
    """Write `train/<colour>/*.png` and `test/<colour>/*.png` of 40x32 pixels, and a file that is no image."""
    for part, number, start in (("train", num_train, 0), (test_folder, num_test, 1000)):
        for k, colour in enumerate(COLOURS):
            folder = root / part / colour
            folder.mkdir(parents=True)
            for i in range(number):
                (folder / f"{i:03d}.png").write_bytes(_coloured(colour, start + 100 * k + i))
    (root / "train" / "README.txt").write_text("not an image")
    return root


def _coloured(colour: str, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 40, (32, 40, 3)) + rng.normal(0, 15, 3)
    content = io.BytesIO()
    Image.fromarray((np.array(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8)).save(content, "PNG")
    return content.getvalue()
