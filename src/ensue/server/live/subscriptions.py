"""Who is to be told of which change: subscriptions by what they read, and reading again when it may have changed.

Decides which subscriptions a commit touches, that equal ones are read once, and when something is pushed. Leaves what
is read to the sources and the wire to `websocket`. Invariants: a subscriber first gets the data, read after it was
registered, and then every later state that differs from the one before; several commits in quick succession may give
one push with the last state.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

from ensue.errors import NotFound, Unavailable
from ensue.server.answers import answer_to

logger = logging.getLogger("ensue.server")

READS_MAX: Final = 4
"""Reads at a time, so that pushing never takes all connections of the database."""
HINT_SECONDS: Final = 0.02
"""How long hints about other processes are gathered before everything is read again."""
RETRY_SECONDS: Final = 0.5
NOTHING: Final = b"null"
_notice = msgspec.json.Decoder(dict[str, list[int]])


@dataclass(frozen=True, slots=True)
class Watched:
    """What can change a read: one record, any record of some types, or (`types` None) anything."""

    record: tuple[str, int] | None = None
    types: frozenset[str] | None = frozenset()


class Source(Protocol):
    """Something that can be read again and again. Sources with equal keys give equal data."""

    @property
    def key(self) -> Hashable: ...

    @property
    def watched(self) -> Watched: ...

    async def read(self) -> bytes:
        """The data as JSON; `NOTHING` if it does not exist. Raises what the client is to be told."""
        ...


class Subscriber(Protocol):
    """One subscription of one client. None of the first three waits for the client."""

    async def begin(self, data: bytes) -> None:
        """The subscription stands, and this is the data."""
        ...

    async def push(self, data: bytes) -> None:
        """The data has changed."""
        ...

    async def end(self, error: Exception) -> None:
        """The subscription is over."""
        ...

    async def check(self) -> None:
        """Raises if the client may not (any longer) see the data."""
        ...


@dataclass(eq=False, slots=True)
class _Group:
    """Subscriptions that read the same. `asked` counts requests to read, `done` is the last that was answered."""

    source: Source
    members: set[Subscriber] = field(default_factory=set[Subscriber])
    entering: dict[Subscriber, int] = field(default_factory=dict[Subscriber, int])
    data: bytes | None = None
    asked: int = 0
    done: int = 0
    task: asyncio.Task[None] | None = None

    @property
    def deserted(self) -> bool:
        return not (self.members or self.entering)


class Subscriptions:
    """All subscriptions of one process."""

    def __init__(self) -> None:
        self._groups: dict[Hashable, _Group] = {}
        self._by_record: dict[tuple[str, int], set[_Group]] = defaultdict(set)
        self._by_type: dict[str, set[_Group]] = defaultdict(set)
        self._by_anything: set[_Group] = set()
        self._reads = asyncio.Semaphore(READS_MAX)
        self._hint: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def __len__(self) -> int:
        return sum(len(group.members) + len(group.entering) for group in self._groups.values())

    def add(self, source: Source, subscriber: Subscriber) -> None:
        """Subscribe; `begin` or `end` of the subscriber tells how it went."""
        group = self._groups.get(source.key)
        if group is None:
            group = self._groups[source.key] = _Group(source)
            for index in self._indexes(group):
                index.add(group)
        self._read_again(group)
        group.entering[subscriber] = group.asked

    def remove(self, source: Source, subscriber: Subscriber) -> None:
        """Unsubscribe; does nothing if it is over already."""
        group = self._groups.get(source.key)
        if group is not None:
            group.members.discard(subscriber)
            group.entering.pop(subscriber, None)
            self._drop_if_deserted(group)

    def touched(self, ids: Mapping[str, Iterable[int]]) -> None:
        """A commit changed these records, by type: read again what it may have changed."""
        found: set[_Group] = set()
        for name, touched in ids.items():
            found |= self._by_type.get(name, set())
            found.update(*(self._by_record.get((name, id_), ()) for id_ in touched))
        if ids:
            found |= self._by_anything
        for group in found:
            self._read_again(group)

    def hinted(self, payload: str) -> None:
        """Another process may have committed something: what `payload` says, or anything."""
        try:
            ids = _notice.decode(payload)
        except msgspec.DecodeError:
            if self._hint is None and self._groups:
                self._hint = asyncio.get_running_loop().call_later(HINT_SECONDS, self._read_all_again)
        else:
            self.touched(ids)

    async def close(self) -> None:
        """Stop reading, for good; subscribers are not told."""
        self._closed = True
        if self._hint is not None:
            self._hint.cancel()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _read_all_again(self) -> None:
        self._hint = None
        for group in self._groups.values():
            self._read_again(group)

    def _read_again(self, group: _Group) -> None:
        group.asked += 1
        if group.task is None and not self._closed:
            # In a context of its own: not in the transaction, or under the ids, of whoever happens to start it.
            group.task = asyncio.create_task(self._keep_reading(group), context=contextvars.Context())
            self._tasks.add(group.task)
            group.task.add_done_callback(self._tasks.discard)

    async def _keep_reading(self, group: _Group) -> None:
        try:
            while group.done < group.asked and not group.deserted:
                asked = group.asked
                try:
                    async with self._reads:
                        data = await group.source.read()
                except Exception as error:  # noqa: BLE001  # the subscribers are told, and the log of a defect
                    await self._failed(group, asked, error)
                else:
                    await self._deliver(group, asked, data)
        finally:
            group.task = None
            self._drop_if_deserted(group)

    async def _deliver(self, group: _Group, asked: int, data: bytes) -> None:
        differs = data != group.data
        refused = await self._refused(group) if differs else {}
        # From here on nothing waits (subscribers only fill buffers), so that nobody enters between two states.
        group.data, group.done = data, asked
        for member, error in refused.items():
            group.members.discard(member)
            await _tell(member.end(error))
        for member in tuple(group.members) if differs else ():
            await _tell(member.push(data))
        for entrant, since in list(group.entering.items()):
            if since > asked:
                continue
            del group.entering[entrant]
            if data == NOTHING:
                await _tell(entrant.end(NotFound("There is no such record.")))
            else:
                group.members.add(entrant)
                await _tell(entrant.begin(data))

    async def _refused(self, group: _Group) -> dict[Subscriber, Exception]:
        refused: dict[Subscriber, Exception] = {}
        for member in tuple(group.members):
            try:
                await member.check()
            except Exception as error:  # noqa: BLE001  # the subscriber is told, and the log of a defect
                _log_defect(error)
                refused[member] = error
        return refused

    async def _failed(self, group: _Group, asked: int, error: Exception) -> None:
        _log_defect(error)
        for entrant, since in list(group.entering.items()):
            if since <= asked:
                del group.entering[entrant]
                await _tell(entrant.end(error))
        if isinstance(error, Unavailable) and error.retryable:
            # The state that the others have is old, perhaps; it will be right again once a read succeeds.
            await asyncio.sleep(RETRY_SECONDS if group.members else 0)
            group.done = group.done if group.members else asked
            return
        group.done = asked
        for member in tuple(group.members):
            group.members.discard(member)
            await _tell(member.end(error))

    def _indexes(self, group: _Group) -> Iterable[set[_Group]]:
        watched = group.source.watched
        if watched.record is not None:
            yield self._by_record[watched.record]
        if watched.types is None:
            yield self._by_anything
        for name in watched.types or ():
            yield self._by_type[name]

    def _drop_if_deserted(self, group: _Group) -> None:
        if not group.deserted or group.task is not None or self._groups.get(group.source.key) is not group:
            return
        del self._groups[group.source.key]
        for index in self._indexes(group):
            index.discard(group)
        watched = group.source.watched
        if watched.record is not None and not self._by_record[watched.record]:
            del self._by_record[watched.record]


async def _tell(message: Any) -> None:
    """Fill a subscriber's buffer; one that is closed, or full, is taken care of by its connection."""
    with contextlib.suppress(Unavailable):
        await message


def _log_defect(error: Exception) -> None:
    if answer_to(error).is_defect:
        logger.error("a subscription can't be read", exc_info=error)
