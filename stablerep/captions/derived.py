"""Captions derived from the pixels of grey digits: true of their image, but not written by people.

A caption names the class, and in words the tercile of stroke weight, slant and width that the image falls in, with synonyms and
templates, so that many captions describe a class and several wordings describe an image. Terciles are relative to the images the edges
were measured on: `left leaning` means the leftmost third of those.

Dimension key: N images, H and W pixels.
"""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]

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
class TercileEdges:
    """The two inner edges of each measured property: (low, high)."""

    weight: tuple[float, float]
    slant: tuple[float, float]
    width: tuple[float, float]


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


def terciles(measured_N3: FloatArray) -> TercileEdges:
    """The edges that cut the values of `measure` in three equal parts."""
    low_3, high_3 = np.quantile(measured_N3, (1 / 3, 2 / 3), axis=0)
    weight, slant, width = ((float(low), float(high)) for low, high in zip(low_3, high_3, strict=True))
    return TercileEdges(weight, slant, width)


def class_of_caption(caption: str) -> int | None:
    """The class that a derived caption names, or None when it names none or more than one."""
    words = set(re.findall(r"[a-z]+|[0-9]+", caption.lower()))
    named = {label for label, name in enumerate(CLASS_NAMES) if name in words or str(label) in words}
    return named.pop() if len(named) == 1 else None


def describe(label: int, measured_3: FloatArray, edges: TercileEdges, key: str) -> str:
    """Write one caption.

    Args:
        label: the class, 0 to 9.
        measured_3: one row of `measure`.
        edges: from the train part.
        key: hexadecimal digest of the image; it chooses synonyms and template, so a caption never depends on the order of images.
    """
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
