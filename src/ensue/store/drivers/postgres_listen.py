"""Hearing of the commits of other processes: a connection of its own that listens on channel `ensue` and comes back
when it breaks.

Decides when a connection counts as dead and how long to wait before the next. Leaves to the callback what a
notification means. Invariants: after each reconnection the callback is told with `""`, since anything may have been
missed; an outage is told of once, however long.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from ensue.background import end_tasks

logger = logging.getLogger("ensue.store")

CHANNEL = "ensue"
PAUSE_FIRST_SECONDS = 0.1
PAUSE_MAX_SECONDS = 10.0
PROBE_SECONDS = 15.0
PROBE_WAIT_SECONDS = 5.0

Connect = Callable[[], Awaitable[Any]]


class Listener:
    """Listens until it is stopped."""

    def __init__(self, connect: Connect, callback: Callable[[str], None]) -> None:
        self._connect = connect
        self._callback = callback
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns once the server was told; raises what `connect` raises."""
        connection, ended = await self._listen()
        self._task = asyncio.create_task(self._run(connection, ended), name="ensue-listen")

    async def stop(self) -> None:
        task, self._task = self._task, None
        await end_tasks(task)

    async def _listen(self) -> tuple[Any, asyncio.Event]:
        connection, ended = await self._connect(), asyncio.Event()
        try:
            connection.add_termination_listener(partial(_end, ended))
            async with asyncio.timeout(PROBE_WAIT_SECONDS):
                await connection.add_listener(CHANNEL, self._heard)
        except BaseException:
            connection.terminate()
            raise
        return connection, ended

    def _heard(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        self._callback(str(payload))

    async def _run(self, connection: Any, ended: asyncio.Event) -> None:
        while True:
            try:
                await self._probe_until(connection, ended)
            finally:
                connection.terminate()
            connection, ended = await self._listen_again()
            try:
                self._callback("")
            except Exception:
                logger.exception("what hears of other processes' commits failed; listening goes on")

    async def _probe_until(self, connection: Any, ended: asyncio.Event) -> None:
        """Return when the connection is gone, which a silent network shows only when something is sent."""
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), PROBE_SECONDS)
                return
            try:
                await connection.execute("SELECT 1", timeout=PROBE_WAIT_SECONDS)
            except Exception:  # noqa: BLE001 - any failure means a new connection
                break

    async def _listen_again(self) -> tuple[Any, asyncio.Event]:
        pause = PAUSE_FIRST_SECONDS
        logger.warning("the connection that listens for other processes' commits is gone; connecting again")
        while True:
            # Jitter, so that many processes don't come back to a restarted server in the same instant.
            await asyncio.sleep(random.uniform(pause / 2, pause))
            try:
                listening = await self._listen()
            except Exception as error:  # noqa: BLE001 - tried again for as long as it takes
                level = logging.WARNING if pause == PAUSE_FIRST_SECONDS else logging.DEBUG
                logger.log(level, "no connection to listen for other processes' commits yet: %s", error)
            else:
                logger.info("other processes' commits are heard of again")
                return listening
            pause = min(PAUSE_MAX_SECONDS, pause * 2)


def _end(ended: asyncio.Event, _connection: object) -> None:
    ended.set()
