"""Writing to many connections: frames that are made once for all who get them, and turns for the connections.

Decides how texts become frames, and in which turns connections get theirs. Leaves the network to the `Wire` that the
server offers, if it does; otherwise connections are pumped. Invariants: a text that goes to many is encoded once; many
writes don't keep the event loop from everything else.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from ensue.integrations.connection import BufferedConnection, SharedText

EXTENSION: Final = "ensue.wire"
"""The ASGI extension under which a server offers its wire."""
FLUSHED_AT_ONCE: Final = 100
"""Connections that are written to before the event loop gets its turn."""
_TEXT: Final = 0x81


class Flusher:
    """Writes what connections were given, soon, and for all together instead of by a task of each."""

    def __init__(self) -> None:
        self._due: deque[BufferedConnection] = deque()
        self._turn: asyncio.Handle | None = None

    def note(self, connection: BufferedConnection) -> None:
        """`connection` has something to write."""
        self._due.append(connection)
        if self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        due = self._due
        for _ in range(min(len(due), FLUSHED_AT_ONCE)):
            due.popleft().flush()
        self._turn = asyncio.get_running_loop().call_soon(self._flush) if due else None


def attach(
    connection: BufferedConnection,
    scope: Mapping[str, Any],
    flusher: Flusher,
    *,
    on_shutdown: Callable[[Callable[[], None]], None],
) -> bool:
    """Let `connection` write by itself; false if the server offers no wire.

    When the server stops, `on_shutdown` is called with what ends the connection.
    """
    wire = scope.get("extensions", {}).get(EXTENSION, {}).get("wire")
    if wire is None:
        return False
    connection.attach(wire, flusher.note)
    wire.on_resume, wire.on_shutdown = connection.wake, on_shutdown
    return True


def frame(text: str) -> bytes:
    """`text` as a WebSocket frame of a server; that of a `SharedText` is kept."""
    if not isinstance(text, SharedText):
        return _frame(text)
    if text.frame is None:
        text.frame = _frame(text)
    return text.frame


def _frame(text: str) -> bytes:
    payload = text.encode()
    length = len(payload)
    if length < 126:
        return bytes((_TEXT, length)) + payload
    if length < 1 << 16:
        return bytes((_TEXT, 126)) + length.to_bytes(2, "big") + payload
    return bytes((_TEXT, 127)) + length.to_bytes(8, "big") + payload
