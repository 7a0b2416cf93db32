"""What a caller may send, checked before anything is decoded.

A few hundred kilobytes of PNG can declare more pixels than fit in memory, so the size is read from the header alone and the image is
refused there. Formats are named here too, by their first bytes: Pillow knows many more, and each is code that reads untrusted bytes.
"""

# pyright: reportUnknownMemberType=false
import io
import re
from dataclasses import dataclass, field

from PIL import Image

from stablerep.errors import BadImageError, TooLargeError, UnsupportedFormatError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
# Image files that people send and that are not read here: to say so is worth more than "not an image".
_OTHER_FORMATS = {
    "GIF": rb"GIF8[79]a",
    "TIFF": rb"II\*\0|MM\0\*|II\+\0|MM\0\+",
    "HEIC or AVIF": rb"....ftyp(heic|heix|hevc|mif1|msf1|avif|avis)",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "SVG": rb"\s*(<\?xml[^>]*>\s*)?<svg",
    "icon": rb"\0\0[\1\2]\0",
    "PSD": rb"8BPS",
    "PDF": rb"%PDF-",
    "netpbm": rb"P[1-7]\s",
    "OpenEXR": rb"v/1\x01",
}


def _limit(default: int, meaning: str) -> int:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Limits:
    """Limits of one server; a 0 switches a limit off only where it says so."""

    max_image_bytes: int = _limit(8_388_608, "bytes of an encoded image")
    max_image_pixels: int = _limit(25_000_000, "pixels that an image declares")
    max_batch: int = _limit(64, "images, or texts, of a request; also of a model batch on a GPU")
    max_request_bytes: int = _limit(33_554_432, "bytes of a body or of a gRPC message")
    max_buffered_bytes: int = _limit(268_435_456, "bytes of the bodies of all REST requests together")
    max_queue: int = _limit(256, "images being decoded, waiting or in the model")
    max_connections: int = _limit(1_024, "REST connections, and gRPC calls")
    max_in_flight_per_client: int = _limit(0, "requests of one address at once; 0: any number")
    max_request_seconds: int = _limit(30, "from the whole body to the answer")
    max_body_seconds: int = _limit(20, "for sending a REST body")
    max_labels: int = _limit(1_000, "labels of a request")
    max_prompts: int = _limit(10_000, "labels times templates")
    max_label_characters: int = _limit(300, "characters of a label or template")
    max_neighbours: int = _limit(100, "references for an image")

    def check_batch(self, num_images: int) -> None:
        """Check the number of images (or texts) of one request.

        Raises:
            BadImageError: there is none.
            TooLargeError: there are more than `max_batch`.
        """
        if num_images < 1:
            raise BadImageError("expected at least one image, found none")
        if num_images > self.max_batch:
            raise TooLargeError(f"expected at most {self.max_batch} images in a request, found {num_images}; send them in several requests")

    def check_bytes(self, size_bytes: int) -> None:
        """Check the size of one encoded image.

        Raises:
            TooLargeError: it is over `max_image_bytes`.
        """
        if size_bytes > self.max_image_bytes:
            raise TooLargeError(f"expected an image of at most {self.max_image_bytes} bytes, found {size_bytes}")

    def check_pixels(self, width: int, height: int) -> None:
        """Check the size of one image.

        Raises:
            TooLargeError: it has more than `max_image_pixels`.
        """
        if width * height > self.max_image_pixels:
            raise TooLargeError(f"expected an image of at most {self.max_image_pixels} pixels, found {width}x{height}; send it smaller")

    def check_image(self, data: bytes) -> None:
        """Check an encoded image by its length and its header; nothing is decoded.

        Args:
            data: the bytes of an image file.

        Raises:
            BadImageError: not an image.
            UnsupportedFormatError: an image, and not JPEG, PNG, WebP or BMP.
            TooLargeError: too many bytes or pixels.
        """
        self.check_bytes(len(data))
        self.check_pixels(*_declared_size(data))


def _declared_size(data: bytes) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLargeError(f"the image declares too many pixels: {error}") from error
    except Exception as error:  # header parsers of untrusted bytes raise nearly anything
        other = _other_format(data)
        if other:
            raise UnsupportedFormatError(f"expected a JPEG, PNG, WebP or BMP image, found {other}; convert it first") from error
        found = f"{len(data)} bytes starting with {data[:8]!r}" if data else "0 bytes"
        raise BadImageError(f"expected a JPEG, PNG, WebP or BMP image, found {found}") from error


def _other_format(data: bytes) -> str:
    """Name of the image format that the first bytes promise; empty for none that is known."""
    return next((name for name, start in _OTHER_FORMATS.items() if re.match(start, data[:256], re.DOTALL)), "")
