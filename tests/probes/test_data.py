"""Labelled images from packages and folders: what is read, in which order, how it is prepared, what is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stablerep.batches.decode import decode_image
from stablerep.errors import ConfigError, DataError
from stablerep.probes.data import identify, load_labelled
from stablerep.store import Store

Folder = Callable[..., Path]


def test_packaged_digits() -> None:
    images = load_labelled("packaged:digits", 32)
    assert images.train[:3].shape == (3, 3, 32, 32)
    assert images.train[:3].dtype == np.uint8
    assert len(images.train) + len(images.test) == 1797
    assert (len(images.train_labels), len(images.test_labels)) == (len(images.train), len(images.test))
    assert images.class_names[3] == "three"
    assert "CC BY" in images.licence
    train, test = ({image.tobytes() for image in part[:]} for part in (images.train, images.test))
    assert not train & test


def test_packaged_images_are_resized_and_cut() -> None:
    plain, small, cut = (load_labelled("packaged:digits", *size).test[:20] for size in ((32,), (16,), (16, 32)))
    assert small.shape == cut.shape == (20, 3, 16, 16)
    assert (cut == plain[:, :, 8:24, 8:24]).all()
    assert not (small == cut).all()


@pytest.mark.parametrize("test_folder", ["test", "val"])
def test_folder_of_classes(image_folder: Folder, test_folder: str) -> None:
    root = image_folder(num_train=8, num_test=5, test_folder=test_folder)
    images = load_labelled(str(root), 24, 28)
    assert images.class_names == ("blue", "green", "red")
    assert images.train_labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert images.test_labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert images.train[0:24].mean((0, 2, 3)).argmax() in (0, 1, 2)
    data = (root / "train" / "green" / "002.png").read_bytes()
    expected = decode_image(data, 28).numpy()[:, 2:26, 2:26]
    assert (images.train[10:11][0] == expected).all()
    assert len(images.test[99:]) == 0


def test_folder_in_an_object_store(image_folder: Folder) -> None:
    root, remote = image_folder(), Store("memory://probe-images")
    for path in root.rglob("*.png"):
        remote.put(path, path.relative_to(root).as_posix())
    there, here = load_labelled("memory://probe-images", 32), load_labelled(root.as_uri(), 32)
    assert (there.train[:] == here.train[:]).all()
    assert identify("memory://probe-images") == identify(str(root))


def test_identity_is_the_content_wherever_it_lies(image_folder: Folder) -> None:
    root = image_folder()
    moved = Path(shutil.copytree(root, root.with_name("moved")))
    assert identify(str(root)) == identify(str(moved))
    (moved / "train" / "blue" / "zzz.png").write_bytes(b"one more")
    assert identify(str(root)) != identify(str(moved))
    assert identify("packaged:mnist") != identify("packaged:digits")


def test_a_file_that_is_no_image_is_named(image_folder: Folder) -> None:
    root = image_folder()
    (root / "test" / "red" / "bad.png").write_bytes(b"this is text")
    images = load_labelled(str(root), 32)
    with pytest.raises(DataError, match=r"test/red/bad.png: cannot decode .* replace or remove the file"):
        images.test[:]


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("train", r"<class>/<name> under train/ .* found none; set probe.dataset"),
        ("test", r"<class>/<name> under test/ or val/"),
        ("train/red", "test classes among those of train/, found also 'red'"),
    ],
)
def test_incomplete_folders(image_folder: Folder, remove: str, message: str) -> None:
    root = image_folder()
    shutil.rmtree(root / remove)
    with pytest.raises(DataError, match=message):
        load_labelled(str(root), 32)


def test_unknown_sources_and_sizes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="packaged:mnist or packaged:digits, found 'packaged:imagenet'"):
        identify("packaged:imagenet")
    with pytest.raises(DataError, match="under train/"):
        load_labelled(str(tmp_path / "nowhere"), 32)
    with pytest.raises(ConfigError, match="resize_px of at least size_px=32"):
        load_labelled("packaged:digits", 32, 16)


def test_imagefolder_is_a_folder_with_its_name_before_it(image_folder: Folder) -> None:
    root = image_folder()
    assert identify(f"imagefolder:{root}") == identify(str(root))
    assert (load_labelled(f"imagefolder:{root}", 32).test[:] == load_labelled(str(root), 32).test[:]).all()
