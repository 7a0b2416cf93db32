"""One look for every page: a title, a body, a style sheet inside, light and dark, nothing loaded from elsewhere.

Captions and any other text from outside must go through `escape` before they reach a page. Pictures are embedded as data URIs so that
a page is one file, as the Kubeflow UI needs it.
"""

import base64
import html
from collections.abc import Sequence

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5d6778; --line: #d9dee7; --paper: #ffffff; --tint: #f4f6fa; --accent: #2457c5; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --soft: #9aa4b5; --line: #333b49; --paper: #151a22; --tint: #1d2430; --accent: #8fb1ff; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 28px 24px 64px; background: var(--paper); color: var(--ink);
       font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 36px 0 10px; } h3, h4 { font-size: 15px; margin: 18px 0 6px; }
p { max-width: 78ch; } .soft, figcaption, caption { color: var(--soft); }
code, pre { font: 13px/1.45 ui-monospace, Menlo, Consolas, monospace; }
pre { background: var(--tint); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; overflow-x: auto; }
table { border-collapse: collapse; margin: 8px 0 16px; }
th, td { padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line); text-align: left; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; } tr.best td { font-weight: 600; color: var(--accent); }
figure { margin: 0 0 14px; } img { max-width: 100%; } svg { max-width: 100%; height: auto; }
.groups { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 14px 22px; }
.groups img { image-rendering: pixelated; border-radius: 4px; margin: 0 3px 3px 0; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 16px 0; }
.tile { background: var(--tint); border: 1px solid var(--line); border-radius: 10px; padding: 10px 16px; min-width: 130px; }
.tile b { display: block; font-size: 22px; } .tile span { color: var(--soft); font-size: 13px; }
.plot { background: #ffffff; border-radius: 8px; padding: 6px; }
"""


def escape(text: object) -> str:
    """Text made safe for HTML bodies and attributes."""
    return html.escape(str(text), quote=True)


def page(title: str, body: str) -> str:
    """A whole HTML document around `body` (already HTML)."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def body_of(document: str) -> str:
    """The body of a page made by `page`, its headings one level down, to become a section of another page."""
    body = document.partition("<body>")[2].rpartition("</body>")[0]
    for level in (3, 2, 1):
        body = body.replace(f"<h{level}", f"<h{level + 1}").replace(f"</h{level}>", f"</h{level + 1}>")
    return body


def table(header: Sequence[str], rows: Sequence[Sequence[object]], best_row: int = -1) -> str:
    """An HTML table; every cell is escaped, cells that are numbers or start with a digit are right-aligned.

    Args:
        header: column titles.
        rows: cells.
        best_row: index of the row to emphasise, -1 for none.
    """
    columns = [_is_number(row) for row in zip(*rows, strict=True)] if rows else [False] * len(header)
    classes = [' class="number"' if numeric else "" for numeric in columns]
    head = "".join(f"<th{c}>{escape(cell)}</th>" for c, cell in zip(classes, header, strict=True))
    lines = [
        ('<tr class="best">' if i == best_row else "<tr>")
        + "".join(f"<td{c}>{escape(cell)}</td>" for c, cell in zip(classes, row, strict=True))
        + "</tr>"
        for i, row in enumerate(rows)
    ]
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def image_tag(data: bytes, mime: str, width_px: int, alt: str) -> str:
    """An `<img>` with the bytes inside."""
    encoded = base64.b64encode(data).decode("ascii")
    return f'<img width="{width_px}" alt="{escape(alt)}" src="data:{mime};base64,{encoded}">'


def _is_number(cells: Sequence[object]) -> bool:
    return all(isinstance(cell, (int, float)) or str(cell)[:1].isdigit() for cell in cells)
