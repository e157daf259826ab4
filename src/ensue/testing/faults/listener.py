"""A port that can be closed and opened again without being lost.

Decides how a test's server listens, refuses, drops and ends; leaves what is said on a connection to its callback. Invariants:
the port stays the same from the first start to the end, also while connections are refused; no connection outlives the
listener.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from traceback import format_exception
from types import TracebackType
from typing import Self

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

PEER_TASK = "ensue test peer"
"""How the names of tasks begin that belong to a peer, and not to what is tested."""

_LINGER_NOT = struct.pack("ii", 1, 0)
_WAITING_MAX = 512


class Listener:
    """Calls `serve(reader, writer)` for each connection to a free port of `host`; synchronous but for `close`.

    `failures` holds what `serve` raised, except for lost connections, which are what a faulty peer is for.
    """

    def __init__(self, serve: Serve, *, host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = 0
        self.failures: list[Exception] = []
        self._serve = serve
        self._socket: socket.socket | None = None
        self._listening = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._accepted: set[socket.socket] = set()

    @property
    def open_connections(self) -> int:
        """How many connections are open."""
        return len(self._writers)

    def listen(self) -> None:
        """Accept connections, on the same port as before if there was one; a second call does nothing."""
        if self._listening:
            return
        bound = self._bind()
        bound.listen(_WAITING_MAX)
        self._listening = True
        asyncio.get_running_loop().add_reader(bound.fileno(), self._accept)

    def refuse(self) -> None:
        """Refuse new connections; the port stays ours, because it stays bound."""
        if self._listening:
            self._unbind()
            self._bind()

    def reset_all(self) -> int:
        """Drop every open connection with a TCP reset; gives how many."""
        dropped = [writer for writer in self._writers if not writer.is_closing()]
        for writer in dropped:
            abort(writer)
        # What was accepted a moment ago has no writer yet; its task drops it when it has.
        accepted = len(self._accepted)
        self._accepted.clear()
        return len(dropped) + accepted

    async def close(self) -> None:
        """Drop all connections, wait for what serves them, and give the port back."""
        self._unbind()
        self.reset_all()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _bind(self) -> socket.socket:
        if self._socket is None:
            self._socket = _bound(self.host, self.port)
            self.port = int(self._socket.getsockname()[1])
        return self._socket

    def _unbind(self) -> None:
        if self._socket is not None:
            if self._listening:
                asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._listening = False
            self._socket.close()
            self._socket = None

    def _accept(self) -> None:
        while self._socket is not None:
            try:
                connection, _ = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            connection.setblocking(False)
            self._accepted.add(connection)
            task = asyncio.get_running_loop().create_task(self._run(connection), name=PEER_TASK)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        if connection not in self._accepted:
            abort(writer)
            return
        self._accepted.discard(connection)
        self._writers.add(writer)
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        except Exception as failure:  # noqa: BLE001 - kept for the test, which shows it at the end
            self.failures.append(failure)
        finally:
            self._writers.discard(writer)
            writer.close()


class Peer(ABC):
    """A server of a test at one address, from entering to leaving it; subclasses say what is done with a connection.

    Leaving it drops all connections, and raises what went wrong in the peer; to the failure of a test it is a note.
    """

    def __init__(self, *, host: str) -> None:
        self._listener = Listener(self._serve, host=host)
        self._changed = asyncio.Event()

    @abstractmethod
    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Be the other side of one connection."""

    async def __aenter__(self) -> Self:
        self._listener.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._listener.close()
        for failure in self._listener.failures[:1]:
            if error is None:
                raise failure
            error.add_note(f"Before that the test's own server failed:\n{''.join(format_exception(failure))}")

    @property
    def host(self) -> str:
        """Where the peer listens."""
        return self._listener.host

    @property
    def port(self) -> int:
        """The port that the peer listens on; known once it is entered."""
        return self._listener.port

    @property
    def address(self) -> str:
        """`host:port` of the peer."""
        return f"{self.host}:{self.port}"

    @property
    def open_connections(self) -> int:
        """How many clients are connected now."""
        return self._listener.open_connections

    async def _until(self, met: Callable[[], object], seconds_max: float, seen: Callable[[], str]) -> None:
        """Wait until `met()` is true, which is asked whenever `_changed` is set. Raises `TimeoutError` with what was `seen`."""
        try:
            async with asyncio.timeout(seconds_max):
                while not met():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(f"After {seconds_max:g} s {seen()}.") from None


def abort(writer: asyncio.StreamWriter) -> None:
    """End the connection with a TCP reset: the other side reads an error, not an end."""
    connection = writer.get_extra_info("socket")
    if connection is not None and not writer.is_closing():
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    writer.transport.abort()


def _bound(host: str, port: int) -> socket.socket:
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    found.setblocking(False)
    # Otherwise a port whose connections ended a moment ago can't be bound again.
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind((host, port))
    return found
