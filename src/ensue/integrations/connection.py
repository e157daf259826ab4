"""One client's connection, as integrations see it, and the buffer that keeps a slow client from holding up others.

Decides how much may wait for one client and what happens beyond it, and how credentials tell when they end; leaves
the protocol on the wire to the server.
Invariant: sending never waits for the client: what doesn't fit ends the connection, so that the client sees a gap and
not a hole.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import msgspec

from ensue.errors import Unavailable

MESSAGES_MAX = 1_000
BYTES_MAX = 4 * 1024 * 1024
WRITE_CHARACTERS_MAX = 64 * 1024

_ids = itertools.count(1)


class ConnectionClosed(Unavailable):
    """The client is gone, or was too slow; what was to be sent is lost to it."""

    code = "E0420"

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=False)


@dataclass(frozen=True, slots=True)
class Authenticated:
    """What `authenticate` may give in place of a user whose credentials end: `user`, and for how long still.

    `remaining()` gives the seconds after which it is to be asked again, 0 once the credentials have expired or were
    revoked: then a WebSocket of theirs is closed with 4440. It is asked when the connection begins, when those seconds
    are over, and when `changed` is set. Raises what `authenticate` raises.

    >>> async def remaining() -> float:
    ...     return 60.0 if valid else 0.0
    >>> Authenticated(user, remaining)
    """

    user: Any
    remaining: Callable[[], Awaitable[float]]
    changed: asyncio.Event = field(default_factory=asyncio.Event)


@runtime_checkable
class Connection(Protocol):
    """A client that is connected now.

    `id` is unique in the process, `user` is the user's record or None. Sending puts the message into the client's
    buffer and returns; it raises `ConnectionClosed` when the client is gone or its buffer is full.
    """

    @property
    def id(self) -> str: ...

    @property
    def user(self) -> Any: ...

    async def send_text(self, text: str, /) -> None: ...

    async def send_json(self, message: object, /) -> None: ...


class SharedText(str):
    """A message that goes to many clients, so that the server need not encode it for each of them."""

    __slots__ = ("frame",)

    frame: bytes | None

    def __new__(cls, text: str) -> SharedText:
        found = super().__new__(cls, text)
        found.frame = None
        return found


class Wire(Protocol):
    """Where a server takes messages without being waited for."""

    @property
    def paused(self) -> bool:
        """Whether nothing more may be written until the client has taken some."""
        ...

    def write_texts(self, texts: Sequence[str], /) -> None:
        """Write messages, in order."""
        ...


class BufferedConnection:
    """A `Connection` over a bounded buffer; the server empties it by a task with `pump`, or by `flush` after `attach`.

    >>> connection = BufferedConnection(user=None)
    >>> asyncio.run(connection.send_json({"hello": 1}))
    >>> connection.waiting
    1
    """

    def __init__(
        self, *, user: Any, id: str | None = None, messages_max: int = MESSAGES_MAX, bytes_max: int = BYTES_MAX
    ) -> None:
        self.id = id if id is not None else f"connection-{next(_ids)}"
        self.user = user
        self.overflowed = False
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self._waiting: deque[str] = deque()
        self._bytes = 0
        self._closed = False
        self._changed = asyncio.Event()
        self._wire: Wire | None = None
        self._note: Callable[[BufferedConnection], None] = _set_changed
        self._noted = False

    @property
    def waiting(self) -> int:
        """How many messages the client has not taken yet."""
        return len(self._waiting)

    async def send_text(self, text: str, /) -> None:
        """Put `text` into the buffer. Raises `ConnectionClosed` if the connection ended or this message doesn't fit."""
        self.post(text)

    def post(self, text: str) -> None:
        """`send_text` for who can't wait, or has many to tell."""
        if self._closed:
            raise ConnectionClosed(f"{self._name()} is closed.")
        self._bytes += len(text)
        self._waiting.append(text)
        self.wake()
        if len(self._waiting) > self._messages_max or self._bytes > self._bytes_max:
            found = f"{len(self._waiting)} messages and {self._bytes} characters"
            self.overflowed = True
            self.close()
            raise ConnectionClosed(
                f"{self._name()} takes its messages too slowly and was closed: {found} were waiting, "
                f"{self._messages_max} and {self._bytes_max} are allowed. The client can connect again and read what "
                f"it missed."
            )

    async def send_json(self, message: object, /) -> None:
        """Put `message`, encoded as JSON, into the buffer."""
        await self.send_text(msgspec.json.encode(message).decode())

    def close(self) -> None:
        """End the connection: nothing is accepted any more and `pump` returns; idempotent."""
        self._closed = True
        self._waiting.clear()
        self._bytes = 0
        self._changed.set()

    def attach(self, wire: Wire, note: Callable[[BufferedConnection], None]) -> None:
        """Write to `wire` from now on: `note(self)` is called when there is something, and is to call `flush` soon."""
        self._wire, self._note, self._noted = wire, note, False
        if self._waiting:
            self.wake()

    def wake(self) -> None:
        """Have what is waiting sent; needed by servers only, when a wire takes messages again."""
        if not self._noted:
            self._noted = True
            self._note(self)

    def flush(self) -> None:
        """Write what is waiting for as long as the wire takes it."""
        self._noted = False
        wire, waiting = self._wire, self._waiting
        while waiting and wire is not None and not wire.paused:
            # Several at once cost one write; not all at once, as they would only wait beyond our limits then.
            texts = [waiting.popleft()]
            characters = len(texts[0])
            while waiting and characters + len(waiting[0]) <= WRITE_CHARACTERS_MAX:
                texts.append(waiting.popleft())
                characters += len(texts[-1])
            self._bytes -= characters
            wire.write_texts(texts)

    async def pump(self, send: Callable[[str], Awaitable[None]]) -> None:
        """Hand each message to `send`, in order, until `close()` or an overflow (then `overflowed` is true)."""
        while not self._closed:
            while self._waiting:
                text = self._waiting.popleft()
                self._bytes -= len(text)
                await send(text)
            self._changed.clear()
            self._noted = False
            if not self._closed and not self._waiting:
                await self._changed.wait()

    def _name(self) -> str:
        return f"Connection {self.id} (user {getattr(self.user, 'id', None)})"


def _set_changed(connection: BufferedConnection) -> None:
    connection._changed.set()  # pyright: ignore[reportPrivateUsage]  # the default of the class above


async def send_to_all(connections: Iterable[Connection], text: str) -> None:
    """Send `text` to many. Those that are gone, or end because it doesn't fit, don't keep the others from it."""
    shared = SharedText(text)
    for connection in connections:
        try:
            if isinstance(connection, BufferedConnection):
                connection.post(shared)
            else:
                await connection.send_text(text)
        except ConnectionClosed:
            # It is leaving, or was too slow: whoever runs it takes leave of it.
            continue
