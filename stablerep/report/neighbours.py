"""The page of a search: what was asked, and the groups nearest to it, nearest first, the image that was found in each marked.

Captions come from outside and are escaped; thumbnails are inside the page.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stablerep.report.page import escape, image_tag, page

_STYLE = """<style>
.found { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); gap: 16px; margin-top: 20px; }
.card { background: var(--tint); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; overflow-wrap: anywhere; }
.card header { display: flex; align-items: baseline; gap: 10px; margin-bottom: 8px; }
.card header b { font-size: 18px; overflow-wrap: normal; }
.card header span { color: var(--soft); font-size: 13px; margin-left: auto; white-space: nowrap; }
.card code { display: block; color: var(--soft); font-size: 11px; margin-top: 6px; }
.meter { height: 4px; border-radius: 2px; background: var(--line); margin-bottom: 10px; } .meter i { display: block; height: 4px;
  border-radius: 2px; background: var(--accent); }
.card img { image-rendering: pixelated; border-radius: 4px; margin: 0 4px 4px 0; } .card img.hit { outline: 3px solid var(--accent); }
.asked { display: flex; align-items: center; gap: 16px; font-size: 22px; margin: 14px 0; } .asked img { image-rendering: pixelated;
  border-radius: 6px; }
</style>"""


@dataclass(frozen=True)
class Thumbnail:
    """An image as it is shown: bytes, MIME type and width in pixels; `is_hit` where it is the one that was found."""

    data: bytes
    mime: str
    width_px: int
    is_hit: bool = False


@dataclass(frozen=True)
class FoundGroup:
    """A group near to what was asked for; `similarity` is the largest cosine of its images."""

    caption: str
    similarity: float
    thumbnails: tuple[Thumbnail, ...]
    group_id: str


def neighbours_html(question: str, picture: Thumbnail | None, facts: Mapping[str, str], found: Sequence[FoundGroup]) -> str:
    """The page of a search.

    Args:
        question: the text, or the name of the image file.
        picture: the image, where one was asked about.
        facts: label and value of each tile.
        found: nearest first.
    """
    tiles = "".join(f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for name, value in facts.items())
    shown = image_tag(picture.data, picture.mime, picture.width_px, question) if picture else ""
    cards = "".join(_card(place, group) for place, group in enumerate(found, 1))
    title = f"Nearest groups: {question}"
    head = f'<h1>Nearest groups</h1><div class="asked">{shown}<span>{escape(question)}</span></div><div class="tiles">{tiles}</div>'
    return page(title, f'{_STYLE}{head}<div class="found">{cards}</div>')


def _card(place: int, group: FoundGroup) -> str:
    images = "".join(_image(thumbnail, group.caption) for thumbnail in group.thumbnails)
    percent = max(0.0, min(1.0, group.similarity)) * 100
    return (
        f'<article class="card"><header><b>{place}</b>{escape(group.caption)}<span>{group.similarity:.3f}</span></header>'
        f'<div class="meter"><i style="width:{percent:.1f}%"></i></div>{images}<code>{escape(group.group_id)}</code></article>'
    )


def _image(thumbnail: Thumbnail, caption: str) -> str:
    tag = image_tag(thumbnail.data, thumbnail.mime, thumbnail.width_px, caption)
    return tag.replace("<img ", '<img class="hit" ', 1) if thumbnail.is_hit else tag
