"""A group: one caption and its M encoded images, the unit that is stored, read and trained on.

Dimension key: M images of a caption. Images stay encoded here; decoding is the business of batches.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from stablerep.errors import DataError
from stablerep.records import Caption

EXTENSIONS = {"png": "png", "jpeg": "jpg", "webp": "webp"}
FORMATS = {extension: image_format for image_format, extension in EXTENSIONS.items()}

_NAME = re.compile(r"[0-9A-Za-z_-]{1,64}")


@dataclass(frozen=True)
class ImageGroup:
    """One caption and its images.

    `images` are the M encoded files in order; `image_format` is png, jpeg or webp; `metadata` says how the images came to be (noise
    keys, verdicts) and must be plain JSON. The caption's own metadata is provenance: it stays with the prompt set and is not packed,
    so that a shard depends on the text of a caption and not on where the text was read.

    Raises:
        DataError: a caption id that cannot name a file, no images, an empty image, or an unknown format.
    """

    caption: Caption
    images: tuple[bytes, ...]
    image_format: str
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        """Check what a shard relies on."""
        caption_id = self.caption.caption_id
        if not _NAME.fullmatch(caption_id):
            raise DataError(f"group {caption_id!r}: expected a caption id of letters, digits, - and _; make it with captions.clean")
        if self.image_format not in EXTENSIONS:
            raise DataError(f"group {caption_id}: expected image format {', '.join(EXTENSIONS)}, found {self.image_format!r}")
        if not self.images or not all(self.images):
            raise DataError(f"group {caption_id}: expected one or more images with bytes, found {[len(image) for image in self.images]}")
