"""Labelled images in WebDataset tars: the library's own writer makes them, and its own reader agrees."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from labelled_images import write_images
from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_iterator

from stablerep.errors import DataError
from stablerep.probes.data import identify, load_labelled
from stablerep.store import Store

NAMES = ("blue", "green", "red")


def write_tars(root: Path, images: Path, *, nested: bool = False, test_name: str = "test", is_numbered: bool = True) -> Path:
    """Both parts of a folder of images as tars of four images each, classes mixed."""
    for part in ("train", "test"):
        files = sorted((images / part).glob("*/*.png"), key=lambda path: (path.name, path.parent.name))
        for number in range(0, len(files), 4):
            name = {"train": "train", "test": test_name}[part]
            path = root / (f"{name}/{number // 4}.tar" if nested else f"{name}-{number // 4:04d}.tar")
            path.parent.mkdir(parents=True, exist_ok=True)
            with webdataset.TarWriter(str(path)) as writer:
                for file in files[number : number + 4]:
                    label = str(NAMES.index(file.parent.name)) if is_numbered else file.parent.name
                    key = f"{file.parent.name}_{file.stem}"
                    writer.write({"__key__": key, "png": file.read_bytes(), "cls": label.encode(), "json": b"{}"})
    if is_numbered:
        (root / "classnames.txt").write_text("\n".join(NAMES) + "\n")
    return root


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", num_train=6, num_test=5)


@pytest.mark.parametrize("is_numbered", [True, False])
@pytest.mark.parametrize(("nested", "test_name"), [(False, "test"), (True, "val")])
def test_tars_hold_what_the_folder_holds(images: Path, tmp_path: Path, nested: bool, test_name: str, is_numbered: bool) -> None:
    root = write_tars(tmp_path / "tars", images, nested=nested, test_name=test_name, is_numbered=is_numbered)
    tars, folder = load_labelled(f"webdataset:{root}", 24, 28), load_labelled(str(images), 24, 28)
    assert tars.class_names == NAMES
    assert np.bincount(tars.train_labels).tolist() == [6, 6, 6]
    for ours, labels, theirs, their_labels in (
        (tars.train, tars.train_labels, folder.train, folder.train_labels),
        (tars.test, tars.test_labels, folder.test, folder.test_labels),
    ):
        assert len(ours) == len(theirs)
        found = sorted((int(k), image.tobytes()) for k, image in zip(labels, ours[:], strict=True))
        assert found == sorted((int(k), image.tobytes()) for k, image in zip(their_labels, theirs[:], strict=True))


def test_order_and_bytes_are_those_of_the_library(images: Path, tmp_path: Path) -> None:
    root = write_tars(tmp_path / "tars", images)
    theirs: list[tuple[np.ndarray, int]] = []
    for path in sorted(root.glob("train-*.tar")):
        with path.open("rb") as stream:
            files = ({**file, "__url__": str(path)} for file in tar_file_iterator(stream))
            for sample in group_by_keys(files):
                image = np.asarray(Image.open(io.BytesIO(sample["png"])).convert("RGB")).transpose(2, 0, 1)
                theirs.append((image, int(sample["cls"])))
    ours = load_labelled(f"webdataset:{root}", 32, 32)
    assert ours.train_labels.tolist() == [label for _, label in theirs]
    assert (ours.train[3:5] == np.stack([image[:, :, 4:36] for image, _ in theirs[3:5]])).all()


def test_tars_in_an_object_store(images: Path, tmp_path: Path) -> None:
    root, remote = write_tars(tmp_path / "tars", images), Store("memory://probe-tars")
    for path in root.iterdir():
        remote.put(path, path.name)
    there, here = load_labelled("webdataset:memory://probe-tars", 32), load_labelled(f"webdataset:{root}", 32)
    assert (there.test[2:7] == here.test[2:7]).all()
    assert identify("webdataset:memory://probe-tars") == identify(f"webdataset:{root}")


def test_identity_follows_the_tars(images: Path, tmp_path: Path) -> None:
    root = write_tars(tmp_path / "tars", images)
    before = identify(f"webdataset:{root}")
    (root / "train-0009.tar").write_bytes(b"more")
    assert identify(f"webdataset:{root}") != before


def test_what_is_missing_is_named(images: Path, tmp_path: Path) -> None:
    root = write_tars(tmp_path / "tars", images)
    for path in root.glob("test-*"):
        path.rename(path.with_name(path.name.replace("test", "other")))
    with pytest.raises(DataError, match=r"expected train\*.tar .* test or val, found other-0000.tar"):
        load_labelled(f"webdataset:{root}", 32)


def test_images_without_class_bad_images_and_bad_tars_are_refused(images: Path, tmp_path: Path) -> None:
    root = write_tars(tmp_path / "tars", images)
    _add(root / "train-0001.tar", {"lonely.png": b"x"})
    with pytest.raises(DataError, match=r"train-0001.tar: expected a .cls file with a class beside every image, found none for ./lonely"):
        load_labelled(f"webdataset:{root}", 32)
    _add(root / "train-0001.tar", {"lonely.cls": b"1"})
    with pytest.raises(DataError, match=r"train-0001.tar, lonely.png: cannot decode an image of 1 bytes"):
        load_labelled(f"webdataset:{root}", 32).train[:]
    (root / "classnames.txt").write_text("blue\ngreen\n")
    with pytest.raises(DataError, match="expected a name for each class, found 2 lines and class 2"):
        load_labelled(f"webdataset:{root}", 32)
    (root / "train-0000.tar").write_bytes(b"no tar at all" * 100 + bytes(1024))
    with pytest.raises(DataError, match=r"train-0000.tar: expected a tar of images and .cls files"):
        load_labelled(f"webdataset:{root}", 32)


def test_a_tar_cut_between_two_files_is_not_read_as_whole(images: Path, tmp_path: Path) -> None:
    root = write_tars(tmp_path / "tars", images)
    path = root / "train-0001.tar"
    with tarfile.open(path) as tar:
        cut = tar.getmembers()[6].offset
    path.write_bytes(path.read_bytes()[:cut])
    with tarfile.open(path) as tar:
        assert len(tar.getmembers()) == 6
    with pytest.raises(DataError, match=r"train-0001.tar: .* found no end mark after \d+ bytes; it was cut: copy it anew"):
        load_labelled(f"webdataset:{root}", 32)


def test_test_classes_must_be_known(images: Path, tmp_path: Path) -> None:
    root = write_tars(tmp_path / "tars", images, is_numbered=False)
    image = next(images.rglob("*.png")).read_bytes()
    _add(root / "test-0001.tar", {"new.png": image, "new.cls": b"violet"})
    with pytest.raises(DataError, match="expected test classes among those of training, found also violet"):
        load_labelled(f"webdataset:{root}", 32)


def _add(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "a") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
