"""One consumer at work: connect, fetch, handle, acknowledge, for ever.

Decides what becomes of each message and when to connect anew. Leaves the broker to a `Source` and handling to
`Handling`. Invariants: acknowledged is what was committed, known before, or kept as failed for the last time, and
nothing else; an outage of broker or database ends neither the loop nor a message; after `stop` nothing more is fetched.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from random import Random
from typing import Final
from urllib.parse import urlsplit
from uuid import uuid4

from ensue.background import end_tasks
from ensue.clock import Clock, SystemClock
from ensue.errors import Rejected, Unavailable, UsageError
from ensue.integrations.contract import Health
from ensue.integrations.inbound.consumer import AmqpPlace, Consumer, NatsPlace
from ensue.integrations.inbound.consuming.source import (
    CONNECT_SECONDS,
    FETCH_SECONDS_MAX,
    Delivered,
    Source,
    SourceLost,
)
from ensue.integrations.inbound.handling import Failed, Handling, Taken
from ensue.integrations.inbound.identify import MALFORMED, identify
from ensue.integrations.inbound.message import Headers, Inbound
from ensue.integrations.settings.environment import HIDDEN

logger = logging.getLogger("ensue.inbound")

RECONNECT_SECONDS_MAX: Final = 30.0
RETRY_SECONDS_MAX: Final = 30.0
CLOSE_SECONDS: Final = 2.0
FETCH_SECONDS: Final = FETCH_SECONDS_MAX
SLACK_SECONDS: Final = 5.0


class Consuming:
    """The loop of one consumer in this process. `health` says whether the broker is there."""

    def __init__(
        self,
        endpoint: str,
        namespace: str,
        consumer: Consumer,
        *,
        source: Source,
        handling: Handling,
        clock: Clock,
        rng: Random | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.namespace = namespace
        self.health = Health(up=True)
        self._options = consumer.options
        self._source = source
        self._handling = handling
        self._clock = clock
        self._stopwatch = SystemClock()
        self._rng = rng or Random()
        self._halted = asyncio.Event()
        self._held: list[tuple[float, int, Delivered]] = []
        self._numbers = itertools.count()
        self._losses = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin. The broker need not answer yet."""
        self._task = asyncio.create_task(self._loop(), name=f"ensue.inbound.{self.endpoint}")

    async def stop(self, grace_seconds: float) -> None:
        """Let what was fetched be handled within `grace_seconds`; the rest is redelivered to others."""
        self._halted.set()
        if self._task is None:
            return
        await asyncio.wait([self._task], timeout=max(grace_seconds, FETCH_SECONDS + CLOSE_SECONDS))
        await end_tasks(self._task, within_seconds=CLOSE_SECONDS + 1)

    async def _loop(self) -> None:
        while not self._halted.is_set():
            try:
                async with asyncio.timeout(CONNECT_SECONDS + SLACK_SECONDS):
                    await self._source.connect()
                await self._consume()
            except Exception as error:  # noqa: BLE001 - whatever a client raises, it is tried again for ever
                self._lost(error)
            finally:
                await self._close()
            if not self._halted.is_set():
                self._losses += 1
                await self._pause(min(RECONNECT_SECONDS_MAX, 0.2 * 2 ** min(self._losses, 20)))

    async def _consume(self) -> None:
        while not self._halted.is_set():
            batch = self._due()
            if not batch:
                async with asyncio.timeout(FETCH_SECONDS_MAX + SLACK_SECONDS):
                    batch = await self._source.fetch(self._options.batch, self._fetch_seconds())
                self._losses = 0
                if not self.health.up:
                    self.health = Health(up=True)
                    logger.info("%s: consuming again", self.endpoint)
            if batch:
                await self._handle(batch)

    async def _handle(self, batch: Sequence[Delivered]) -> None:
        now = self._clock.now()
        named: list[tuple[Delivered, Inbound]] = []
        done: list[Delivered] = []
        for item in batch:
            try:
                named.append((item, self._inbound(item, now)))
            except Rejected as error:
                await self._nameless(item, now, error)
                done.append(item)
        taken = await self._with_database(lambda: self._handling.take_many([message for _, message in named]))
        if taken is None:
            await self._source.give_back([item for item, _ in named])
            return
        for (item, message), how in zip(named, taken, strict=True):
            if not isinstance(how, Failed):
                done.append(item)
            elif how.attempt >= self._options.max_attempts:
                text = "%s: message %s failed %d times and stays in the inbox as failed"
                logger.error(text, self.endpoint, message.id, how.attempt)
                done.append(item)
            else:
                await self._again_later(item, how.attempt)
        if done:
            await self._source.acknowledge(done)

    def _inbound(self, item: Delivered, now: datetime) -> Inbound:
        headers = Headers(item.headers)
        id_ = item.id if self._options.id is None else identify(self._options.id, item.body, headers)
        if not id_:
            raise Rejected(MALFORMED, "The message has no id, so a repeat of it could not be told; say id='json:…'.")
        return Inbound(id_, item.body, headers, now, self.endpoint)

    async def _nameless(self, item: Delivered, now: datetime, error: Rejected) -> None:
        """What has no id is kept as failed, each time it comes: that is better than losing it."""
        message = Inbound(f"nameless:{uuid4().hex}", item.body, Headers(item.headers), now, self.endpoint)
        if await self._with_database(lambda: self._kept(message, error)) is None:
            raise SourceLost("stopped before the message was kept")

    async def _kept(self, message: Inbound, error: Rejected) -> list[Taken | Failed]:
        return [await self._handling.refuse(message, error)]

    async def _with_database(self, work: Callable[[], Awaitable[list[Taken | Failed]]]) -> list[Taken | Failed] | None:
        """The result of `work`, however long the database is away; None if we were told to stop meanwhile."""
        for attempt in itertools.count():
            try:
                return await work()
            except Unavailable as error:
                logger.warning("%s waits for the database: %s", self.endpoint, error)
            if self._halted.is_set():
                break
            await self._pause(min(RETRY_SECONDS_MAX, 0.2 * 2 ** min(attempt, 20)))
        return None

    async def _again_later(self, item: Delivered, attempt: int) -> None:
        seconds = min(RETRY_SECONDS_MAX, 2.0 ** min(attempt - 1, 20)) * self._rng.uniform(0.5, 1.0)
        if await self._source.postpone(item, seconds):
            return
        heapq.heappush(self._held, (self._stopwatch.monotonic_seconds() + seconds, next(self._numbers), item))
        if len(self._held) > self._options.batch:
            *_, last = self._held.pop()
            await self._source.give_back([last])

    def _due(self) -> list[Delivered]:
        now = self._stopwatch.monotonic_seconds()
        found: list[Delivered] = []
        while self._held and self._held[0][0] <= now and len(found) < self._options.batch:
            found.append(heapq.heappop(self._held)[2])
        return found

    def _fetch_seconds(self) -> float:
        """Until something that is held is due, at most."""
        if not self._held:
            return FETCH_SECONDS
        return min(FETCH_SECONDS, max(0.01, self._held[0][0] - self._stopwatch.monotonic_seconds()))

    def _lost(self, error: Exception) -> None:
        detail = f"{self.endpoint}: {type(error).__name__}" + (f": {error}" if str(error) else "")
        # Some clients repeat the URL that they were given.
        password = urlsplit(self._options.url).password
        detail = detail.replace(password, HIDDEN) if password else detail
        if self.health.up:
            logger.warning("%s; connecting again until it succeeds", detail)
            self.health = Health(up=False, detail=detail, since=self._clock.now())
        else:
            self.health = Health(up=False, detail=detail, since=self.health.since)

    async def _close(self) -> None:
        held = [item for *_, item in self._held]
        self._held = []
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                if held:
                    await self._source.give_back(held)
                await self._source.close()
        except Exception as error:  # noqa: BLE001 - it is gone either way
            logger.debug("%s: closing failed: %s", self.endpoint, type(error).__name__)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds * self._rng.uniform(0.5, 1.0)):
                await self._halted.wait()


def consuming_of(
    endpoint: str, namespace: str, consumer: Consumer, /, *, handling: Handling, clock: Clock
) -> Consuming:
    """The loop for one consumer, not started. Raises `UsageError` if the broker's client is not installed."""
    return Consuming(endpoint, namespace, consumer, source=_source(endpoint, consumer), handling=handling, clock=clock)


def _source(endpoint: str, consumer: Consumer) -> Source:
    place, options = consumer.place, consumer.options
    extra = "nats" if isinstance(place, NatsPlace) else "amqp" if isinstance(place, AmqpPlace) else "redis"
    try:
        if isinstance(place, NatsPlace):
            from ensue.integrations.inbound.consuming.nats_stream import NatsSource

            return NatsSource(place, options, endpoint=endpoint)
        if isinstance(place, AmqpPlace):
            from ensue.integrations.inbound.consuming.amqp_queue import AmqpSource

            return AmqpSource(place, options, endpoint=endpoint)
        from ensue.integrations.inbound.consuming.redis_stream import RedisSource

        return RedisSource(place, options, endpoint=endpoint)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"The consumer {endpoint} needs {error.name}: install it with `pip install 'ensue[{extra}]'`."
        ) from error
