"""Making connections to PostgreSQL.

Decides what a connection is set to, when a peer that says nothing counts as dead, and that connecting can be cut short.
Leaves pooling to the driver. Invariants: a statement may take as long as it takes while the server's machine answers;
one whose machine or network is gone ends within `SILENT_SECONDS_MAX`, by the operating system's word. What a killed
process was waiting for, the server gives up within `ABANDONED_MILLISECONDS`.
"""

import asyncio
import socket
from typing import Any, Final, cast

import asyncpg  # pyright: ignore[reportMissingTypeStubs]

from ensue.store.url import DatabaseUrl

CONNECT_SECONDS: Final = 10.0
STATEMENTS_CACHED: Final = 1000
SILENT_SECONDS_MAX: Final = 30
KEEPALIVE_IDLE_SECONDS: Final = 10
KEEPALIVE_PAUSE_SECONDS: Final = 5
KEEPALIVE_COUNT: Final = 4
ABANDONED_MILLISECONDS: Final = 500
# Without it, statements of killed processes stay in the queues for locks, deadlock with each other and hold up the living.
ABANDONED_SETTING: Final = "client_connection_check_interval"

# By name, as no system has all of them; macOS has another name for the first.
_PEER_OPTIONS: Final = (
    ("TCP_KEEPIDLE", KEEPALIVE_IDLE_SECONDS),
    ("TCP_KEEPALIVE", KEEPALIVE_IDLE_SECONDS),
    ("TCP_KEEPINTVL", KEEPALIVE_PAUSE_SECONDS),
    ("TCP_KEEPCNT", KEEPALIVE_COUNT),
    ("TCP_USER_TIMEOUT", SILENT_SECONDS_MAX * 1000),
)


class Connector:
    """Makes connections to one database, until `cut`."""

    def __init__(self, url: DatabaseUrl) -> None:
        self.options: dict[str, Any] = {
            "dsn": url.dsn,
            "timeout": CONNECT_SECONDS,
            "statement_cache_size": STATEMENTS_CACHED,
            "max_cached_statement_lifetime": 0,
            "max_cacheable_statement_size": 0,
            # What a server or an account is set to must not change the meaning of statements.
            "server_settings": {"default_transaction_isolation": "read committed", "timezone": "UTC"},
        }
        self._under_way: set[asyncio.Timeout] = set()
        self._is_cut = False
        self._notices_abandoned = True

    async def connect(self, *args: Any, **options: Any) -> Any:
        """A connection, with asyncpg's options. Raises what asyncpg raises, and OSError once it was cut."""
        if self._is_cut:
            raise ConnectionAbortedError("the process is ending")
        try:
            connection = await self._attempt(*args, **self._as_the_server_takes(options))
        except asyncpg.PostgresError as error:
            if ABANDONED_SETTING not in str(error):
                raise
            # Not every system that PostgreSQL runs on, and not every pooler, has it; there the statements stay longer.
            self._notices_abandoned = False
            connection = await self._attempt(*args, **options)
        notice_silence(connection._transport.get_extra_info("socket"))
        return connection

    async def _attempt(self, *args: Any, **options: Any) -> Any:
        connect = cast(Any, asyncpg.connect)  # pyright: ignore[reportUnknownMemberType]
        try:
            async with asyncio.timeout(None) as limit:
                self._under_way.add(limit)
                try:
                    return await connect(*args, **options)
                finally:
                    self._under_way.discard(limit)
        except TimeoutError as error:
            # Whoever waits for a connection that is free gets one as well, and must be able to tell them apart.
            raise ConnectionError(f"the server did not answer within {options['timeout']:g} s") from error

    def _as_the_server_takes(self, options: dict[str, Any]) -> dict[str, Any]:
        if not self._notices_abandoned:
            return options
        abandoned = {ABANDONED_SETTING: str(ABANDONED_MILLISECONDS)}
        return {**options, "server_settings": {**options["server_settings"], **abandoned}}

    def cut(self) -> None:
        """End the attempts that are under way, and make no more."""
        self._is_cut = True
        for limit in self._under_way:
            limit.reschedule(0.0)


def notice_silence(connected: Any) -> None:
    """Have the operating system end a TCP connection whose other end is gone; what it can't be told is left as it is."""
    if connected is None or connected.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PEER_OPTIONS:
        option: int | None = getattr(socket, name, None)
        if option is not None:
            connected.setsockopt(socket.IPPROTO_TCP, option, value)
