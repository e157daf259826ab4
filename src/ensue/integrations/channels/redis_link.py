"""One connection that subscribes, and comes back whenever it breaks.

Decides when the connection counts as dead, when to try again, and what is subscribed to anew. Leaves to its user what
there is to follow, and on which server. Invariants: after an outage the user is asked what to follow before anything is
followed, so nobody receives what was revoked meanwhile; a peer that is silent but connected is found out by unanswered
pings.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError, ResponseError

from ensue.background import end_tasks
from ensue.clock import Clock
from ensue.integrations.contract import Health

logger = logging.getLogger("ensue.integrations.redis_channels")

CONNECT_SECONDS_MAX = 5.0
ANSWER_SECONDS_MAX = 5.0
PING_AFTER_SECONDS = 5.0
BACKOFF_FIRST_SECONDS = 0.1
BACKOFF_SECONDS_MAX = 2.0
TOPICS_PER_COMMAND = 500
FAILURES = (RedisError, RedisClusterException, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Words:
    """The commands of one kind of pub/sub, and what their answers are called."""

    subscribe: str
    unsubscribe: str
    publish: str
    message: str

    @property
    def subscribed(self) -> str:
        return self.subscribe.lower()

    @property
    def unsubscribed(self) -> str:
        return self.unsubscribe.lower()


EVERYWHERE = Words("SUBSCRIBE", "UNSUBSCRIBE", "PUBLISH", "message")
SHARDED = Words("SSUBSCRIBE", "SUNSUBSCRIBE", "SPUBLISH", "smessage")


class LinkUser(Protocol):
    """Who is told what happens on a link."""

    async def message(self, topic: str, text: str) -> None:
        """A message on a followed topic."""
        ...

    async def reconnected(self) -> None:
        """Connected, and nothing is followed yet but the control topic."""
        ...

    async def restored(self) -> None:
        """Connected, and everything is followed."""
        ...

    def misplaced(self) -> None:
        """Something that is followed is with another server now."""
        ...


class Link:
    """`start()` begins and waits for the first attempt, not for its success; `close()` ends.

    A dead server is logged and shows in `health`; the link keeps trying and follows everything again once it is back.
    """

    def __init__(
        self, pool: redis.ConnectionPool, user: LinkUser, *, where: str, words: Words, clock: Clock, rng: random.Random
    ) -> None:
        self._pool = pool
        self._user = user
        self._where = where
        self._words = words
        self._clock = clock
        self._rng = rng
        self.control: str | None = None
        self.wanted: set[str] = set()
        self.health = Health(up=False, detail="not connected yet", since=clock.now())
        self._live: dict[str, asyncio.Event] = {}
        self._connection: Any = None
        self._attempted = asyncio.Event()
        self._restoring = False
        self._unconfirmed: set[str] = set()
        self._sending = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect, now and whenever the connection breaks; a second time does nothing."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="ensue.redis_link")
        await self._attempted.wait()

    async def close(self) -> None:
        """Disconnect for good."""
        await end_tasks(self._task)
        for event in self._live.values():
            event.set()
        await self._pool.aclose()

    async def follow(self, topics: Collection[str]) -> None:
        """See `Bus.follow`."""
        new = set(topics) - self.wanted
        self.wanted |= new
        connection = self._connection
        if connection is not None:
            waiting = [self._live.setdefault(topic, asyncio.Event()) for topic in topics]
            if await self._send(connection, self._words.subscribe, new):
                await self._until_live(waiting)

    async def unfollow(self, topics: Collection[str]) -> None:
        """See `Bus.unfollow`."""
        gone = self.wanted & set(topics)
        self.wanted -= gone
        self._unconfirmed -= gone
        for topic in gone:
            # Whoever still waits for its confirmation would wait in vain.
            if (waited := self._live.pop(topic, None)) is not None:
                waited.set()
        if self._connection is not None:
            await self._send(self._connection, self._words.unsubscribe, gone)

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
                for chunk in self._chunks(topics):
                    await connection.send_command(command, *chunk)
        except FAILURES as failure:
            logger.info("%s to Redis at %s failed, the reader reconnects: %s", command, self._where, failure)
            return False
        return True

    def _chunks(self, topics: Iterable[str]) -> Iterator[Sequence[str]]:
        # The shards of one command must be in one slot: what belongs together in a cluster can't be known here.
        size = 1 if self._words is SHARDED else TOPICS_PER_COMMAND
        ordered = sorted(topics)
        for start in range(0, len(ordered), size):
            yield ordered[start : start + size]

    async def _run(self) -> None:
        attempt = 0
        while True:
            connection = self._pool.make_connection()
            try:
                await connection.connect()
                await self._restore(connection)
                attempt = 0
                await self._read(connection)
            except Exception as failure:  # noqa: BLE001 - the loop ends only by cancellation; what failed is in `health`
                # Also what a listener raised when it was asked what to follow: with no answer nothing may be followed.
                self._mark_down(failure)
                if isinstance(failure, ResponseError):
                    # MOVED, or a cluster without this slot.
                    self._user.misplaced()
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
        """Follow what is wanted; what that is may change once word of changes can be heard again."""
        if self.control is not None:
            await connection.send_command(self._words.subscribe, self.control)
            await self._confirmed(connection, self.control)
            await self._user.reconnected()
        for event in self._live.values():
            event.clear()
        self._unconfirmed = set(self.wanted)
        # From here on `follow` sends by itself.
        self._connection = connection
        async with self._sending:
            for chunk in self._chunks(self.wanted):
                await connection.send_command(self._words.subscribe, *chunk)
        self._restoring = True
        await self._restored_if_all_live()
        self._attempted.set()

    async def _confirmed(self, connection: Any, topic: str) -> None:
        while (answer := await connection.read_response(timeout=ANSWER_SECONDS_MAX)) is not None:
            if answer[:2] == [self._words.subscribed, topic]:
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
        words = self._words
        match answer:
            case [words.message, str(topic), str(text)] if topic in self.wanted:
                await self._tell(self._user.message(topic, text))
            case [words.subscribed, str(topic), *_] if topic in self.wanted:
                self._live.setdefault(topic, asyncio.Event()).set()
                self._unconfirmed.discard(topic)
            case [words.unsubscribed, str(topic), *_] if topic in self.wanted and self._words is SHARDED:
                # Not asked for, or wanted again since and then confirmed: the slot has moved to another server.
                self._user.misplaced()
            case _:
                pass
        if self._restoring:
            await self._restored_if_all_live()

    async def _restored_if_all_live(self) -> None:
        # Up means that messages arrive: until then publishing is refused, since what is sent now would be missed.
        if not self._unconfirmed:
            self._restoring = False
            self.health = Health(up=True, detail=f"connected to Redis at {self._where}", since=self._clock.now())
            logger.info("connected to Redis at %s", self._where)
            await self._tell(self._user.restored())

    async def _tell(self, call: Awaitable[None]) -> None:
        # A listener that fails on one message must not end the connection that all others live on.
        try:
            await call
        except Exception:
            logger.exception("A listener of the Redis bus failed")

    def _mark_down(self, failure: BaseException) -> None:
        detail = f"Redis at {self._where} does not answer: {failure or type(failure).__name__}"
        if self.health.up or not self._attempted.is_set():
            logger.error("%s; trying again until it does", detail)
            self.health = Health(up=False, detail=detail, since=self._clock.now())
        else:
            # Since when it is down is what one wants to know, not when it was last tried.
            self.health = Health(up=False, detail=detail, since=self.health.since)


def pool_of(url: str, *, retries: int) -> redis.ConnectionPool:
    """Connections to one server. Raises ValueError for what is no URL of one."""
    retry = Retry(NoBackoff(), retries)
    return redis.ConnectionPool.from_url(url, retry=retry, **connection_options())  # pyright: ignore[reportUnknownMemberType]


def connection_options() -> dict[str, Any]:
    """How every connection is made."""
    return {
        "decode_responses": True,
        # RESP2: pushed messages and answers come in one order, on a connection that does nothing else.
        "protocol": 2,
        "socket_connect_timeout": CONNECT_SECONDS_MAX,
        "socket_timeout": ANSWER_SECONDS_MAX,
    }
