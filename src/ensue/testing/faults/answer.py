"""What an HTTP double answers: a value with its content, and with how much of it arrives and when.

Decides which misbehaviours there are; leaves doing them to `HttpDouble`. Invariant: an answer is frozen, so that one
may be queued any number of times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec

Arrival = Literal["whole", "half", "lost", "withheld"]

_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of an `HttpDouble`. Make it with `ok`, `throttled`, `failing`, `hang`, `redirect` or `huge`, and
    change how it arrives with `half`, `lost`, `withheld`, `dripping` and `late`.

    A request is *accepted* when its answer's status is below 400, whether or not the answer arrives.

    >>> Answer.ok({"id": "7"}).lost().status
    200
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    arrival: Arrival = "whole"
    delay_seconds: float = 0.0
    drip_bytes: int | None = None
    drip_seconds: float = 0.0
    accepted: bool = True

    @staticmethod
    def ok(content: Any = None, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
        """`content` as it is if it is bytes or text, else as JSON; None for an empty body."""
        body, kind = _encoded(content)
        return Answer(status, body, {**kind, **(headers or {})}, accepted=status < 400)

    @staticmethod
    def throttled(retry_after_seconds: float | None = None, *, status: int = 429, content: Any = None) -> Answer:
        """Too many requests, with `Retry-After` unless it is None."""
        after = {} if retry_after_seconds is None else {"Retry-After": f"{retry_after_seconds:g}"}
        return Answer.ok(content, status=status, headers=after)

    @staticmethod
    def failing(status: int = 500, content: Any = None, *, headers: Mapping[str, str] | None = None) -> Answer:
        """An error of the service."""
        return Answer.ok(content, status=status, headers=headers)

    @staticmethod
    def hang() -> Answer:
        """Take the request and say nothing, until the client goes or the double is closed; nothing was accepted."""
        return Answer(arrival="withheld", accepted=False)

    @staticmethod
    def redirect(location: str, *, status: int = 302) -> Answer:
        """Send the client elsewhere; nothing was accepted."""
        return Answer(status, headers={"Location": location}, accepted=False)

    @staticmethod
    def huge(bytes_count: int, *, kind: str = "application/octet-stream") -> Answer:
        """A body of so many bytes."""
        return Answer(body=b"x" * bytes_count, headers={"Content-Type": kind})

    def half(self) -> Answer:
        """All headers and half of the body, then the end of the connection."""
        return replace(self, arrival="half")

    def lost(self) -> Answer:
        """The request is accepted, and the connection reset without a word."""
        return replace(self, arrival="lost")

    def withheld(self) -> Answer:
        """The request is accepted, and nothing is answered until the client goes."""
        return replace(self, arrival="withheld")

    def dripping(self, *, bytes_each: int = 1, seconds_between: float = 0.05) -> Answer:
        """The body arrives in small pieces with pauses."""
        return replace(self, drip_bytes=bytes_each, drip_seconds=seconds_between)

    def late(self, seconds: float) -> Answer:
        """The answer begins `seconds` after the request was read."""
        return replace(self, delay_seconds=seconds)


def as_answer(content: Any) -> Answer:
    """`content` itself if it is an `Answer`, else a 200 with it."""
    return content if isinstance(content, Answer) else Answer.ok(content)


def _encoded(content: Any) -> tuple[bytes, dict[str, str]]:
    if content is None:
        return b"", {}
    if isinstance(content, bytes):
        return content, {"Content-Type": "application/octet-stream"}
    if isinstance(content, str):
        return content.encode(), {"Content-Type": "text/plain; charset=utf-8"}
    return msgspec.json.encode(content), {"Content-Type": _JSON}
