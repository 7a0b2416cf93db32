"""`stablerep dashboard`: the page of `stablerep.report.overview`, written to a file, or served on loopback and always up to date.

The server answers two paths and binds 127.0.0.1 only. It refuses other host names, so that no page of another site can read it, and its
content security policy lets nothing be loaded, from anywhere.
"""

import base64
import hashlib
import logging
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from stablerep.errors import PortInUseError, StablerepError
from stablerep.report.overview import STYLE, overview_html
from stablerep.report.page import page
from stablerep.stages.overview import look
from stablerep.store import Store

log = logging.getLogger("stablerep")

LOOPBACK = "127.0.0.1"
_SCRIPT = """
const main = document.querySelector("main"), stamp = /<time>.*?<[/]time>/;
let shown = "";
setInterval(async () => {
  try {
    const answer = await fetch("live");
    if (!answer.ok) return;
    const text = await answer.text();
    if (text.replace(stamp, "") === shown.replace(stamp, "")) main.querySelector("time").outerHTML = text.match(stamp)[0];
    else main.innerHTML = text;
    shown = text;
  } catch (error) { /* the server has ended: what was seen last stays */ }
}, 2000);
"""
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    f"script-src 'sha256-{base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()}'"
)


def run(
    recipe: str, overrides: str, store: str, *, out: str = "", port: int = 0, on_ready: Callable[[str], None] = lambda url: None
) -> None:
    """Write the page, or serve it until Ctrl-C.

    Args:
        recipe: name of a recipe, empty for the run that was worked on last.
        overrides: `section.key=value` words.
        store: URI of the store.
        out: file to write; empty serves it.
        port: on loopback, 0 for any free one.
        on_ready: told the URL once the page is served.

    Raises:
        PortInUseError: the port is taken.
    """
    opened = Store(store)

    def body() -> str:
        return overview_html(look(opened, recipe, overrides))

    if out:
        Path(out).write_text(whole_page(body()), encoding="utf-8")
        return
    server = open_server(body, port)
    on_ready(f"http://{LOOPBACK}:{server.server_port}/")
    with server:
        server.serve_forever()


def whole_page(body: str, script: str = "") -> str:
    """One file with everything in it."""
    tail = f"<script>{script}</script>" if script else ""
    return page("stablerep", f"<style>{STYLE}</style><main>{body}</main>{tail}")


def open_server(body: Callable[[], str], port: int = 0) -> ThreadingHTTPServer:
    """The server, not yet serving.

    Args:
        body: makes the page's body as things are now.
        port: 0 for any free one.

    Raises:
        PortInUseError: the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        server_version = "stablerep"
        sys_version = ""

        def do_GET(self) -> None:
            host = self.headers.get("Host", "").rpartition(":")[0]
            if host not in (LOOPBACK, "localhost"):
                self._answer(403, "this page is for this machine only")
            elif self.path == "/":
                self._made(lambda: whole_page(body(), _SCRIPT))
            elif self.path == "/live":
                self._made(body)
            else:
                self._answer(404, "there is / and /live")

        def _made(self, make: Callable[[], str]) -> None:
            try:
                self._answer(200, make())
            except StablerepError as error:
                self._answer(503, f"{type(error).__name__}: {error}", "text/plain")

        def _answer(self, code: int, text: str, kind: str = "text/html") -> None:
            data = text.encode()
            self.send_response(code)
            self.send_header("Content-Type", f"{kind if code == 200 else 'text/plain'}; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Content-Security-Policy", _POLICY)
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """A look at the page is no event."""

    try:
        return ThreadingHTTPServer((LOOPBACK, port), Handler)
    except OSError as error:
        raise PortInUseError(f"port {port} on {LOOPBACK} is taken; pass --port with a free one, or 0 for any") from error
