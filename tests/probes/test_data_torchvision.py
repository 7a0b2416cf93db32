"""Data sets of torchvision by URI, from files written here in the data sets' own formats."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stablerep.errors import DataError
from stablerep.probes.data import identify, load_labelled


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """The four idx files of MNIST: 12 training and 6 test images."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, number, seed in (("train", 12, 0), ("t10k", 6, 1)):
        pixels = np.random.default_rng(seed).integers(0, 256, (number, 28, 28), dtype=np.uint8)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, number, 28, 28) + pixels.tobytes())
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, number) + bytes(k % 10 for k in range(number)))
    return tmp_path


def test_a_set_with_train(mnist: Path) -> None:
    images = load_labelled(f"torchvision:MNIST?root={mnist}", 28)
    assert (len(images.train), len(images.test)) == (12, 6)
    assert images.train_labels.tolist() == [k % 10 for k in range(12)]
    assert images.class_names[3] == "3 - three"
    expected = np.random.default_rng(1).integers(0, 256, (6, 28, 28), dtype=np.uint8)
    assert (images.test[2:4] == expected[2:4, None]).all()
    assert images.test[2:4].shape == (2, 3, 28, 28)
    assert load_labelled(f"torchvision:MNIST?root={mnist}", 16, 20).train[:5].shape == (5, 3, 16, 16)


def test_a_set_with_split(tmp_path: Path) -> None:
    """Imagenette: class folders under train and val, and no split named test."""
    for part, number in (("train", 3), ("val", 2)):
        for k, word in enumerate(("n01440764", "n02102040")):
            folder = tmp_path / "imagenette2-160" / part / word
            folder.mkdir(parents=True)
            for i in range(number):
                Image.new("RGB", (40, 32), (50 * k, 10 * i, 200)).save(folder / f"{i}.JPEG")
    images = load_labelled(f"torchvision:Imagenette?root={tmp_path}&size=160px", 32)
    assert images.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.test_labels.tolist() == [0, 0, 1, 1]
    assert abs(images.test[2:3].astype(int).mean((0, 2, 3)) - [50, 0, 200]).max() < 4


def test_identity_is_name_options_and_files(mnist: Path, tmp_path: Path) -> None:
    uri = f"torchvision:MNIST?root={mnist}"
    before = identify(uri)
    assert before["torchvision"] == "MNIST"
    assert identify(uri.replace("MNIST?", "KMNIST?")) != before
    (mnist / "MNIST" / "raw" / "more").write_bytes(b"1")
    assert identify(uri) != before


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("torchvision:MNIST", r"expected torchvision:NAME\?root=FOLDER, found no root"),
        ("torchvision:?root=x", r"expected torchvision:NAME\?root=FOLDER, found no name"),
        ("torchvision:MNISTT?root=x", "torchvision has no data set 'MNISTT', did you mean 'MNIST'"),
        ("torchvision:MNIST?root=nowhere", r"expected its files under nowhere, found: .* add &download=true"),
        ("torchvision:FakeData?root=x", "expected a data set with a train and a test part, found neither train= nor split="),
    ],
)
def test_what_torchvision_does_not_have(uri: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_labelled(uri, 32)
