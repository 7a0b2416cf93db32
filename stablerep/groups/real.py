"""Real training images in the place of a text-to-image model: `real:mnist`, or `real:` and the URI of a folder train/<class>/*.

What the paper compares with, CLIP and SimCLR on real images under the same captions, needs groups that no model made. A caption gets images
of its class: first those that are described by just this text (packaged data derive a caption from each image), then others, each lot in an
order keyed by (noise seed, caption, image). So a group depends on nothing else, as with noise. Test images cannot be reached from here:
only the train part is listed or read.

Dimension key: H, W pixels, S side of a stored image.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from stablerep.errors import DataError
from stablerep.groups.model_folder import UNSTATED
from stablerep.groups.resolve import REAL
from stablerep.groups.sampler import ImageHW3, ImageRequest
from stablerep.identity import content_id, digest, sha256_bytes
from stablerep.records import GeneratorRef
from stablerep.store import Store

PIPELINE_CLASS = "RealImages"
TRAIN_FOLDER = "train"
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


@dataclass(frozen=True)
class RealImages:
    """Training images by name.

    `uri` finds them again on any machine; `classes` maps class to names of images, `described` a text to the names of the images it was
    written about (empty where nobody wrote any), `read` gives an image as uint8 [S,S,3] for a name and S, `identity` is their digest.
    """

    uri: str
    classes: Mapping[str, Sequence[str]]
    read: Callable[[str, int], ImageHW3]
    identity: str
    licence: str
    size_px: int
    described: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])


class RealSampler:
    """An `ImageSampler` that looks images up.

    Args:
        images: the train part.
        class_of: the class of every caption, by caption id.
        noise_seed: of the data set.
        size_px: side of the returned images.
    """

    def __init__(self, images: RealImages, class_of: Mapping[str, str], *, noise_seed: int, size_px: int) -> None:
        self._images, self._class_of, self._noise_seed, self.size_px = images, class_of, noise_seed, size_px
        self._order: tuple[str, list[str]] = ("", [])

    def sample(self, requests: Sequence[ImageRequest]) -> list[ImageHW3 | None]:
        """One image for each request, in their order; beyond the last image of a class the first comes again (a duplicate).

        Raises:
            DataError: a caption without a class, or with one that has no images; an image that cannot be decoded.
        """
        return [self._images.read(self._name(request), self.size_px) for request in requests]

    def _name(self, request: ImageRequest) -> str:
        if self._order[0] != request.caption_id:  # requests of a caption come together
            self._order = (request.caption_id, self._names(request))
        names = self._order[1]
        return names[request.image_index % len(names)]

    def _names(self, request: ImageRequest) -> list[str]:
        label = self._class_of.get(request.caption_id)
        members = self._images.classes.get(label or "")
        if not members:
            known = ", ".join(sorted(self._images.classes)[:12])
            raise DataError(
                f"caption {request.caption_id} ({request.text[:60]!r}): expected one of the classes of the real images ({known}), found "
                f"{label or 'no class'}; use packaged captions, or set captions.label_column, and run prepare again"
            )
        own = set(self._images.described.get(request.text, ()))
        return sorted(members, key=lambda name: (name not in own, self._key(request.caption_id, name)))

    def _key(self, caption_id: str, name: str) -> bytes:
        return hashlib.sha256(f"{self._noise_seed}/{caption_id}/{name}".encode()).digest()


def resolve_real(model: str, licence: str) -> GeneratorRef:
    """The record of real images; nothing is decoded.

    Args:
        model: `real:<packaged name>` or `real:<path or URI of a folder>`.
        licence: what the user states; empty for what is known of the data.

    Raises:
        DataError: nothing is there.
    """
    images = load_real(model)
    return GeneratorRef(
        generator_id=content_id("generator", images.identity),
        uri=images.uri,
        pipeline_class=PIPELINE_CLASS,
        sha256=images.identity,
        revision="",
        licence=licence or images.licence,
        size_px=images.size_px,
    )


def locate_real(reference: GeneratorRef) -> RealImages:
    """The images of a record that was resolved before.

    Raises:
        DataError: they are gone, or are not those of the record.
    """
    images = load_real(reference.uri)
    if images.identity != reference.sha256:
        raise DataError(
            f"{reference.uri}: expected the images with digest {reference.sha256[:16]}..., found {images.identity[:16]}...; they changed "
            "since stage generator ran: run that stage again, or put the images back"
        )
    return images


def load_real(model: str) -> RealImages:
    """The train part of a packaged data set or of a folder of class folders; raises as `resolve_real`."""
    from stablerep.captions.packaged import PACKAGED_NAMES

    name = model.removeprefix(REAL).removeprefix("packaged:")
    return _packaged(name) if name in PACKAGED_NAMES else _folder(name)


def _packaged(name: str) -> RealImages:
    from stablerep.captions.packaged import load_packaged

    part = load_packaged(name, "train")
    classes: dict[str, list[str]] = {class_name: [] for class_name in part.class_names}
    described: dict[str, list[str]] = {}
    for place, (label, caption) in enumerate(zip(part.labels, part.captions, strict=True)):
        classes[part.class_names[int(label)]].append(str(place))
        described.setdefault(caption, []).append(str(place))

    def read(image: str, size_px: int) -> ImageHW3:
        grey = Image.fromarray(part.images[int(image)])
        if grey.size != (size_px, size_px):
            grey = grey.resize((size_px, size_px), Image.Resampling.BICUBIC)
        return np.repeat(np.asarray(grey)[:, :, None], 3, axis=2)

    identity = digest(["packaged", name, sha256_bytes(part.images.tobytes()), [int(label) for label in part.labels], part.captions])
    return RealImages(f"{REAL}{name}", classes, read, identity, part.licence, part.images.shape[1], described)


def _folder(uri: str) -> RealImages:
    """A folder is known by the names and sizes of its training images; a file replaced by one of the same size is not noticed."""
    store = Store(uri)
    sizes = {key: size for key, size in _sizes(store).items() if _is_image(key)}
    if not sizes:
        raise DataError(
            f"generator.model={REAL}{uri}: expected a packaged data set or a folder with images at {TRAIN_FOLDER}/<class>/<name> "
            f"({', '.join(sorted(IMAGE_SUFFIXES))}), found none; correct the path"
        )
    classes: dict[str, list[str]] = {}
    for key in sorted(sizes):
        classes.setdefault(PurePosixPath(key).parts[1], []).append(key)

    def read(image: str, size_px: int) -> ImageHW3:
        from stablerep.batches.decode import decode_image

        try:
            image_3SS = decode_image(store.read(image), size_px)
        except DataError as error:
            raise DataError(f"{store.uri_of(image)}: {error}; replace or remove the file") from error
        return np.ascontiguousarray(image_3SS.permute(1, 2, 0).numpy())

    identity = digest(["folder", sorted(sizes.items())])
    return RealImages(f"{REAL}{store.uri}", classes, read, identity, UNSTATED, _side_px(store, min(sizes)))


def _side_px(store: Store, key: str) -> int:
    """Shorter side of an image, from its header."""
    try:
        with Image.open(io.BytesIO(store.read(key))) as image:
            return min(image.size)
    except OSError as error:
        raise DataError(f"{store.uri_of(key)}: expected an image, found something else ({error}); replace or remove the file") from error


def _sizes(store: Store) -> dict[str, int]:
    return store.sizes(TRAIN_FOLDER) if store.exists(TRAIN_FOLDER) else {}


def _is_image(key: str) -> bool:
    path = PurePosixPath(key)
    return len(path.parts) >= 3 and path.suffix.lower() in IMAGE_SUFFIXES
