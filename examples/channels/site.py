"""What is served: the app's own routes, and beside them the page.

Decides the page's paths and what it may load. Leaves everything else, the life of the app included, to `app.asgi()`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ensue import App
from examples.channels.login import Login

FOLDER: Final = Path(__file__).parent / "page"
FILES: Final = {"/": "index.html", "/chat.js": "chat.js", "/connection.js": "connection.js"}
HEADERS: Final = {
    "cache-control": "no-cache",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
}


def site(app: App, login: Login, **options: Any) -> ASGIApp:
    """`app` and its page as one ASGI application; `options` are those of `app.asgi()`."""
    service = app.asgi(authenticate=login.authenticate, **options)

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        name = FILES.get(scope["path"]) if scope["type"] == "http" else None
        await (service if name is None else _page(Request(scope), name))(scope, receive, send)

    return serve


def _page(request: Request, name: str) -> Response:
    if request.method not in ("GET", "HEAD"):
        return Response(status_code=405, headers={"allow": "GET, HEAD"})
    return FileResponse(FOLDER / name, headers=HEADERS)
