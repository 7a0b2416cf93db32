"""Labelled images of a torchvision data set: `torchvision:CIFAR10?root=/data`, with `&download=true` to let torchvision fetch it first.

Any class of `torchvision.datasets` that has a train and a test part, by `train=` or by `split=` (test, else val). What else stands in the
query is passed on as text. Images are read when they are asked for.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
import inspect
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from stablerep.errors import DataError
from stablerep.identity import digest
from stablerep.probes.lazy import LazyImages, UInt8Array
from stablerep.probes.protocol import Int64Array
from stablerep.typed import suggestion

_TEST_SPLITS = ("test", "val")
_LABELS = ("targets", "labels", "_labels")


@dataclass(frozen=True)
class Source:
    """What a URI asks for."""

    name: str
    root: Path
    is_downloaded: bool
    options: dict[str, str]


def source_of(text: str) -> Source:
    """Read `NAME?root=FOLDER&key=value`.

    Raises:
        DataError: no name or no root.
    """
    name, _, query = text.partition("?")
    options = dict(parse_qsl(query))
    root, download = options.pop("root", ""), options.pop("download", "")
    if not name or not root:
        raise DataError(f"probe.dataset=torchvision:{text}: expected torchvision:NAME?root=FOLDER, found no {'root' if name else 'name'}")
    return Source(name, Path(root), download.lower() in ("1", "true", "yes"), options)


def identify_torchvision(text: str) -> dict[str, Any]:
    """Name, options, version of torchvision, and the names and sizes of the files under the root.

    Raises:
        DataError: as `source_of`; torchvision is not installed.
    """
    source = source_of(text)
    try:
        version = metadata.version("torchvision")
    except metadata.PackageNotFoundError as error:
        raise DataError(f"torchvision:{text} is read by torchvision, which is not installed; install stablerep[train]") from error
    files = sorted((path.relative_to(source.root).as_posix(), path.stat().st_size) for path in source.root.rglob("*") if path.is_file())
    return {"torchvision": source.name, "version": version, "options": source.options, "files": digest(files)}


def load_torchvision(text: str, size_px: int, resize_px: int) -> tuple[LazyImages, Int64Array, LazyImages, Int64Array, tuple[str, ...]]:
    """Training images and labels, test images and labels, names of the classes.

    Args:
        text: what follows `torchvision:`.
        size_px: side of the square that is kept from the centre.
        resize_px: what the shorter side becomes first.

    Raises:
        DataError: torchvision has no such data set, it has no two parts, or its files are not there.
    """
    source = source_of(text)
    train, test = _parts(source)
    train_labels, test_labels = _labels(train, text), _labels(test, text)
    names = tuple(str(name) for name in getattr(train, "classes", ()) or range(int(train_labels.max()) + 1))
    most = int(max(train_labels.max(), test_labels.max()))
    if most >= len(names):
        raise DataError(f"torchvision:{text}: expected classes below {len(names)}, found class {most}; it is no set for a linear probe")
    return _images(train, size_px, resize_px), train_labels, _images(test, size_px, resize_px), test_labels, names


def _parts(source: Source) -> tuple[Any, Any]:
    from torchvision import datasets

    known = {name: kind for name, kind in vars(datasets).items() if inspect.isclass(kind) and issubclass(kind, datasets.VisionDataset)}
    if source.name not in known:
        raise DataError(f"torchvision has no data set {source.name!r}{suggestion(source.name, set(known))}")
    kind: Any = known[source.name]
    parameters = inspect.signature(kind.__init__).parameters
    arguments: dict[str, Any] = {"root": str(source.root), **source.options}
    if "download" in parameters:
        arguments["download"] = source.is_downloaded
    try:
        if "train" in parameters:
            return kind(train=True, **arguments), kind(train=False, **arguments)
        if "split" in parameters:
            return kind(split="train", **arguments), _test_split(kind, arguments)
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        raise DataError(
            f"torchvision:{source.name}: expected its files under {source.root}, found: {error}; correct root, or add &download=true"
        ) from error
    raise DataError(f"torchvision:{source.name}: expected a data set with a train and a test part, found neither train= nor split=")


def _test_split(kind: Any, arguments: dict[str, Any]) -> Any:
    try:
        return kind(split=_TEST_SPLITS[0], **arguments)
    except ValueError:  # it has no such split
        return kind(split=_TEST_SPLITS[1], **arguments)


def _labels(part: Any, text: str) -> Int64Array:
    found = next((getattr(part, name) for name in _LABELS if hasattr(part, name)), None)
    labels = np.asarray(found if found is not None else [part[i][1] for i in range(len(part))])
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or len(labels) != len(part) or not len(labels):
        raise DataError(
            f"torchvision:{text}: expected one class number for each of {len(part)} images, found {labels.dtype} {labels.shape}"
        )
    return labels.astype(np.int64)


def _images(part: Any, size_px: int, resize_px: int) -> LazyImages:
    from stablerep.batches.decode import image_tensor

    def load(position: int) -> UInt8Array:
        return image_tensor(part[position][0], resize_px).numpy()

    return LazyImages(len(part), load, size_px)
