"""One attempt to deliver: a request, and what came of it.

Decides what is sent, how long it may take and how much of an answer is read. Leaves what follows from an outcome to
`schedule`. Invariants: an attempt ends within its deadline, whatever the other side does; no more than 64 KiB of an
answer are read, and nothing of it is kept; no secret is in an outcome.
"""

from __future__ import annotations

import asyncio
import email.utils
import math
from collections.abc import Mapping

import httpcore2
import httpx2

from ensue.clock import Clock
from ensue.integrations.http_out.outcome import Outcome
from ensue.integrations.http_out.transport import AddressRefused

ANSWER_BYTES_MAX = 64 * 1024
READ_SECONDS_MAX = 0.5
ERROR_CHARACTERS_MAX = 300
RETRY_AFTER_SECONDS_MAX = 86_400.0
_FAILURES = (
    httpcore2.TimeoutException,
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.UnsupportedProtocol,
    httpx2.RequestError,
    httpx2.InvalidURL,
    OSError,
)


class Poster:
    """Sends requests by a transport.

    Not by a client: that would follow redirects, keep cookies, look for proxies, and log whole URLs, which may be secret.
    """

    def __init__(self, transport: httpx2.AsyncBaseTransport, clock: Clock, *, deadline_seconds: float) -> None:
        self._transport = transport
        self._clock = clock
        self._deadline_seconds = deadline_seconds

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Outcome:
        """POST `body` as JSON. Never raises for what the other side does."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(self._deadline_seconds):
                outcome = await self._post(url, body, headers)
        except TimeoutError:
            outcome = Outcome(None, f"There was no answer within {self._deadline_seconds:g} s.")
        except AddressRefused as error:
            # How long that took would tell whether there is such a name.
            return Outcome(None, _told(error))
        except _FAILURES as error:
            outcome = Outcome(None, _told(error))
        milliseconds = round((loop.time() - began) * 1_000)
        return Outcome(outcome.status, outcome.error, outcome.retry_after_seconds, milliseconds)

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Outcome:
        given = {"content-type": "application/json", "user-agent": "ensue-http-out/1", **headers}
        answer = await self._transport.handle_async_request(httpx2.Request("POST", url, content=body, headers=given))
        try:
            await _drain(answer)
        finally:
            await answer.aclose()
        return Outcome(
            answer.status_code,
            "" if answer.is_success else _meaning(answer),
            self._retry_after(answer) if answer.status_code in (429, 503) else None,
        )

    def _retry_after(self, answer: httpx2.Response) -> float | None:
        text = answer.headers.get("retry-after", "").strip()
        try:
            seconds = float(text)
        except ValueError:
            parsed = email.utils.parsedate_tz(text)
            seconds = math.nan if parsed is None else email.utils.mktime_tz(parsed) - self._clock.now().timestamp()
        return min(max(0.0, seconds), RETRY_AFTER_SECONDS_MAX) if math.isfinite(seconds) else None


async def _drain(answer: httpx2.Response) -> None:
    """Read what is there, so that the connection can be used again; more than that closes it."""
    read = 0
    # As it comes: decompressing it would be a way to fill the memory.
    assert isinstance(answer.stream, httpx2.AsyncByteStream)
    try:
        async with asyncio.timeout(READ_SECONDS_MAX):
            async for part in answer.stream:
                read += len(part)
                if read > ANSWER_BYTES_MAX:
                    return
    except (TimeoutError, httpcore2.NetworkError, httpcore2.ProtocolError, httpx2.TransportError):
        # The status was said, and that is what counts.
        return


def _meaning(answer: httpx2.Response) -> str:
    if answer.is_redirect:
        return f"It answered {answer.status_code}: redirects are not followed; change the endpoint's URL."
    return f"It answered {answer.status_code}."


def _told(error: Exception) -> str:
    text = " ".join(str(error).split()) or "nothing more is known"
    return f"{type(error).__name__}: {text}"[:ERROR_CHARACTERS_MAX]
