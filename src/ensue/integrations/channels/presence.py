"""Who is there: the users that are connected to a channel, in whichever process.

Decides when this process says who of its users are there, and what it knows of the others'. Leaves the common list to
the bus and telling clients to the integration. Invariants: whoever was told to be there is told to be gone, also if
their process was killed; after the loss of a notice the list is right again with the next turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from types import TracebackType
from typing import Protocol

import msgspec

from ensue.background import Background
from ensue.errors import Unavailable
from ensue.integrations.channels.bus import Attendance

logger = logging.getLogger("ensue.integrations.redis_channels")

TURNS_PER_LIFETIME = 3
GATHER_SECONDS = 0.05
AT_ONCE_MAX = 32
FAREWELL_SECONDS_MAX = 2.0


class Notice(msgspec.Struct):
    """What changed about who is there: the step to `version`."""

    version: int
    joined: list[int] = []
    left: list[int] = []


class Attends(Protocol):
    """The part of a bus that is used here."""

    async def attend(
        self, topic: str, *, came: Collection[int], gone: Collection[int], known: int | None
    ) -> Attendance: ...


Tell = Callable[[str, frozenset[int], frozenset[int]], Awaitable[None]]


class _Known:
    """What is known of one topic: as of `version`, `users` are there; `said` are those that this process named."""

    __slots__ = ("said", "users", "version")

    def __init__(self) -> None:
        self.version: int | None = None
        self.users: frozenset[int] = frozenset()
        self.said: frozenset[int] = frozenset()


class Presence(Background):
    """An async context manager with a task that keeps the common list.

    `here(topic)` gives who is connected in this process; `tell(topic, joined, left)` is called for what changed.
    """

    task_name = "ensue.presence"

    def __init__(self, bus: Attends, *, here: Callable[[str], frozenset[int]], tell: Tell, seconds: float) -> None:
        self._bus = bus
        self._here = here
        self._tell = tell
        self._turn_seconds = seconds / TURNS_PER_LIFETIME
        self._known: dict[str, _Known] = {}
        self._noted: set[str] = set()
        self._some = asyncio.Event()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, trace)
        try:
            # A farewell spares others the wait; who does not get it finds out by itself.
            async with asyncio.timeout(FAREWELL_SECONDS_MAX):
                await self._each(tuple(self._known), lambda _: frozenset())
        except TimeoutError:
            logger.info("leaving the lists of who is there took too long; they forget this process in a moment")

    def note(self, topics: Iterable[str]) -> None:
        """Who is here may have changed."""
        self._noted.update(topics)
        if self._noted:
            self._some.set()

    def users(self, topic: str) -> frozenset[int] | None:
        """Who is there, as clients were told; None for a topic that nobody here is on."""
        known = self._known.get(topic)
        return None if known is None or known.version is None else known.users

    async def received(self, topic: str, text: str) -> None:
        """A notice has come."""
        known = self._known.get(topic)
        if known is None or known.version is None:
            return
        notice = msgspec.json.decode(text, type=Notice)
        if notice.version == known.version + 1:
            await self._learn(topic, notice.version, (known.users | {*notice.joined}) - {*notice.left})
        elif notice.version > known.version:
            self.note([topic])

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._turn_seconds):
                    await self._some.wait()
            except TimeoutError:
                topics = frozenset({*self._known, *self._noted})
            else:
                # Who comes and goes in the same moment is told at once, and who merely reconnected not at all.
                await asyncio.sleep(GATHER_SECONDS)
                topics = frozenset(self._noted)
            self._some.clear()
            self._noted -= topics
            await self._each(topics, self._here)

    async def _each(self, topics: Collection[str], here: Callable[[str], frozenset[int]]) -> None:
        waiting = list(topics)
        while waiting:
            chunk, waiting = waiting[:AT_ONCE_MAX], waiting[AT_ONCE_MAX:]
            await asyncio.gather(*(self._attend(topic, here(topic)) for topic in chunk))

    async def _attend(self, topic: str, here: frozenset[int]) -> None:
        known = self._known.setdefault(topic, _Known())
        try:
            found = await self._bus.attend(topic, came=here, gone=known.said - here, known=known.version)
            known.said = here
            if not here and not self._here(topic):
                self._known.pop(topic, None)
            elif found.users is not None:
                await self._learn(topic, found.version, found.users)
        except Unavailable as failure:
            # The next turn says it again; until then others count on the lifetime.
            logger.info("who is on %s could not be said: %s", topic, failure)
        except Exception:
            logger.exception("saying who is on %s failed; it is tried again", topic)

    async def _learn(self, topic: str, version: int, users: frozenset[int]) -> None:
        known = self._known[topic]
        if known.version is not None and version < known.version:
            return
        before, known.version, known.users = known.users, version, users
        if users != before:
            await self._tell(topic, users - before, before - users)
