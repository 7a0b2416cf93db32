"""A folder of labelled images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from labelled_images import write_images


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    def make(**arguments: Any) -> Path:
        return write_images(tmp_path / "images", **arguments)

    return make
