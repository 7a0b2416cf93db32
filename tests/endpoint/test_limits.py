import io
import struct
import time
import zlib
from dataclasses import fields
from pathlib import Path

import pytest
from PIL import Image
from tiny_encoder import picture

from stablerep.endpoint.limits import FORMATS, Limits
from stablerep.errors import BadImageError, TooLargeError, UnsupportedFormatError
from stablerep.telemetry import METRICS


def declared_png(width: int, height: int) -> bytes:
    """A PNG whose header promises width x height pixels and whose data are a few kilobytes of zeros."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1_000_000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("image_format", FORMATS)
def test_the_four_formats_pass(image_format: str) -> None:
    Limits().check_image(picture(0, image_format=image_format))


@pytest.mark.parametrize("side", [5_001, 12_000, 60_000, 2_000_000_000])
def test_a_bomb_is_refused_by_its_header_without_decoding(side: int) -> None:
    bomb = declared_png(side, side)
    started_at = time.perf_counter()
    with pytest.raises(TooLargeError, match="pixels"):
        Limits().check_image(bomb)
    assert time.perf_counter() - started_at < 0.5


def test_an_image_of_exactly_the_limit_passes_and_one_more_row_does_not() -> None:
    limits = Limits(max_image_pixels=40 * 30)
    limits.check_image(picture(0, size=(40, 30)))
    with pytest.raises(TooLargeError, match=r"at most 1200 pixels, found 40x31"):
        limits.check_image(picture(0, size=(40, 31)))


def test_bytes_are_counted() -> None:
    data = picture(0)
    Limits(max_image_bytes=len(data)).check_image(data)
    with pytest.raises(TooLargeError, match=rf"at most {len(data) - 1} bytes, found {len(data)}"):
        Limits(max_image_bytes=len(data) - 1).check_image(data)


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"<html>"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(BadImageError, match="expected a JPEG, PNG, WebP or BMP image, found"):
        Limits().check_image(data)


@pytest.mark.parametrize(
    ("image_format", "name"),
    [("GIF", "GIF"), ("TIFF", "TIFF"), ("PPM", "netpbm"), ("ICO", "icon"), ("JPEG2000", "JPEG 2000"), ("AVIF", "HEIC or AVIF")],
)
def test_other_formats_that_pillow_knows_are_refused_by_name(image_format: str, name: str) -> None:
    content = io.BytesIO()
    Image.new("RGB", (16, 16)).save(content, image_format)
    with pytest.raises(UnsupportedFormatError, match=f"expected a JPEG, PNG, WebP or BMP image, found {name}; convert it first"):
        Limits().check_image(content.getvalue())


def test_a_batch_has_at_least_one_image_and_at_most_the_limit() -> None:
    limits = Limits(max_batch=2)
    limits.check_batch(2)
    with pytest.raises(BadImageError, match="at least one image"):
        limits.check_batch(0)
    with pytest.raises(TooLargeError, match="at most 2 images in a request, found 3"):
        limits.check_batch(3)


def test_the_documentation_has_every_limit_and_every_metric() -> None:
    text = (Path(__file__).parents[2] / "docs/endpoint.md").read_text(encoding="utf-8")
    for limit in fields(Limits):
        assert f"| `--{limit.name.replace('_', '-')}` | {limit.default:,} | {limit.metadata['meaning']} |" in text
    for metric in METRICS.values():
        if metric.name.startswith("stablerep_endpoint_"):
            labels = f"{{{','.join(metric.labels)}}}" if metric.labels else ""
            assert f"| `{metric.name.removeprefix('stablerep_endpoint_')}{labels}` |" in text
