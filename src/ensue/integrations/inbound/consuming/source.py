"""What a broker must be able to do for a consumer; one source for each, tested by the same suite.

Decides the words between the loop and the brokers. Invariant: a source acknowledges only what it is told to, and every
call ends within bounds when the peer is dead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

FETCH_SECONDS_MAX: Final = 1.0
CONNECT_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class Delivered:
    """A message that a broker gave us; `id` is None if its sender gave it none. `ticket` is the source's own."""

    id: str | None
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    ticket: Any = field(repr=False)


class SourceLost(Exception):
    """The broker went away. Connect again."""


class Source(Protocol):
    """One place at one broker. Every call may raise whatever the broker's client raises; then it is connected anew."""

    async def connect(self) -> None:
        """Connect, and make sure that the place is there."""
        ...

    async def fetch(self, count: int, seconds: float) -> Sequence[Delivered]:
        """Up to `count` messages; none after about `seconds` (at most `FETCH_SECONDS_MAX`) without any."""
        ...

    async def acknowledge(self, items: Sequence[Delivered]) -> None:
        """These are done."""
        ...

    async def postpone(self, item: Delivered, seconds: float) -> bool:
        """Have it delivered again after `seconds`, to anybody; False if this broker can't: then it is kept here."""
        ...

    async def give_back(self, items: Sequence[Delivered]) -> None:
        """Let others have these, now or when they are redelivered."""
        ...

    async def close(self) -> None:
        """Disconnect. What was not acknowledged is redelivered."""
        ...
