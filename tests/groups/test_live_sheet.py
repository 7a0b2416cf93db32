"""The contact sheet while groups are made: the newest groups, once a minute at most, and what is left at the end."""

import numpy as np

from stablerep.groups.live_sheet import NUM_GROUPS, LiveSheet
from stablerep.groups.make import encode_image
from stablerep.records import Caption
from stablerep.shards.group import ImageGroup


def _group(number: int) -> ImageGroup:
    pixels = np.random.default_rng(number).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    return ImageGroup(Caption(f"id{number}", f"caption no. {number}."), tuple(encode_image(image, "png", 90) for image in pixels), "png")


def test_it_is_written_once_a_minute_and_at_the_end() -> None:
    now, pages = [0.0], list[str]()
    sheet = LiveSheet("Groups of lane 3", pages.append, clock=lambda: now[0])
    written: list[int] = []
    for number in range(14):
        now[0] += 10
        sheet.add(_group(number))
        written.append(len(pages))
    assert written == [0] * 5 + [1] * 6 + [2] * 3
    sheet.close()
    sheet.close()
    assert len(pages) == 3, "there was nothing new after the last page"
    assert "Groups of lane 3" in pages[0]


def test_it_shows_the_newest_groups_first_and_counts_all() -> None:
    pages = list[str]()
    sheet = LiveSheet("t", pages.append)
    sheet.close()
    assert pages == []
    for number in range(NUM_GROUPS + 3):
        sheet.add(_group(number))
    sheet.close()
    (page,) = pages
    places = [page.find(f"<figcaption>caption no. {number}.<") for number in range(NUM_GROUPS + 3)]
    assert places[:3] == [-1] * 3
    assert sorted(places[3:], reverse=True) == places[3:]
    assert f"<b>{NUM_GROUPS + 3}</b><span>groups of this attempt</span>" in page
    assert f"<b>{2 * (NUM_GROUPS + 3)}</b><span>images</span>" in page
