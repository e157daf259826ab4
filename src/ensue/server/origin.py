"""Which pages may open a WebSocket: browsers send cookies along, whichever site the page is of.

Decides what counts as the same site. Invariant: a connection that a browser opened for a page of a foreign site,
which is not among `cors_origins`, is refused before anything is done for it.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from ensue.server.answers import Refusal
from ensue.server.options import ServerOptions


def check_origin(connection: HTTPConnection, options: ServerOptions) -> None:
    """Raises `Refusal` (403) for a page of a foreign site. Clients that are no browsers send no Origin and pass."""
    origin = connection.headers.get("origin")
    if origin is None or "*" in options.cors_origins or origin in options.cors_origins:
        return
    if urlsplit(origin).netloc.lower() != connection.headers.get("host", "").lower():
        text = f"Pages of {origin} may not connect; the app lists those that may in cors_origins."
        raise Refusal(403, "origin_not_allowed", text)
