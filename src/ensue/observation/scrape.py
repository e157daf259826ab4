"""Answering Prometheus: `/metrics` of a server, and the port of a worker.

Decides who may read, and the little HTTP that a scrape needs where no server runs. Leaves the page to `metrics`. Invariants:
a request is answered within seconds or dropped; with a token, nobody reads without it.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ensue.observation.metrics import Metrics

logger = logging.getLogger("ensue.observation")

READ_SECONDS: Final = 5.0
HEAD_BYTES_MAX: Final = 16 * 1024
VARIABLE: Final = "ENSUE_METRICS_TOKEN"
"""Where the commands find the token that a scrape must have."""


def may_read(token: str | None, authorization: str | None) -> bool:
    """Whether a request with this `Authorization` may read.

    >>> may_read("s3cret", "Bearer s3cret"), may_read("s3cret", None), may_read(None, None)
    (True, False, True)
    """
    if token is None:
        return True
    return hmac.compare_digest(f"Bearer {token}".encode(), (authorization or "").encode())


@asynccontextmanager
async def serve_metrics(metrics: Metrics, *, host: str, port: int, token: str | None = None) -> AsyncGenerator[int]:
    """Answer `GET /metrics` on a port of its own while entered; gives the port. Raises `OSError` if it is taken."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(READ_SECONDS):
                writer.write(await _answer(reader, metrics, token))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            logger.debug("a scrape was not answered: %r", error)
        finally:
            writer.close()

    server = await asyncio.start_server(answer, host, port, limit=HEAD_BYTES_MAX)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _answer(reader: asyncio.StreamReader, metrics: Metrics, token: str | None) -> bytes:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    method, _, rest = first.partition(" ")
    path = rest.partition(" ")[0].partition("?")[0]
    if path != "/metrics":
        return _response("404 Not Found", b"metrics are at /metrics\n")
    if method not in ("GET", "HEAD"):
        return _response("405 Method Not Allowed", b"", {"allow": "GET, HEAD"})
    if not may_read(token, headers.get("authorization")):
        return _response("401 Unauthorized", b"a bearer token is needed\n", {"www-authenticate": "Bearer"})
    body, content_type = await metrics.page(headers.get("accept", ""))
    return _response("200 OK", body, {"content-type": content_type}, shown=method == "GET")


def _response(status: str, body: bytes, headers: Mapping[str, str] | None = None, *, shown: bool = True) -> bytes:
    found = {"content-type": "text/plain; charset=utf-8", **(headers or {}), "content-length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in found.items())
    return f"HTTP/1.1 {status}\r\n{head}connection: close\r\n\r\n".encode() + (body if shown else b"")
