"""The conversation on `/ws`, without a network: what a client may say, what it is answered, and when the connection
ends.

Decides the form of every message, the limits of one connection, and its states. Leaves running requests, buffering
and sending to `websocket`. Invariant: nothing that a client sends raises here; it is answered, or ends the connection
with a code of `CLOSE`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec

from ensue.server.answers import ErrorAnswer

REQUESTS_MAX: Final = 64
"""Requests of one connection that may be unanswered at a time."""
SUBSCRIPTIONS_MAX: Final = 1_000

State = Literal["connecting", "open", "closing", "closed"]
Happening = Literal[
    "accepted",
    "unauthenticated",
    "expired",
    "refused",
    "failed",
    "message",
    "binary",
    "too_large",
    "too_slow",
    "shutdown",
    "left",
]

TRANSITIONS: Final[Mapping[tuple[State, Happening], State]] = {
    ("connecting", "accepted"): "open",
    ("connecting", "unauthenticated"): "closing",
    ("connecting", "refused"): "closing",
    ("connecting", "failed"): "closing",
    ("connecting", "too_slow"): "closing",
    ("connecting", "shutdown"): "closing",
    ("connecting", "left"): "closed",
    ("open", "message"): "open",
    ("open", "binary"): "closing",
    ("open", "too_large"): "closing",
    ("open", "too_slow"): "closing",
    ("open", "failed"): "closing",
    ("open", "expired"): "closing",
    ("open", "shutdown"): "closing",
    ("open", "left"): "closed",
    ("closing", "left"): "closed",
}
"""Whatever is not here leaves the state as it is: what a client says after the end is not heard."""

CLOSE: Final[Mapping[Happening, tuple[int, str]]] = {
    "binary": (1003, "messages are JSON text"),
    "too_large": (1009, "the message is too large"),
    "failed": (1011, "internal error"),
    "shutdown": (1012, "the server restarts; connect again"),
    "refused": (1013, "try again later"),
    "unauthenticated": (4401, "not authenticated"),
    "expired": (4440, "the session has ended; sign in or refresh, and connect again"),
    "too_slow": (4408, "too slow; connect again and read anew"),
}
"""The close code and reason of each happening that ends a connection."""

Id = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)] | Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_NOTHING: Final = msgspec.Raw(b"{}")


class _Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    pass


class InteractionRequest(_Message, frozen=True, kw_only=True, tag="interaction"):
    """Dispatch an interaction."""

    id: Id
    name: str
    payload: msgspec.Raw = _NOTHING
    idempotency_key: str | None = None
    traceparent: Annotated[str, msgspec.Meta(max_length=64)] | None = None


class ApiRequest(_Message, frozen=True, kw_only=True, tag="api"):
    """Call an API of an integration."""

    id: Id
    namespace: str
    name: str
    payload: msgspec.Raw = _NOTHING
    traceparent: Annotated[str, msgspec.Meta(max_length=64)] | None = None


class SubscribeRequest(_Message, frozen=True, kw_only=True, tag="subscribe"):
    """Read a record, or what an interaction reads, and be told of changes; `id` becomes the subscription's name."""

    id: Id
    record: str | None = None
    key: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    fields: list[Any] | None = None
    read: str | None = None
    payload: msgspec.Raw = _NOTHING

    def problem(self) -> str:
        """Why it is neither of the two forms; empty if it is one."""
        if (self.record is None) == (self.read is None):
            return 'expected either "record" with "key", or "read"'
        if self.record is not None and self.key is None:
            return '"record" needs "key", the id of the record'
        if self.read is not None and (self.key is not None or self.fields is not None):
            return '"key" and "fields" belong to "record"; what a read gives is declared in its interaction'
        return ""


class UnsubscribeRequest(_Message, frozen=True, kw_only=True, tag="unsubscribe"):
    """End a subscription."""

    id: Id
    subscription: Id


class Ping(_Message, frozen=True, kw_only=True, tag="ping"):
    """Answered with `pong`."""

    id: Id | None = None


class Pong(_Message, frozen=True, kw_only=True, tag="pong"):
    """The answer to the server's heartbeat; not required."""

    id: Id | None = None


Request = InteractionRequest | ApiRequest | SubscribeRequest | UnsubscribeRequest
_decoder = msgspec.json.Decoder(Request | Ping | Pong)


class _Named(msgspec.Struct, frozen=True):
    """What can be read of a message that is wrong elsewhere."""

    id: Id | None = None


_named_decoder = msgspec.json.Decoder(_Named)


@dataclass(frozen=True, slots=True)
class Say:
    """Send `text` to the client."""

    text: str


@dataclass(frozen=True, slots=True)
class Ask:
    """Run `request` and report it with `finished`."""

    request: Request


@dataclass(frozen=True, slots=True)
class Close:
    """End the connection."""

    code: int
    reason: str


Output = Say | Ask | Close


class Conversation:
    """What is going on with one client.

    >>> conversation = Conversation("c1")
    >>> conversation.happened("accepted")
    >>> conversation.text_received('{"type": "ping"}')
    Say(text='{"type":"pong"}')
    >>> conversation.happened("binary")
    Close(code=1003, reason='messages are JSON text')
    """

    def __init__(self, request_id: str, *, bytes_max: int = 1024 * 1024) -> None:
        self.state: State = "connecting"
        self.subscriptions: set[int | str] = set()
        self._request_id = request_id
        self._bytes_max = bytes_max
        self._unanswered: set[int | str] = set()

    def happened(self, what: Happening) -> Close | None:
        """Move on; gives the `Close` to send if the connection ends by it."""
        before = self.state
        if (after := TRANSITIONS.get((before, what))) is not None:
            self.state = after
        return Close(*CLOSE[what]) if self.state == "closing" != before else None

    def text_received(self, text: str) -> Output | None:
        """What to do about a text message; None if nothing."""
        # Characters first: encoding what is far too large would be work for nothing.
        if len(text) > self._bytes_max or len(text.encode()) > self._bytes_max:
            return self.happened("too_large")
        self.happened("message")
        if self.state != "open":
            return None
        try:
            message = _decoder.decode(text)
        except msgspec.ValidationError as failure:
            return self._refusal(_id_of(text), "invalid_message", f"The message is not as expected: {failure}.")
        except (msgspec.DecodeError, RecursionError, ValueError) as failure:
            return self._refusal(None, "invalid_json", f"The message is not valid JSON: {failure}.")
        if isinstance(message, Ping):
            return Say(_text({"type": "pong"} if message.id is None else {"id": message.id, "type": "pong"}))
        return None if isinstance(message, Pong) else self._admit(message)

    def finished(self, request: Request, data: Any) -> Say:
        """The answer to a request; `data` is JSON-able, or encoded already (`msgspec.Raw`)."""
        self._unanswered.discard(request.id)
        return Say(_text({"id": request.id, "type": "result", "data": data}))

    def failed(self, request: Request, answer: ErrorAnswer) -> Say:
        """The answer to a request that failed."""
        self._unanswered.discard(request.id)
        if isinstance(request, SubscribeRequest):
            self.subscriptions.discard(request.id)
        return self._error(request.id, answer)

    def changed(self, subscription: int | str, data: msgspec.Raw) -> Say:
        """What a subscription reads has changed."""
        return Say(_text({"type": "change", "subscription": subscription, "data": data}))

    def ended(self, subscription: int | str, answer: ErrorAnswer) -> Say:
        """The server ended a subscription, as it may not or can't go on."""
        self.subscriptions.discard(subscription)
        return Say(_text({"type": "end", "subscription": subscription, **answer.body(self._request_id)}))

    def heartbeat(self) -> Say:
        """Shows a client that the server lives; it may answer `pong` and need not."""
        return Say('{"type":"ping"}')

    def _admit(self, request: Request) -> Output:
        if request.id in self._unanswered:
            text = f"A request with the id {request.id!r} is not answered yet. Use another id for each request."
            return self._refusal(request.id, "duplicate_id", text)
        if len(self._unanswered) >= REQUESTS_MAX:
            text = f"{REQUESTS_MAX} requests of this connection are not answered yet. Wait for answers first."
            return self._refusal(request.id, "too_many_requests", text)
        if isinstance(request, SubscribeRequest):
            if problem := self._problem(request):
                return self._refusal(request.id, *problem)
            self.subscriptions.add(request.id)
        self._unanswered.add(request.id)
        return Ask(request)

    def _problem(self, request: SubscribeRequest) -> tuple[str, str] | None:
        if found := request.problem():
            return "invalid_message", f"The subscription is incomplete: {found}."
        if request.id in self.subscriptions:
            return "duplicate_id", f"The subscription {request.id!r} exists. Unsubscribe it first, or use another id."
        if len(self.subscriptions) >= SUBSCRIPTIONS_MAX:
            return "too_many_subscriptions", f"A connection has at most {SUBSCRIPTIONS_MAX} subscriptions."
        return None

    def _refusal(self, request_id: int | str | None, code: str, message: str) -> Say:
        return self._error(request_id, ErrorAnswer(400, code, message))

    def _error(self, id_: int | str | None, answer: ErrorAnswer) -> Say:
        return Say(_text({"id": id_, "type": "error", **answer.body(self._request_id)}))


def _id_of(text: str) -> int | str | None:
    try:
        return _named_decoder.decode(text).id
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None


def _text(message: dict[str, Any]) -> str:
    return msgspec.json.encode(message).decode()
