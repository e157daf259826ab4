"""A bus over Redis pub/sub that outlives restarts of Redis.

Decides when the connection counts as dead, when to try again, and what is followed anew. Leaves membership to its
user. Invariants: after an outage the user is asked what to follow before anything is followed, so nobody receives what
was revoked meanwhile; a peer that is silent but connected is found out by unanswered pings.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Collection, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from ensue.clock import Clock
from ensue.errors import Unavailable
from ensue.integrations.channels.bus import Listener
from ensue.integrations.contract import Health

logger = logging.getLogger("ensue.integrations.redis_channels")

CONNECT_SECONDS_MAX = 5.0
ANSWER_SECONDS_MAX = 5.0
PING_AFTER_SECONDS = 5.0
BACKOFF_FIRST_SECONDS = 0.1
BACKOFF_SECONDS_MAX = 2.0
TOPICS_PER_COMMAND = 500
RETRY_SECONDS_MIN = 1.0
RETRY_SECONDS_MAX = 60.0
_FAILURES = (RedisError, OSError, TimeoutError)


class RedisDown(Unavailable):
    """Redis did not take a message.

    `retry_after_seconds` grows with the outage, so that waiting effects don't press on it.
    """

    code = "E0421"

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class RedisBus:
    """An async context manager: entering starts the connection and waits for the first attempt, not for its success.

    A dead Redis is logged and shows in `health()`; the bus keeps trying and follows everything again once it is back.
    """

    def __init__(self, url: str, *, clock: Clock, rng: random.Random | None = None) -> None:
        self._clock = clock
        self._rng = rng if rng is not None else random.Random()
        options: dict[str, Any] = {
            "decode_responses": True,
            # RESP2: pushed messages and answers come in one order, on a connection that does nothing else.
            "protocol": 2,
            "socket_connect_timeout": CONNECT_SECONDS_MAX,
            "socket_timeout": ANSWER_SECONDS_MAX,
        }
        # Two pools: the subscriber makes its one connection itself and must see the first failure; a publisher's pooled
        # connection may have died with the last restart, so it deserves a second try.
        self._subscribers = _pool(url, retries=0, options=options)
        self._publisher: Any = redis.Redis(connection_pool=_pool(url, retries=1, options=options))
        self._where = _place(url)
        self._wanted: set[str] = set()
        self._live: dict[str, asyncio.Event] = {}
        self._connection: Any = None
        self._health = Health(up=False, detail="not connected yet", since=clock.now())
        self._attempted = asyncio.Event()
        self._restoring = False
        self._unconfirmed: set[str] = set()
        self._sending = asyncio.Lock()
        self._listener: Listener | None = None
        self._control: str | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="ensue.redis_bus")
        await self._attempted.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._subscribers.aclose()
        await self._publisher.aclose(close_connection_pool=True)

    async def listen(self, listener: Listener, control: str) -> None:
        self._listener = listener
        self._control = control
        await self.follow([control])

    def health(self) -> Health:
        return self._health

    async def publish(self, topic: str, text: str) -> None:
        if not self._health.up:
            # Redis may be back already, but those who listen, here as elsewhere, are not.
            raise RedisDown(
                f"{self._health.detail}. The message is sent later.", retry_after_seconds=self._pause_seconds()
            )
        try:
            await self._publisher.publish(topic, text)
        except _FAILURES as failure:
            text = f"Redis at {self._where} did not take a message for {topic}: {failure}. It is tried again."
            raise RedisDown(text, retry_after_seconds=self._pause_seconds()) from failure

    def _pause_seconds(self) -> float:
        since = self._health.since
        if self._health.up or since is None:
            return RETRY_SECONDS_MIN
        return min(RETRY_SECONDS_MAX, max(RETRY_SECONDS_MIN, (self._clock.now() - since).total_seconds() / 4))

    async def follow(self, topics: Collection[str]) -> None:
        new = set(topics) - self._wanted
        self._wanted |= new
        connection = self._connection
        if connection is not None:
            waiting = [self._live.setdefault(topic, asyncio.Event()) for topic in topics]
            if await self._send(connection, "SUBSCRIBE", new):
                await self._until_live(waiting)

    async def unfollow(self, topics: Collection[str]) -> None:
        gone = self._wanted & set(topics)
        self._wanted -= gone
        self._unconfirmed -= gone
        for topic in gone:
            # Whoever still waits for its confirmation would wait in vain.
            if (waited := self._live.pop(topic, None)) is not None:
                waited.set()
        if self._connection is not None:
            await self._send(self._connection, "UNSUBSCRIBE", gone)

    async def _until_live(self, events: Sequence[asyncio.Event]) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                for event in events:
                    await event.wait()
        except TimeoutError:
            # The reader finds out whether Redis is gone; the topics stay wanted and are followed when it is back.
            logger.warning("Redis at %s did not confirm a subscription within %g s", self._where, ANSWER_SECONDS_MAX)

    async def _send(self, connection: Any, command: str, topics: Iterable[str]) -> bool:
        try:
            # One after the other: a topic given up and wanted again must reach Redis in that order.
            async with self._sending:
                for chunk in _chunks(sorted(topics)):
                    await connection.send_command(command, *chunk)
        except _FAILURES as failure:
            logger.info("%s to Redis at %s failed, the reader reconnects: %s", command, self._where, failure)
            return False
        return True

    async def _run(self) -> None:
        attempt = 0
        while True:
            connection = self._subscribers.make_connection()
            try:
                await connection.connect()
                await self._restore(connection)
                attempt = 0
                await self._read(connection)
            except Exception as failure:  # noqa: BLE001 - the loop ends only by cancellation; what failed is in health()
                # Also what a listener raised when it was asked what to follow: with no answer nothing may be followed.
                self._mark_down(failure)
            finally:
                self._connection = None
                self._restoring = False
                self._attempted.set()
                # Whoever waits for a confirmation need not wait any longer: it comes with the next connection.
                for event in self._live.values():
                    event.set()
                await connection.disconnect(nowait=True)
            # Full jitter: many processes lose the same Redis at the same instant.
            await asyncio.sleep(self._rng.uniform(0, min(BACKOFF_SECONDS_MAX, BACKOFF_FIRST_SECONDS * 2**attempt)))
            attempt = min(attempt + 1, 10)

    async def _restore(self, connection: Any) -> None:
        if self._listener is not None and self._control is not None:
            # The control topic first, and confirmed: a change made after the listener has looked is then heard of.
            await connection.send_command("SUBSCRIBE", self._control)
            await self._confirmed(connection, self._control)
            await self._listener.reconnected()
        for event in self._live.values():
            event.clear()
        self._unconfirmed = set(self._wanted)
        # From here on `follow` sends by itself.
        self._connection = connection
        async with self._sending:
            for chunk in _chunks(sorted(self._wanted)):
                await connection.send_command("SUBSCRIBE", *chunk)
        self._restoring = True
        await self._restored_if_all_live()
        self._attempted.set()

    async def _confirmed(self, connection: Any, topic: str) -> None:
        while (answer := await connection.read_response(timeout=ANSWER_SECONDS_MAX)) is not None:
            if answer[:2] == ["subscribe", topic]:
                return
            await self._take(answer)
        raise TimeoutError(f"a subscription was not confirmed within {ANSWER_SECONDS_MAX:g} s")

    async def _read(self, connection: Any) -> None:
        pinged = False
        while True:
            answer = await connection.read_response(timeout=PING_AFTER_SECONDS, disconnect_on_error=False)
            if answer is not None:
                pinged = False
                await self._take(answer)
            elif pinged:
                raise TimeoutError(f"no answer to a ping within {PING_AFTER_SECONDS:g} s")
            else:
                await connection.send_command("PING")
                pinged = True

    async def _take(self, answer: Any) -> None:
        match answer:
            case ["message", str(topic), str(text)] if topic in self._wanted and self._listener is not None:
                await self._tell(self._listener.received(topic, text))
            case ["subscribe", str(topic), *_] if topic in self._wanted:
                self._live.setdefault(topic, asyncio.Event()).set()
                self._unconfirmed.discard(topic)
            case _:
                pass
        if self._restoring:
            await self._restored_if_all_live()

    async def _restored_if_all_live(self) -> None:
        # Up means that messages arrive: until then `publish` refuses, since what is sent now would be missed.
        if not self._unconfirmed:
            self._restoring = False
            self._health = Health(up=True, detail=f"connected to Redis at {self._where}", since=self._clock.now())
            logger.info("connected to Redis at %s", self._where)
            if self._listener is not None:
                await self._tell(self._listener.restored())

    async def _tell(self, call: Awaitable[None]) -> None:
        # A listener that fails on one message must not end the connection that all others live on.
        try:
            await call
        except Exception:
            logger.exception("A listener of the Redis bus failed")

    def _mark_down(self, failure: BaseException) -> None:
        detail = f"Redis at {self._where} does not answer: {failure or type(failure).__name__}"
        if self._health.up or not self._attempted.is_set():
            logger.error("%s; trying again until it does", detail)
            self._health = Health(up=False, detail=detail, since=self._clock.now())
        else:
            # Since when it is down is what one wants to know, not when it was last tried.
            self._health = Health(up=False, detail=detail, since=self._health.since)


def _pool(url: str, *, retries: int, options: dict[str, Any]) -> redis.ConnectionPool:
    retry = Retry(NoBackoff(), retries)
    return redis.ConnectionPool.from_url(url, retry=retry, **options)  # pyright: ignore[reportUnknownMemberType]


def _chunks(topics: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(topics), TOPICS_PER_COMMAND):
        yield topics[start : start + TOPICS_PER_COMMAND]


def _place(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname or 'localhost'}:{parts.port or 6379}"
