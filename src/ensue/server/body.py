"""Reading a request's body, and never more of it than is allowed.

Decides when a body is refused, and how much of a refused one is still taken off the network. Invariant: at most
`bytes_max` and one more chunk of a body are ever held in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from starlette.requests import ClientDisconnect, Request

from ensue.server.answers import Refusal

READ_SECONDS: Final = 20.0
"""What a body of any size may take to come, and besides a second for every so many bytes of the limit."""
READ_BYTES_PER_SECOND: Final = 64 * 1024
DISCARDED_BYTES_MAX: Final = 16 * 1024 * 1024
DISCARD_SECONDS_MAX: Final = 5.0


async def read_body(request: Request, *, bytes_max: int) -> bytes:
    """The body. Raises what `read_bytes` raises, and `Refusal` (415) if it is not said to be JSON as it stands."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # Also for an empty body: a page of another site can send every other type without being asked first (CORS).
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        found = f"is {kind}" if kind else "has no Content-Type"
        text = f"The request {found}; send JSON with Content-Type: application/json."
        raise Refusal(415, "unsupported_media_type", text)
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise Refusal(415, "unsupported_media_type", f"The body has Content-Encoding {coding}; send it as it is.")
    return await read_bytes(request, bytes_max=bytes_max)


async def read_bytes(request: Request, *, bytes_max: int, limit: str = "body_limit_bytes") -> bytes:
    """The body, whatever it is. Raises `Refusal`: 413, which names `limit`, as soon as it is known to be too large; 408 if
    it takes its time, as a client that sends a byte now and then would hold a connection for ever.
    """
    chunks = request.stream()
    if _declared_length(request) > bytes_max:
        # Who asks first whether to send at all has sent nothing, and is answered instead.
        if request.headers.get("expect", "").lower() != "100-continue":
            await _discard(chunks)
        raise _too_large(bytes_max, limit)
    found = bytearray()
    try:
        async with asyncio.timeout(READ_SECONDS + bytes_max / READ_BYTES_PER_SECOND):
            async for chunk in chunks:
                found += chunk
                if len(found) > bytes_max:
                    break
    except TimeoutError:
        raise Refusal(408, "too_slow", "The body did not come in time.") from None
    except ClientDisconnect:
        raise Refusal(400, "disconnected", "The client left before its body was complete.") from None
    if len(found) > bytes_max:
        found.clear()
        await _discard(chunks)
        raise _too_large(bytes_max, limit)
    return bytes(found)


async def _discard(chunks: AsyncIterator[bytes]) -> None:
    """Take what a client is still sending: closing the connection under it would lose it the answer."""
    seen = 0
    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(DISCARD_SECONDS_MAX):
            async for chunk in chunks:
                seen += len(chunk)
                if seen > DISCARDED_BYTES_MAX:
                    return


def _declared_length(request: Request) -> int:
    text = request.headers.get("content-length", "")
    # A length of twenty digits needs no arithmetic to be too large, and Python refuses to parse thousands of them.
    return int(text[:20]) if text.isascii() and text.isdigit() else 0


def _too_large(bytes_max: int, limit: str) -> Refusal:
    text = f"The body is larger than {bytes_max} bytes. Send less, or let the app raise {limit}."
    return Refusal(413, "too_large", text)
