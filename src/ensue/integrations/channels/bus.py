"""What carries messages between processes, keeps the last of them, and knows who is there.

Decides the contract of a bus: topics in, messages out, a log for each topic, and a word when messages may have been
missed. Leaves the meaning of topics to its user. Invariants: after `follow` has returned while the bus is up, whatever
is published on the topic arrives; offsets of one epoch count up by one and are never given twice; a page of a log has
no hole that it does not tell of.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ensue.integrations.contract import Health


class Stamp(NamedTuple):
    """The place of a message in the log of its topic. A log that was lost begins anew, with another epoch."""

    epoch: str
    offset: int


class Entry(NamedTuple):
    """One message of a log."""

    offset: int
    text: str


class Page(NamedTuple):
    """What a log has after a stamp: the first `entries` of it. `top` is the stamp of the last message of all.

    `whole` is false if something after that stamp is no longer there, or the log is another one; then `entries` is
    empty.
    """

    top: Stamp
    entries: tuple[Entry, ...]
    whole: bool


class Attendance(NamedTuple):
    """Who is present on a topic: `users`, or None if the caller knew, as of `version`."""

    version: int
    users: frozenset[int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much of each topic is kept: `length` messages for `seconds`; and how long a user counts as present."""

    length: int = 500
    seconds: float = 3600.0
    presence_seconds: float = 30.0


class Listener(Protocol):
    """Who uses a bus."""

    async def received(self, topic: str, text: str, stamp: Stamp | None) -> None:
        """A message on a followed topic; `stamp` is None for what is in no log.

        Must not wait for anybody: all other messages are behind it.
        """
        ...

    async def reconnected(self) -> None:
        """The bus is back after an outage: change what is followed, if need be, before it is followed again."""
        ...

    async def restored(self) -> None:
        """Everything is followed again; messages sent during the outage may have been missed."""
        ...


class Bus(Protocol):
    """Publish and follow topics. At most once: who needs more publishes from a durable effect and reads the log.

    Whatever speaks to others raises `Unavailable` when it can't.
    """

    async def listen(self, listener: Listener, control: str) -> None:
        """Tell `listener` from now on.

        `control` is always followed, and after an outage before `reconnected` is called.
        """
        ...

    async def publish(self, topic: str, text: str) -> None:
        """Send `text` to every follower of `topic`; no log keeps it."""
        ...

    async def append(self, topic: str, text: str, *, key: str) -> Stamp:
        """Put `text` into the log of `topic` and send it to every follower: once for each `key`, however often called.

        Gives its stamp, the first one for a repeat. A key is remembered as long as its message may be kept.
        """
        ...

    async def since(self, topic: str, stamp: Stamp, *, count: int) -> Page:
        """At most `count` messages of the log after `stamp`, oldest first."""
        ...

    async def tops(self, topics: Collection[str]) -> Mapping[str, Stamp]:
        """The stamp of the last message of each topic; a log that does not exist begins."""
        ...

    async def attend(
        self, topic: str, *, came: Collection[int], gone: Collection[int], known: int | None
    ) -> Attendance:
        """Say for this process which users came to `topic` or are still there, and which are gone.

        Whoever is not named again within the limit is gone. The followers of `topic` receive `Notice`s of what changed.
        `known` is the version that the caller has; None for none.
        """
        ...

    async def follow(self, topics: Collection[str]) -> None:
        """Receive these topics; returns when they are live. While the bus is down it returns at once: later, then."""
        ...

    async def unfollow(self, topics: Collection[str]) -> None:
        """Receive these topics no more."""
        ...

    def health(self) -> Health: ...


def page_of(top: Stamp, asked: Stamp, entries: Collection[Entry]) -> Page:
    """The page for what a log had after `asked`, whether or not it still had all of it."""
    found = tuple(entries)
    reaches = asked.offset == top.offset if not found else found[0].offset == asked.offset + 1
    whole = asked.epoch == top.epoch and reaches
    return Page(top, found if whole else (), whole)
