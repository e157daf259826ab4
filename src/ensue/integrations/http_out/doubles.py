"""Receivers of webhooks for an app's own tests, without a network.

Decides nothing about deliveries: all but the connection runs as in production, signatures included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2
import msgspec


@dataclass(frozen=True, slots=True)
class Received:
    """One request: the headers, and the body as it was signed."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes

    def json(self) -> Any:
        """The message: `{"type": …, "timestamp": …, "data": …}`."""
        return msgspec.json.decode(self.body)


class Receivers:
    """Takes what is sent to any URL: `AppHarness(app, clients={"hooks.http": receivers.transport})`.

    >>> receivers = Receivers()
    >>> receivers.answer("https://shop.example/hook", 500)
    """

    def __init__(self) -> None:
        self.received: list[Received] = []
        self._answers: dict[str, httpx2.Response] = {}
        self.transport = httpx2.MockTransport(self._take)

    def answer(self, url: str, status: int, *, headers: Mapping[str, str] | None = None) -> None:
        """What `url` answers from now on; 204 without it."""
        self._answers[url] = httpx2.Response(status, headers=dict(headers or {}))

    def of(self, url: str) -> list[Received]:
        """What was sent to `url`, in order."""
        return [one for one in self.received if one.url == url]

    def _take(self, request: httpx2.Request) -> httpx2.Response:
        self.received.append(Received(str(request.url), dict(request.headers), request.content))
        known = self._answers.get(str(request.url))
        return httpx2.Response(204) if known is None else httpx2.Response(known.status_code, headers=known.headers)
