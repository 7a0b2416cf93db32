"""Labelled images in WebDataset tars: `webdataset:` and a folder, anywhere fsspec reaches, with tars of both parts.

    train*.tar or train/*.tar, test*.tar or test/*.tar (or val), and where classes are numbers, if wanted, classnames.txt

The layout is that of published benchmark sets: files of an image share the name before the first dot; `.cls` holds the class, as a
number or a word; `classnames.txt` names the numbers line by line. Tars are listed once; an image is read by its place in the tar when
it is asked for. Nothing is unpacked.
"""

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from stablerep.errors import DataError, StoreError
from stablerep.probes.lazy import LazyImages, UInt8Array
from stablerep.probes.protocol import Int64Array
from stablerep.store import Store

IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp", "bmp"})
TEST_NAMES = ("test", "val")
CLASS_NAMES_FILE = "classnames.txt"
_CLASS_BYTES = _END_BYTES = 1024


@dataclass(frozen=True)
class Place:
    """Where an image lies, and the class that its tar states."""

    tar: str
    name: str
    start: int
    end: int
    label: str


@dataclass(frozen=True)
class TarImages:
    """Both parts with their labels, and the names of the classes."""

    train: LazyImages
    train_labels: Int64Array
    test: LazyImages
    test_labels: Int64Array
    class_names: tuple[str, ...]


def tar_sizes(store: Store) -> tuple[dict[str, int], dict[str, int]]:
    """Keys of the tars of both parts, each with its size in bytes.

    Raises:
        DataError: a part has none.
    """
    tars = {key: size for key, size in store.sizes().items() if key.endswith(".tar")}

    def of(part: str) -> dict[str, int]:
        return {key: size for key, size in tars.items() if PurePosixPath(key).parts[0].startswith(part)}

    train, test = of("train"), next((found for name in TEST_NAMES if (found := of(name))), dict[str, int]())
    if not train or not test:
        raise DataError(
            f"webdataset:{store.uri}: expected train*.tar or train/*.tar and the same with test or val, found "
            f"{', '.join(sorted(tars)[:5]) or 'no tar'}; correct probe.dataset or rename the tars"
        )
    return train, test


def load_tars(uri: str, size_px: int, resize_px: int) -> TarImages:
    """List the tars of a folder.

    Args:
        uri: of the folder.
        size_px: side of the square that is kept from the centre.
        resize_px: what the shorter side becomes first.

    Raises:
        DataError: no tars, a damaged one, an image without class, or test classes that training does not have.
    """
    store = Store(uri)
    train, test = ([place for key in sorted(part) for place in _places(store, key)] for part in tar_sizes(store))
    names = _class_names(store, train)
    known = {place.label for place in train}
    if unknown := sorted({place.label for place in test} - known):
        raise DataError(f"webdataset:{store.uri}: expected test classes among those of training, found also {', '.join(unknown[:5])}")
    number = {label: k for k, label in enumerate(sorted(known, key=_by_number))}
    return TarImages(
        _images(store, train, size_px, resize_px),
        np.array([number[place.label] for place in train], dtype=np.int64),
        _images(store, test, size_px, resize_px),
        np.array([number[place.label] for place in test], dtype=np.int64),
        tuple(names.get(label, label) for label in number),
    )


def _images(store: Store, places: Sequence[Place], size_px: int, resize_px: int) -> LazyImages:
    from stablerep.batches.decode import decode_image

    def load(position: int) -> UInt8Array:
        place = places[position]
        try:
            return decode_image(store.read_ranges(place.tar, [(place.start, place.end)])[0], resize_px).numpy()
        except StoreError:
            raise
        except DataError as error:
            raise DataError(f"{store.uri_of(place.tar)}, {place.name}: {error}; replace or remove the file") from error

    return LazyImages(len(places), load, size_px)


def _places(store: Store, key: str) -> list[Place]:
    found: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, str] = {}
    where = store.uri_of(key)
    _check_end(store, key, where)
    try:
        with store.open(key) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                stem, _, suffix = PurePosixPath(member.name).name.partition(".")
                name = f"{PurePosixPath(member.name).parent}/{stem}"
                if not member.isfile():
                    continue
                if suffix.lower() in IMAGE_SUFFIXES:
                    found[name] = (member.name, member.offset_data, member.offset_data + member.size)
                elif suffix.lower() == "cls":
                    content = tar.extractfile(member)
                    labels[name] = (content.read(_CLASS_BYTES) if content else b"").decode("utf-8").strip()
    except (tarfile.TarError, UnicodeDecodeError, EOFError) as error:
        raise DataError(f"{where}: expected a tar of images and .cls files, found: {error}; write it anew") from error
    if without := [name for name in found if not labels.get(name)]:
        raise DataError(f"{where}: expected a .cls file with a class beside every image, found none for {without[0]}; add it")
    return [Place(key, member, start, end, labels[name]) for name, (member, start, end) in found.items()]


def _check_end(store: Store, key: str, where: str) -> None:
    """A tar ends with two empty blocks; without them tarfile would read what is left of a cut one as if it were whole."""
    size = store.size(key) or 0
    if size < _END_BYTES or any(store.read_ranges(key, [(size - _END_BYTES, size)])[0]):
        raise DataError(f"{where}: expected a tar of images and .cls files, found no end mark after {size} bytes; it was cut: copy it anew")


def _class_names(store: Store, places: Sequence[Place]) -> dict[str, str]:
    """Names of the classes that are numbers, where the set names them."""
    if not store.exists(CLASS_NAMES_FILE) or not all(place.label.isdecimal() for place in places):
        return {}
    names = store.read_text(CLASS_NAMES_FILE).splitlines()
    numbers = {int(place.label) for place in places}
    if max(numbers) >= len(names):
        raise DataError(
            f"{store.uri_of(CLASS_NAMES_FILE)}: expected a name for each class, found {len(names)} lines and class {max(numbers)}; "
            "add lines or remove the file"
        )
    return {str(number): names[number].strip() for number in numbers} | {place.label: names[int(place.label)].strip() for place in places}


def _by_number(label: str) -> tuple[int, str]:
    return (int(label) if label.isdecimal() else 0, label)
