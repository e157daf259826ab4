"""The bus within a process, for `redis_url="memory://"` and as a double in tests.

Decides nothing that the contract leaves open. Invariant: each bus of an exchange stands for a process of its own, and
behaves towards the others as over Redis.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import msgspec

from ensue.clock import Clock, SystemClock
from ensue.integrations.channels.bus import Attendance, Entry, Limits, Listener, Page, Stamp, page_of
from ensue.integrations.channels.presence import Notice
from ensue.integrations.contract import Health


@dataclass(slots=True)
class _Log:
    """One topic's messages. `keys` are those of `entries`; a repeat of an older message would be a new one."""

    epoch: str
    entries: deque[tuple[Entry, str]]
    keys: dict[str, int] = field(default_factory=dict[str, int])
    offset: int = 0

    @property
    def top(self) -> Stamp:
        return Stamp(self.epoch, self.offset)


@dataclass(slots=True)
class _Attendants:
    """Until when each (user, process) counts as present."""

    until: dict[tuple[int, int], float] = field(default_factory=dict[tuple[int, int], float])
    version: int = 0

    @property
    def users(self) -> frozenset[int]:
        return frozenset(user for user, _ in self.until)


class MemoryExchange:
    """Where the memory buses of one process meet: it has what Redis has for processes.

    >>> exchange = MemoryExchange()
    >>> one, other = exchange.join(), exchange.join()
    """

    def __init__(self, limits: Limits | None = None, *, clock: Clock | None = None) -> None:
        self.limits = limits if limits is not None else Limits()
        self._clock = clock if clock is not None else SystemClock()
        self._buses: list[MemoryBus] = []
        self._logs: dict[str, _Log] = {}
        self._attendants: dict[str, _Attendants] = {}

    def join(self) -> MemoryBus:
        """A new bus that exchanges messages with all others here."""
        return MemoryBus(self)

    def add(self, bus: MemoryBus) -> int:
        """Number `bus`."""
        self._buses.append(bus)
        return len(self._buses)

    def log(self, topic: str) -> _Log:
        """The log of `topic`, which begins if there is none."""
        if topic not in self._logs:
            self._logs[topic] = _Log(uuid.uuid4().hex[:8], deque())
        return self._logs[topic]

    def forget(self) -> None:
        """Lose all logs, as Redis does when it starts anew."""
        self._logs.clear()

    async def append(self, topic: str, text: str, key: str) -> Stamp:
        """See `Bus.append`."""
        log = self.log(topic)
        if (offset := log.keys.get(key)) is not None:
            return Stamp(log.epoch, offset)
        log.offset += 1
        log.entries.append((Entry(log.offset, text), key))
        log.keys[key] = log.offset
        if len(log.entries) > self.limits.length:
            del log.keys[log.entries.popleft()[1]]
        stamp = log.top
        await self.deliver(topic, text, stamp)
        return stamp

    async def deliver(self, topic: str, text: str, stamp: Stamp | None) -> None:
        """Give a message to every bus that follows `topic`."""
        for bus in tuple(self._buses):
            await bus.receive(topic, text, stamp)

    async def attend(
        self, topic: str, process: int, came: Collection[int], *, gone: Collection[int], known: int | None
    ) -> Attendance:
        """See `Bus.attend`."""
        found = self._attendants.setdefault(topic, _Attendants())
        before, version, now = found.users, found.version, self._clock.monotonic_seconds()
        for user in came:
            found.until[user, process] = now + self.limits.presence_seconds
        for user in gone:
            found.until.pop((user, process), None)
        for each in [each for each, until in found.until.items() if until < now]:
            del found.until[each]
        users = found.users
        if users != before:
            found.version += 1
            notice = Notice(found.version, joined=sorted(users - before), left=sorted(before - users))
            await self.deliver(topic, msgspec.json.encode(notice).decode(), None)
        return Attendance(found.version, None if known == version else users)


class MemoryBus:
    """A bus within one process."""

    def __init__(self, exchange: MemoryExchange | None = None, *, limits: Limits | None = None) -> None:
        self.topics: set[str] = set()
        self.exchange = exchange if exchange is not None else MemoryExchange(limits)
        self._number = self.exchange.add(self)
        self._listener: Listener | None = None

    async def listen(self, listener: Listener, control: str) -> None:
        self._listener = listener
        self.topics.add(control)

    async def publish(self, topic: str, text: str) -> None:
        await self.exchange.deliver(topic, text, None)

    async def append(self, topic: str, text: str, *, key: str) -> Stamp:
        return await self.exchange.append(topic, text, key)

    async def since(self, topic: str, stamp: Stamp, *, count: int) -> Page:
        log = self.exchange.log(topic)
        after = [entry for entry, _ in log.entries if entry.offset > stamp.offset]
        return page_of(log.top, stamp, after[:count])

    async def tops(self, topics: Collection[str]) -> Mapping[str, Stamp]:
        return {topic: self.exchange.log(topic).top for topic in topics}

    async def attend(
        self, topic: str, *, came: Collection[int], gone: Collection[int], known: int | None
    ) -> Attendance:
        return await self.exchange.attend(topic, self._number, came, gone=gone, known=known)

    async def follow(self, topics: Collection[str]) -> None:
        self.topics.update(topics)

    async def unfollow(self, topics: Collection[str]) -> None:
        self.topics.difference_update(topics)

    async def receive(self, topic: str, text: str, stamp: Stamp | None) -> None:
        """Take a message from the exchange, if its topic is followed."""
        if topic in self.topics and self._listener is not None:
            await self._listener.received(topic, text, stamp)

    def health(self) -> Health:
        return Health(up=True, detail="within this process")
