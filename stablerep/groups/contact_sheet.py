"""The contact sheet: what people look at before anything is trained on the groups.

One self-contained page: facts in tiles, then groups, the images of a caption side by side. Captions come from outside and are escaped.
Small images are shown enlarged, large ones reduced, and the page stays under a megabyte: it travels as a pipeline artifact.
"""

import io
from collections.abc import Iterable, Mapping

from PIL import Image

from stablerep.report import escape, image_tag, page
from stablerep.shards.group import ImageGroup

MIN_SHOWN_PX = 64
MAX_SHOWN_PX = 128
PAGE_WIDTH_PX = 1030
MAX_PAGE_BYTES = 900_000
MAX_TILE_LETTERS = 18
GAP_PX = 3


def contact_sheet_html(groups: Iterable[ImageGroup], *, title: str, facts: Mapping[str, str]) -> str:
    """A page with the images of some groups.

    Args:
        groups: in the order to show; those that do not fit in a megabyte are left out, and the page says so.
        title: heading.
        facts: label and value of each tile.
    """
    figures: list[str] = []
    size_bytes = width_px = num_left_out = 0
    for group in groups:
        if num_left_out:
            num_left_out += 1
            continue
        figure, figure_px = group_figure(group)
        if figures and size_bytes + len(figure) > MAX_PAGE_BYTES:
            num_left_out = 1
            continue
        figures.append(figure)
        size_bytes, width_px = size_bytes + len(figure), max(width_px, figure_px)
    columns = f"grid-template-columns: repeat(auto-fill, minmax(min(100%, {width_px}px), 1fr)); overflow-wrap: anywhere"
    rest = f'<p class="soft">{num_left_out} more groups are left out to keep this page small.</p>' if num_left_out else ""
    return page(
        title,
        f'<h1>{escape(title)}</h1><p class="soft">Each row was made from the caption below it; its images are positives of each other.</p>'
        f'{_facts(facts)}<div class="groups" style="{columns}">{"".join(figures)}</div>{rest}',
    )


def _facts(facts: Mapping[str, str]) -> str:
    """Short facts as tiles, longer ones as lines below them."""
    tiles = [f'<div class="tile"><b>{escape(v)}</b><span>{escape(k)}</span></div>' for k, v in facts.items() if len(v) <= MAX_TILE_LETTERS]
    lines = [f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in facts.items() if len(v) > MAX_TILE_LETTERS]
    return f'<div class="tiles">{"".join(tiles)}</div>' + (f'<table class="soft">{"".join(lines)}</table>' if lines else "")


def group_figure(group: ImageGroup, note: str = "") -> tuple[str, int]:
    """The HTML of one group and the width of its images side by side.

    Args:
        group: whose images stay as they are where they are small.
        note: what to say before the caption.
    """
    tags: list[str] = []
    width_px, room_px = 0, PAGE_WIDTH_PX // len(group.images) - GAP_PX
    for number, data in enumerate(group.images):
        shown, mime, shown_px = shown_image(data, group.image_format, min(MAX_SHOWN_PX, max(MIN_SHOWN_PX, room_px)))
        tags.append(image_tag(shown, mime, shown_px, f"image {number}: {group.caption.text}"))
        width_px += shown_px + GAP_PX
    noted = f"<b>{escape(note)}</b> " if note else ""
    return f"<figure><div>{''.join(tags)}</div><figcaption>{noted}{escape(group.caption.text)}</figcaption></figure>", width_px


def shown_image(data: bytes, image_format: str, max_px: int) -> tuple[bytes, str, int]:
    """Bytes, MIME type and width in pixels at which an image is shown: small ones as they are, large ones reduced."""
    with Image.open(io.BytesIO(data)) as image:
        if image.width <= max_px:
            factor = max(1, MIN_SHOWN_PX // image.width)  # whole factors keep pixels square
            return data, f"image/{image_format}", image.width * factor
        reduced = image.convert("RGB")
        reduced.thumbnail((max_px, max_px), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        reduced.save(file, format="jpeg", quality=80)
        return file.getvalue(), "image/jpeg", reduced.width
