"""What a request or a WebSocket shows of who sent it: a bearer token, a cookie, or a ticket.

Decides where these are looked for and when a cookie counts. Leaves what they are worth to sessions. Invariant: a
cookie, which a browser sends along whichever page asks, counts only if the browser says that the page is of this site
or of one that the app named; everything else that is shown, the sender must have known.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from ensue.errors import Rejected

ACCESS_COOKIE = "__Host-ensue-access"
REFRESH_COOKIE = "__Secure-ensue-refresh"
SCOPE = "ensue.accounts"
"""The place in a connection's scope where its `Presence` is kept."""

Kind = Literal["bearer", "cookie", "ticket"]


@dataclass(frozen=True, slots=True)
class Shown:
    """What was shown, and how."""

    kind: Kind
    text: str = field(repr=False)


def shown_by(connection: Any, *, cookies: bool, origins: Collection[str]) -> Shown | None:
    """What the connection shows; None if nothing that counts. Raises `Rejected` for a cookie of a foreign page."""
    scheme, _, bearer = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and bearer.strip():
        return Shown("bearer", bearer.strip())
    if connection.scope["type"] == "websocket" and (ticket := connection.query_params.get("ticket", "")):
        return Shown("ticket", ticket)
    cookie = connection.cookies.get(ACCESS_COOKIE, "") if cookies else ""
    # Without an Origin it is no browser's POST and no browser's WebSocket, so nobody was tricked, and nobody is known.
    return Shown("cookie", cookie) if cookie and own_page(connection, origins) else None


def own_page(connection: Any, origins: Collection[str]) -> bool:
    """Whether a page of this site, or of one in `origins`, asks; False if no page does.

    Raises `Rejected("origin_not_allowed")` for a page of another site.
    """
    origin: str | None = connection.headers.get("origin")
    if origin is None:
        return False
    place = urlsplit(origin).netloc.lower()
    if origin in origins or (place and place == connection.headers.get("host", "").lower()):
        return True
    raise Rejected("origin_not_allowed", f"Pages of {origin[:100]} may not act for the user who is signed in here.")


def address_of(connection: Any) -> str:
    """The network address that a connection comes from: of IPv6 the /64, which one household has to itself.

    Behind a proxy it is the proxy's, unless the server was told to trust that (`uvicorn --proxy-headers`).
    """
    client = getattr(connection, "client", None)
    host = str(getattr(client, "host", "") or "")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host[:64]
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(getattr(address, "ipv4_mapped", None) or address)


def set_cookie(name: str, value: str, *, path: str, seconds: int) -> str:
    """A `Set-Cookie` that scripts can't read and other sites' pages don't send; with 0 seconds it is taken back."""
    return f"{name}={value}; Path={path}; Max-Age={seconds}; HttpOnly; Secure; SameSite=Strict"
