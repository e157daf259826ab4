"""A bus over Redis pub/sub that outlives restarts of Redis, and keeps the last messages of each topic there.

Decides what a failure of Redis means to whoever publishes. Leaves the subscribing connection to `redis_link`, what is
done in one step to `scripts`, and clusters to `redis_cluster`. Invariant: nothing is published while those who listen
here would miss it.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable, Collection, Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec
import redis.asyncio as redis

from ensue.clock import Clock
from ensue.errors import Unavailable
from ensue.integrations.channels import scripts
from ensue.integrations.channels.bus import Attendance, Entry, Limits, Listener, Page, Stamp, page_of
from ensue.integrations.channels.redis_link import EVERYWHERE, FAILURES, Link, Words, pool_of
from ensue.integrations.contract import Health

RETRY_SECONDS_MIN = 1.0
RETRY_SECONDS_MAX = 60.0
LOOKED_UP_AT_ONCE = 100


class RedisDown(Unavailable):
    """Redis did not take a message.

    `retry_after_seconds` grows with the outage, so that waiting effects don't press on it.
    """

    code = "E0421"

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class RedisCommands:
    """What all buses over Redis do alike: everything but following."""

    words: Words = EVERYWHERE

    def __init__(self, client: Any, *, where: str, clock: Clock, limits: Limits) -> None:
        self._client = client
        self._where = where
        self._clock = clock
        self._limits = limits
        self._process = uuid.uuid4().hex
        self._listener: Listener | None = None

    def health(self) -> Health:
        raise NotImplementedError

    async def publish(self, topic: str, text: str) -> None:
        await self._ask(topic, self._client.execute_command(self.words.publish, topic, scripts.PLAIN + text))

    async def append(self, topic: str, text: str, *, key: str) -> Stamp:
        keys = [*_log_keys(topic), scripts.KEY.format(topic, key), topic]
        limits = self._limits
        values = [text, limits.length, int(limits.seconds * 1000), self.words.publish]
        epoch, offset = await self._ask(topic, self._log_script(scripts.APPEND, keys, values))
        return Stamp(epoch, int(offset))

    async def since(self, topic: str, stamp: Stamp, *, count: int) -> Page:
        script = self._log_script(scripts.READ, _log_keys(topic), [max(0, stamp.offset), count])
        epoch, offset, found = await self._ask(topic, script)
        entries = [Entry(int(number.partition("-")[0]), fields[1]) for number, fields in found]
        return page_of(Stamp(epoch, int(offset)), stamp, entries)

    async def tops(self, topics: Collection[str]) -> Mapping[str, Stamp]:
        found: dict[str, Stamp] = {}
        waiting = list(topics)
        while waiting:
            chunk, waiting = waiting[:LOOKED_UP_AT_ONCE], waiting[LOOKED_UP_AT_ONCE:]
            for topic, (epoch, offset, _) in zip(chunk, await self._look_up(chunk), strict=True):
                found[topic] = Stamp(epoch, int(offset))
        return found

    async def attend(
        self, topic: str, *, came: Collection[int], gone: Collection[int], known: int | None
    ) -> Attendance:
        keys = [scripts.SEEN.format(topic), scripts.COUNTS.format(topic), topic]
        version = "" if known is None else str(known)
        values = [int(self._limits.presence_seconds * 1000), self._process, self.words.publish, version]
        lists = [msgspec.json.encode(sorted(users)).decode() for users in (came, gone)]
        found = await self._ask(topic, self._script(scripts.ATTEND, keys, [*values, *lists]))
        users = frozenset(int(user) for user in found[1] if user != "version") if len(found) > 1 else None
        return Attendance(int(found[0]), users)

    async def _look_up(self, topics: Sequence[str]) -> Sequence[Any]:
        """The answers of `READ` without messages, for each topic."""
        asking = [self._log_script(scripts.READ, _log_keys(topic), [0, 0]) for topic in topics]
        return await self._ask(topics[0], asyncio.gather(*asking))

    def _log_script(self, script: str, keys: Sequence[str], values: Sequence[Any]) -> Awaitable[Any]:
        return self._script(script, keys, [uuid.uuid4().hex[:8], scripts.STATE_SECONDS, *values])

    def _script(self, script: str, keys: Sequence[str], values: Sequence[Any]) -> Awaitable[Any]:
        return self._client.execute_command("EVAL", script, len(keys), *keys, *values)

    async def _ask(self, topic: str, answer: Awaitable[Any]) -> Any:
        if not self.health().up:
            # Redis may be back already, but those who listen, here as elsewhere, are not.
            _forget(answer)
            raise RedisDown(
                f"{self.health().detail}. The message is sent later.", retry_after_seconds=self._pause_seconds()
            )
        try:
            return await answer
        except FAILURES as failure:
            text = f"Redis at {self._where} did not do its part for {topic}: {failure}. It is tried again."
            raise RedisDown(text, retry_after_seconds=self._pause_seconds()) from failure

    def _pause_seconds(self) -> float:
        health = self.health()
        if health.up or health.since is None:
            return RETRY_SECONDS_MIN
        seconds = (self._clock.now() - health.since).total_seconds()
        return min(RETRY_SECONDS_MAX, max(RETRY_SECONDS_MIN, seconds / 4))

    async def message(self, topic: str, text: str) -> None:
        """A link brings a message: the stamp goes before the text."""
        if self._listener is None:
            return
        if text.startswith(scripts.STAMPED):
            epoch, offset, content = text[1:].split(":", 2)
            await self._listener.received(topic, content, Stamp(epoch, int(offset)))
        else:
            await self._listener.received(topic, text[1:], None)

    async def reconnected(self) -> None:
        """A link is back."""
        if self._listener is not None:
            await self._listener.reconnected()

    async def restored(self) -> None:
        """A link follows everything again."""
        if self._listener is not None:
            await self._listener.restored()


class RedisBus(RedisCommands):
    """An async context manager: entering starts the connection and waits for the first attempt, not for its success.

    A dead Redis is logged and shows in `health()`; the bus keeps trying and follows everything again once it is back.
    """

    def __init__(
        self, url: str, *, clock: Clock, limits: Limits | None = None, rng: random.Random | None = None
    ) -> None:
        # Two pools: the subscriber makes its one connection itself and must see the first failure; a publisher's pooled
        # connection may have died with the last restart, so it deserves a second try.
        client: Any = redis.Redis(connection_pool=pool_of(url, retries=1))
        where = place(url)
        super().__init__(client, where=where, clock=clock, limits=limits if limits is not None else Limits())
        rng = rng if rng is not None else random.Random()
        self._link = Link(pool_of(url, retries=0), self, where=where, words=EVERYWHERE, clock=clock, rng=rng)

    async def __aenter__(self) -> Self:
        await self._link.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._link.close()
        await self._client.aclose(close_connection_pool=True)

    async def listen(self, listener: Listener, control: str) -> None:
        self._listener = listener
        self._link.control = control
        await self.follow([control])

    def health(self) -> Health:
        return self._link.health

    async def follow(self, topics: Collection[str]) -> None:
        await self._link.follow(topics)

    async def unfollow(self, topics: Collection[str]) -> None:
        await self._link.unfollow(topics)

    def misplaced(self) -> None:
        """For links; there is but one server."""

    async def _look_up(self, topics: Sequence[str]) -> Sequence[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for topic in topics:
            keys = _log_keys(topic)
            values = [uuid.uuid4().hex[:8], scripts.STATE_SECONDS, 0, 0]
            pipeline.execute_command("EVAL", scripts.READ, len(keys), *keys, *values)
        return await self._ask(topics[0], pipeline.execute())


def open_bus(url: str, *, clock: Clock, limits: Limits) -> Any:
    """The bus for a URL: `redis://`, `rediss://`, or either with `+cluster`. Raises ValueError for another."""
    if urlsplit(url).scheme.endswith("+cluster"):
        from ensue.integrations.channels.redis_cluster import ClusterBus

        return ClusterBus(url, clock=clock, limits=limits)
    return RedisBus(url, clock=clock, limits=limits)


def place(url: str) -> str:
    """Where a URL leads to, without its secrets."""
    parts = urlsplit(url)
    return f"{parts.hostname or 'localhost'}:{parts.port or 6379}"


def _log_keys(topic: str) -> list[str]:
    return [scripts.STATE.format(topic), scripts.LOG.format(topic)]


def _forget(answer: Awaitable[Any]) -> None:
    # Not begun, and never to be: without this Python warns of it.
    close = getattr(answer, "close", None) or getattr(answer, "cancel", None)
    if close is not None:
        close()
