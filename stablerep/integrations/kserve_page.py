"""`GET /`: the web page for browsers, KServe's sign of life for everybody else."""

from collections.abc import Iterable
from typing import Protocol

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from stablerep.endpoint.web_page import web_page


class _Registry(Protocol):
    def get_models(self) -> Iterable[str]: ...


def page_routes(registry: _Registry) -> APIRouter:
    """A router to include before KServe's, whose `/` would answer first.

    Args:
        registry: of the server; its first model is what the page asks.
    """
    router = APIRouter()

    async def page(request: Request) -> Response:
        """The page where HTML is asked for, else {"status": "alive"}."""
        name = next(iter(registry.get_models()), "")
        if not name or "text/html" not in request.headers.get("accept", ""):
            return JSONResponse({"status": "alive"}, headers={"Vary": "Accept"})
        document = web_page(name)
        return HTMLResponse(document.content, headers=document.headers | {"Vary": "Accept"})

    router.add_api_route("/", page, methods=["GET"], include_in_schema=False, response_model=None)
    return router
