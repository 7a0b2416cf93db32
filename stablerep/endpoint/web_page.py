"""The page that a person sees at `/`: drop an image, see scores, neighbours, the embedding, and the line for a shell.

One file of HTML with its style and script inside, so that it needs no other address; the content security policy names their digests and
allows nothing else. The page asks the same routes as every other client.
"""

import base64
import hashlib
import html
from importlib.resources import files
from typing import NamedTuple

_FOLDER = files("stablerep.endpoint") / "page"


class WebPage(NamedTuple):
    """The document and the headers it is sent with."""

    content: str
    headers: dict[str, str]


def web_page(name: str) -> WebPage:
    """The page of one served model.

    Args:
        name: of the model in the paths.
    """
    style, script, document = ((_FOLDER / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js", "html"))
    content = document.replace("{{model}}", html.escape(name)).replace("{{style}}", style).replace("{{script}}", script)
    policy = (
        f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; img-src blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return WebPage(content, headers)


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"
