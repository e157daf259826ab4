"""Webhooks over HTTP: raw bytes in, 2xx once what they mean is committed.

Decides the order: which endpoint, whether this address must wait, how large, then verified, then handled. Leaves what a
message means to the inbox. Invariants: nothing is parsed before it is verified; who can't be verified learns nothing
but that; a repeat is answered as if it were the first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from ensue.clock import Clock, SystemClock
from ensue.errors import Rejected
from ensue.integrations.inbound.handling import KNOWN, Failed
from ensue.integrations.inbound.identify import MALFORMED
from ensue.server.answers import ErrorAnswer, Refusal
from ensue.server.body import read_bytes

if TYPE_CHECKING:
    from ensue.integrations.inbound.inbox import Inbox

ADDRESSES_MAX: Final = 10_000
MINUTE_SECONDS: Final = 60.0

_PREFIX: Final = "/api/webhooks/"


class WebhookRoute(BaseRoute):
    """`POST /api/webhooks/{namespace}/{path}`, without a pattern or a handler of exceptions of its own: it is met often."""

    def __init__(self, answer: Callable[[str, str, Request], Awaitable[Response]]) -> None:
        self._answer = answer

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As Starlette asks its routes."""
        if scope["type"] != "http" or len(self._names(scope)) != 2:
            return Match.NONE, {}
        return (Match.FULL if scope["method"] == "POST" else Match.PARTIAL), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["method"] != "POST":
            raise HTTPException(405, headers={"allow": "POST"})
        namespace, path = self._names(scope)
        response = await self._answer(namespace, path, Request(scope, receive))
        await response(scope, receive, send)

    def _names(self, scope: Scope) -> list[str]:
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        names = path.removeprefix(_PREFIX).split("/") if path.startswith(_PREFIX) else []
        return names if all(names) else []


class Webhooks:
    """The webhook endpoints of one running app."""

    def __init__(self, inbox: Inbox, *, stopwatch: Clock | None = None) -> None:
        self._inbox = inbox
        self._strangers = Strangers(stopwatch or SystemClock())

    async def take(self, namespace: str, path: str, request: Request) -> dict[str, Any] | ErrorAnswer:
        """Take one message; gives what its sender is told. Raises `Refusal`, or `Unavailable` with the database away."""
        found = self._inbox.endpoints.at(namespace, path)
        if found is None:
            raise Refusal(404, "unknown_webhook", "There is no such webhook.")
        endpoint, webhook = found
        options = webhook.options
        who = (endpoint, "" if request.client is None else request.client.host)
        if not self._strangers.may_try(who, per_minute=options.unverified_per_minute):
            raise TooMany
        body = await read_bytes(request, bytes_max=options.max_bytes, limit="the webhook's max_bytes")
        # Names may repeat; the signature schemes know no such headers.
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.scope["headers"]}
        try:
            taken = await self._inbox.take_webhook(endpoint, body, headers)
        except Rejected as error:
            self._strangers.failed(who, per_minute=options.unverified_per_minute)
            raise _unverified(error.reason) from None
        if isinstance(taken, Failed):
            # Returned, not raised: it was logged where it happened.
            return ErrorAnswer(500, "not_handled", "The message was kept, and could not be handled. Send it again.")
        return {"received": True, "duplicate": taken == KNOWN}


class TooMany(Refusal):
    """An address that sent too much that could not be verified."""

    def __init__(self) -> None:
        super().__init__(429, "too_many", "Too many messages that can't be verified. Wait a minute.")
        self.answer = replace(self.answer, retry_after_seconds=int(MINUTE_SECONDS))


def _unverified(reason: str) -> Refusal:
    status = 400 if reason == MALFORMED else 401
    return Refusal(status, "unverified", "The message can't be verified.")


class Strangers:
    """How much each address has left that can't be verified: a bucket per endpoint and address, refilled by the minute.

    An address that only sends what is genuine is never counted.
    """

    def __init__(self, stopwatch: Clock) -> None:
        self._stopwatch = stopwatch
        self._left: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def may_try(self, who: tuple[str, str], *, per_minute: int) -> bool:
        """Whether a message of `who` is looked at."""
        return who not in self._left or self._now_left(who, per_minute) >= 1

    def failed(self, who: tuple[str, str], *, per_minute: int) -> None:
        """A message of `who` could not be verified."""
        self._left[who] = (self._now_left(who, per_minute) - 1, self._stopwatch.monotonic_seconds())
        self._left.move_to_end(who)
        if len(self._left) > ADDRESSES_MAX:
            self._left.popitem(last=False)

    def _now_left(self, who: tuple[str, str], per_minute: int) -> float:
        now = self._stopwatch.monotonic_seconds()
        left, since = self._left.get(who, (float(per_minute), now))
        return min(float(per_minute), left + (now - since) * per_minute / MINUTE_SECONDS)
