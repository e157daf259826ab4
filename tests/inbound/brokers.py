"""The brokers that consumers are tested on: how a test publishes, counts what is left, and takes the broker away."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast
from uuid import uuid4

import aio_pika
import nats
import nats.js.errors
import pytest
import redis.asyncio

from ensue import AmqpPlace, NatsPlace, RedisPlace
from tests.inbound.amqp_double import AmqpDouble

OVERRIDE = "ENSUE_TEST_AMQP"


class Broker:
    """One place at one broker. `server` is what `stop`, `kill` and `start` act on."""

    def __init__(self, url: str, server: Any) -> None:
        self.url = url
        self.server = server
        self.name = f"t{uuid4().hex[:12]}"

    place: Any

    def describe(self) -> None:
        """Set `place`."""
        raise NotImplementedError

    async def open(self) -> None:
        """Make what consumers expect to be there."""
        self.describe()

    async def publish(self, body: bytes, *, id_: str | None = None) -> None:
        raise NotImplementedError

    async def left(self) -> int:
        """How many messages have not been acknowledged."""
        raise NotImplementedError

    async def remove(self) -> None:
        """Delete the place, with what is in it."""
        raise NotImplementedError

    async def close(self) -> None: ...


class NatsBroker(Broker):
    def describe(self) -> None:
        self.place = NatsPlace(subject=f"{self.name}.*", durable=self.name)

    async def open(self) -> None:
        await super().open()
        async with self._stream() as stream:
            await stream.add_stream(name=self.name, subjects=[f"{self.name}.*"])

    async def publish(self, body: bytes, *, id_: str | None = None) -> None:
        async with self._stream() as stream:
            await stream.publish(f"{self.name}.x", body, headers={"Nats-Msg-Id": id_} if id_ else None)

    async def left(self) -> int:
        async with self._stream() as stream:
            try:
                found = await stream.consumer_info(self.name, self.name)
            except nats.js.errors.NotFoundError:
                return (await stream.stream_info(self.name)).state.messages
            return cast("int", found.num_pending + found.num_ack_pending)

    async def remove(self) -> None:
        async with self._stream() as stream:
            await stream.delete_stream(self.name)

    @asynccontextmanager
    async def _stream(self) -> AsyncIterator[Any]:
        client = await cast("Any", nats).connect(self.url, allow_reconnect=False)
        try:
            yield client.jetstream()
        finally:
            await client.close()


class RedisBroker(Broker):
    def describe(self) -> None:
        self.place = RedisPlace(stream=self.name, group="g", field="body")

    async def publish(self, body: bytes, *, id_: str | None = None) -> None:
        async with self._client() as client:
            await client.xadd(self.name, {"body": body, "tried": "1"})

    async def left(self) -> int:
        async with self._client() as client:
            groups = await client.xinfo_groups(self.name) if await client.exists(self.name) else []
            if not groups:
                return cast("int", await client.xlen(self.name))
            return cast("int", groups[0]["pending"] + (groups[0]["lag"] or 0))

    async def remove(self) -> None:
        async with self._client() as client:
            await client.delete(self.name)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Any]:
        async with cast("Any", redis.asyncio.Redis).from_url(self.url) as client:
            yield client


class AmqpBroker(Broker):
    """RabbitMQ, or whatever `ENSUE_TEST_AMQP` names; its server can't be stopped by a test."""

    def describe(self) -> None:
        self.place = AmqpPlace(queue=self.name)

    async def open(self) -> None:
        await super().open()
        self._connection = await aio_pika.connect(self.url)
        self._channel = await self._connection.channel()
        await self._channel.declare_queue(self.name, durable=True)

    async def publish(self, body: bytes, *, id_: str | None = None) -> None:
        message = aio_pika.Message(body, message_id=id_, headers={"tried": 1}, delivery_mode=2)
        await self._channel.default_exchange.publish(message, self.name)

    async def left(self) -> int:
        """What waits; what is unacknowledged is not told by the protocol, and waits again once its consumer is gone."""
        queue = await self._channel.declare_queue(self.name, passive=True)
        return queue.declaration_result.message_count or 0

    async def remove(self) -> None:
        await self._channel.queue_delete(self.name)
        await self._connection.close()

    async def close(self) -> None:
        await self._channel.queue_delete(self.name)
        await self._connection.close()


class DoubleBroker(Broker):
    def describe(self) -> None:
        self.place = AmqpPlace(queue=self.name)

    async def open(self) -> None:
        await super().open()
        self.server.queues[self.name] = deque()

    async def publish(self, body: bytes, *, id_: str | None = None) -> None:
        self.server.publish(self.name, body, id_)

    async def left(self) -> int:
        return cast("int", self.server.left(self.name))

    async def remove(self) -> None:
        self.server.delete(self.name)


def broker_of(request: pytest.FixtureRequest, kind: str, *, own: bool = False) -> Broker:
    """A broker of the kind `nats`, `redis` or `amqp`; with `own` its server is the test's."""
    if kind == "amqp" and not own and (url := os.environ.get(OVERRIDE)):
        return AmqpBroker(url, None)
    if kind == "amqp":
        double = AmqpDouble()
        request.getfixturevalue("monkeypatch").setattr(aio_pika, "connect", double.connect)
        return DoubleBroker("amqp://double", double)
    made: Mapping[str, Callable[..., Broker]] = {"nats": NatsBroker, "redis": RedisBroker}
    if not own:
        return made[kind](request.getfixturevalue(f"{kind}_url"), None)
    server = request.getfixturevalue("nats_server" if kind == "nats" else "lasting_redis")
    return made[kind](server.url, server)


async def until(met: Callable[[], Any], *, seconds: float = 20.0) -> None:
    """Wait until `met()` (which may be awaited) is true."""
    async with asyncio.timeout(seconds):
        while True:
            found = met()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return
            await asyncio.sleep(0.02)
