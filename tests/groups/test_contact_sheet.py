"""The page people look at: escaped, self-contained, small, with small images enlarged."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from stablerep.groups.contact_sheet import MAX_PAGE_BYTES, contact_sheet_html
from stablerep.groups.make import encode_image
from stablerep.records import Caption
from stablerep.shards.group import ImageGroup


def _group(number: int, text: str, size_px: int = 32, num_images: int = 3, image_format: str = "png") -> ImageGroup:
    pixels = np.random.default_rng(number).integers(0, 256, (num_images, size_px, size_px, 3)).astype(np.uint8)
    images = tuple(encode_image(image, image_format, 90) for image in pixels)
    return ImageGroup(Caption(f"caption{number}", text), images, image_format)


class _Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_captions_and_facts_are_escaped() -> None:
    evil = '"><script>alert(1)</script><img src=x onerror=alert(2)> & more'
    parsed = _Tags(contact_sheet_html([_group(0, evil)], title=evil, facts={evil: "7", "generator": evil}))
    assert "script" not in [tag for tag, _ in parsed.tags]
    images = [attributes for tag, attributes in parsed.tags if tag == "img"]
    assert len(images) == 3
    assert all("onerror" not in attributes for attributes in images)
    assert images[0]["alt"] == f"image 0: {evil}"
    assert parsed.texts.count(evil) == 5  # title twice, label, value, caption


def test_images_are_shown_side_by_side_in_order_as_they_are_stored() -> None:
    groups = [_group(0, "red"), _group(1, "blue")]
    parsed = _Tags(contact_sheet_html(groups, title="t", facts={}))
    sources = [str(attributes["src"]) for tag, attributes in parsed.tags if tag == "img"]
    stored = [image for group in groups for image in group.images]
    assert [base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in sources] == stored
    assert [text for text in parsed.texts if text in ("red", "blue")] == ["red", "blue"]


def test_small_images_are_enlarged_by_whole_factors() -> None:
    shown = {}
    for size_px in (8, 28, 32, 64, 100):
        page = contact_sheet_html([_group(0, "x", size_px)], title="t", facts={})
        shown[size_px] = {attributes["width"] for tag, attributes in _Tags(page).tags if tag == "img"}
        assert "image-rendering: pixelated" in page
    assert shown == {8: {"64"}, 28: {"56"}, 32: {"64"}, 64: {"64"}, 100: {"100"}}


def test_large_images_are_reduced() -> None:
    group = _group(0, "x", 256, image_format="webp")
    parsed = _Tags(contact_sheet_html([group], title="t", facts={}))
    attributes = next(attributes for tag, attributes in parsed.tags if tag == "img")
    assert attributes["width"] == "128"
    data = base64.b64decode(str(attributes["src"]).removeprefix("data:image/jpeg;base64,"))
    assert Image.open(io.BytesIO(data)).size == (128, 128)


def test_ten_images_fit_in_a_row() -> None:
    parsed = _Tags(contact_sheet_html([_group(0, "x", 256, 10, "jpeg")], title="t", facts={}))
    assert {attributes["width"] for tag, attributes in parsed.tags if tag == "img"} == {"100"}


def test_the_page_stays_below_a_megabyte_and_says_what_is_missing() -> None:
    page = contact_sheet_html((_group(number, f"caption {number}", 256, 10, "jpeg") for number in range(20)), title="t", facts={})
    shown = len(re.findall("<figure>", page))
    assert 5 < shown < 20
    assert MAX_PAGE_BYTES / 2 < len(page) < 1 << 20
    assert f"{20 - shown} more groups are left out" in page
    assert "left out" not in contact_sheet_html([_group(0, "x")], title="t", facts={})


def test_nothing_is_loaded_from_elsewhere() -> None:
    page = contact_sheet_html([_group(0, "x")], title="t", facts={"captions": "1"})
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:)[a-z/]""", page)
    assert '<div class="tile"><b>1</b><span>captions</span></div>' in page
