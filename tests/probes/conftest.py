"""A folder of labelled images, and an exported encoder with random weights."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COLOURS = {"blue": (110, 115, 140), "green": (110, 140, 115), "red": (140, 110, 110)}


def coloured(colour: str, seed: int, size: tuple[int, int] = (40, 32)) -> bytes:
    """A noisy PNG with a tint; hard enough that no probe is always right."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 40, (size[1], size[0], 3)) + rng.normal(0, 15, 3)
    content = io.BytesIO()
    Image.fromarray((np.array(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8)).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    def make(num_train: int = 8, num_test: int = 5, test_folder: str = "test", name: str = "images") -> Path:
        root = tmp_path / name
        for part, number, start in (("train", num_train, 0), (test_folder, num_test, 1000)):
            for k, colour in enumerate(COLOURS):
                folder = root / part / colour
                folder.mkdir(parents=True)
                for i in range(number):
                    (folder / f"{i:03d}.png").write_bytes(coloured(colour, start + 100 * k + i))
        (root / "train" / "README.txt").write_text("not an image")
        return root

    return make
