"""What an integration can hold on to in its surroundings: the WebSocket connections, and whatever the host registers.

Decides when callbacks run and what their failures mean; the server says who comes and goes. Invariant: every
connection that was announced is taken leave of, once, and one failing callback of a leave-taking doesn't keep the
others from running.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

from ensue.errors import UsageError
from ensue.integrations.connection import Connection

logger = logging.getLogger("ensue.integrations")

OnConnection = Callable[[Connection], Awaitable[object]]
Callback = TypeVar("Callback", bound=OnConnection)


def _asynchronous(callback: Callback, method: str) -> Callback:
    if any(inspect.iscoroutinefunction(item) for item in (callback, type(callback).__call__)):
        return callback
    raise UsageError(f"{method}({callback!r}): expected an async function of the connection.")


class Websockets:
    """The connections of this process, and callbacks for their coming and going."""

    def __init__(self) -> None:
        self._on_connect: list[OnConnection] = []
        self._on_disconnect: list[OnConnection] = []
        self._connections: dict[str, Connection] = {}

    def on_connect(self, callback: Callback, /) -> Callback:
        """Call `callback(connection)` for every new connection, before the client's first message is read.

        If it raises, the connection is refused and the client can try again. Also usable as a decorator.
        """
        self._on_connect.append(_asynchronous(callback, "on_connect"))
        return callback

    def on_disconnect(self, callback: Callback, /) -> Callback:
        """Call `callback(connection)` when a connection has ended; also when an `on_connect` callback refused it."""
        self._on_disconnect.append(_asynchronous(callback, "on_disconnect"))
        return callback

    def __iter__(self) -> Iterator[Connection]:
        return iter(tuple(self._connections.values()))

    def __len__(self) -> int:
        return len(self._connections)

    async def connected(self, connection: Connection, /) -> None:
        """For the server: announce `connection`.

        If this raises, refuse the client; `disconnected` was called already.
        """
        if connection.id in self._connections:
            raise UsageError(
                f"A connection with the id {connection.id} is connected already; ids are unique in a process."
            )
        self._connections[connection.id] = connection
        try:
            for callback in self._on_connect:
                await callback(connection)
        except BaseException:
            await self.disconnected(connection)
            raise

    async def disconnected(self, connection: Connection, /) -> None:
        """For the server: take leave of `connection`; a second time does nothing. Failures of callbacks are logged."""
        if self._connections.pop(connection.id, None) is None:
            return
        for callback in self._on_disconnect:
            try:
                await callback(connection)
            except Exception:
                logger.exception("An on_disconnect callback failed for connection %s: %r", connection.id, callback)


class Handles:
    """`handles.websockets`, and other objects by name: what a host or a test gave to `register`.

    >>> handles = Handles()
    >>> handles.register("mailer", print)
    >>> handles["mailer"] is print
    True
    """

    def __init__(self) -> None:
        self.websockets = Websockets()
        self._named: dict[str, Any] = {}

    def register(self, name: str, handle: object, /) -> None:
        """Offer `handle` to integrations as `handles[name]`. Raises `UsageError` if the name is taken."""
        if name == "websockets" or name in self._named:
            raise UsageError(f"There is a handle {name!r} already; register this one under another name.")
        self._named[name] = handle

    def __contains__(self, name: object) -> bool:
        return name == "websockets" or name in self._named

    def __getitem__(self, name: str) -> Any:
        if name == "websockets":
            return self.websockets
        if name not in self._named:
            known = ", ".join(("websockets", *self._named))
            raise UsageError(
                f"There is no handle {name!r}; registered are: {known}. Register it before the app starts: "
                f"`app.run(handles={{{name!r}: ...}})`, or AppHarness(app, handles={{{name!r}: ...}})."
            )
        return self._named[name]
