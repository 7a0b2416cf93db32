import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from stablerep.batches import decode
from stablerep.batches.decode import decode_image
from stablerep.errors import DataError

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (12, 17, 3), dtype=np.uint8)


def encoded(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def chw(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)


def test_png_is_read_exactly() -> None:
    image_3HW = decode_image(encoded(Image.fromarray(PIXELS)))
    assert image_3HW.dtype == torch.uint8
    assert image_3HW.is_contiguous()
    assert torch.equal(image_3HW, chw(PIXELS))


@pytest.mark.parametrize(("image_format", "options"), [("JPEG", {"quality": 95}), ("WEBP", {"quality": 95}), ("WEBP", {"lossless": True})])
def test_lossy_formats_are_read(image_format: str, options: dict[str, object]) -> None:
    smooth = np.stack([np.tile(np.arange(0, 160, 10, dtype=np.uint8), (16, 1))] * 3, axis=2)
    found = decode_image(encoded(Image.fromarray(smooth), image_format, **options))
    assert float((found.float() - chw(smooth).float()).abs().max()) <= 4


def test_grey_becomes_three_equal_channels() -> None:
    found = decode_image(encoded(Image.fromarray(PIXELS[..., 0])))
    assert torch.equal(found, chw(PIXELS[..., :1]).expand(3, -1, -1))


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    deep = PIXELS[..., 0].astype(np.uint16) * 257
    found = decode_image(encoded(Image.fromarray(deep)))
    assert torch.equal(found, chw(PIXELS[..., :1]).expand(3, -1, -1))


def test_palette_and_one_bit_images() -> None:
    palette = Image.fromarray(PIXELS).quantize(256)
    assert torch.equal(decode_image(encoded(palette)), chw(np.asarray(palette.convert("RGB"))))
    bits = Image.fromarray(PIXELS[..., 0] > 127)
    assert set(decode_image(encoded(bits)).unique().tolist()) == {0, 255}


def test_cmyk_jpeg_becomes_rgb() -> None:
    found = decode_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    red, green, blue = (int(value) for value in found[:, 4, 4])
    assert red > 200
    assert max(green, blue) < 60


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_white(mode: str) -> None:
    clear = Image.new(mode, (4, 4), (0,) * len(mode))
    assert decode_image(encoded(clear)).unique().tolist() == [255]
    half = Image.new("RGBA", (4, 4), (100, 0, 0, 128))
    assert decode_image(encoded(half))[:, 0, 0].tolist() == pytest.approx([177, 127, 127], abs=1)


def test_transparent_palette_is_laid_over_white() -> None:
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30] + [0] * 765)
    assert decode_image(encoded(palette, transparency=0)).unique().tolist() == [255]


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to show
    plain = decode_image(encoded(Image.fromarray(PIXELS)))
    turned = decode_image(encoded(Image.fromarray(PIXELS), exif=exif))
    assert torch.equal(turned, torch.rot90(plain, -1, dims=(1, 2)))


@pytest.mark.parametrize("size", [(12, 17), (17, 12), (64, 33), (9, 9), (8, 200)])
@pytest.mark.parametrize("size_px", [8, 9, 20])
def test_resize_and_centre_crop_are_torchvisions(size: tuple[int, int], size_px: int) -> None:
    image = Image.fromarray(RANDOM.integers(0, 256, (*size, 3), dtype=np.uint8))
    expected = v2.functional.center_crop(v2.functional.resize(image, [size_px], v2.InterpolationMode.BICUBIC), [size_px, size_px])
    assert torch.equal(decode_image(encoded(image), size_px), chw(np.asarray(expected)))


def test_right_size_is_left_alone() -> None:
    square = PIXELS[:, :12]
    assert torch.equal(decode_image(encoded(Image.fromarray(square)), 12), chw(square))


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    found = decode_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert found[:, 0, 0].tolist() == [255, 0, 0]


def test_no_bytes_are_named() -> None:
    with pytest.raises(DataError, match=r"expected the bytes of an image file, found 0 bytes"):
        decode_image(b"")


@pytest.mark.parametrize("data", [b"not an image at all", b"<html></html>", b"\x00" * 100, b"\xff\xd8\xff\xe0" + b"junk" * 20])
def test_other_bytes_are_refused_with_their_beginning(data: bytes) -> None:
    with pytest.raises(DataError, match=rf"cannot decode an image of {len(data)} bytes starting with b'.*': .+"):
        decode_image(data)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
def test_every_truncation_is_refused(image_format: str) -> None:
    data = encoded(Image.fromarray(RANDOM.integers(0, 256, (40, 40, 3), dtype=np.uint8)), image_format)
    for size in (1, 10, 60, len(data) // 2, int(len(data) * 0.9)):
        with pytest.raises(DataError, match="cannot decode an image"):
            decode_image(data[:size])


def test_damaged_png_is_refused_with_the_reason() -> None:
    data = bytearray(encoded(Image.fromarray(PIXELS)))
    data[60] ^= 0xFF
    with pytest.raises(DataError, match=r"cannot decode an image of \d+ bytes starting with .*: broken "):
        decode_image(bytes(data))


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MAX_PIXELS", 100)
    with pytest.raises(DataError, match=r"cannot decode an image of 17x12: expected at most 100 pixels"):
        decode_image(encoded(Image.fromarray(PIXELS)))


def test_a_decompression_bomb_is_a_data_error() -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    with pytest.raises(DataError, match="cannot decode an image"):
        decode_image(bomb)
