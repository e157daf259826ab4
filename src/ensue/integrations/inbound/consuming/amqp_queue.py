"""An AMQP queue as a source.

Decides how many messages are taken ahead and how they are called. Leaves the queue, its exchange and its dead letters to
whoever declared them. Invariant: what was taken and not acknowledged goes back to the queue with the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import aio_pika

from ensue.integrations.inbound.consumer import AmqpPlace, ConsumerOptions
from ensue.integrations.inbound.consuming.source import CONNECT_SECONDS, Delivered, SourceLost

Connect = Callable[..., Awaitable[Any]]
AHEAD: Final = 3
"""Batches that may be ours at a time: one at work, one that waits for another attempt, one that is next."""


class AmqpSource:
    """See `Source`. `connect` is `aio_pika.connect`."""

    def __init__(
        self, place: AmqpPlace, options: ConsumerOptions, *, endpoint: str, connect: Connect | None = None
    ) -> None:
        self._place = place
        self._options = options
        self._endpoint = endpoint
        self._connect: Connect = connect or aio_pika.connect
        self._connection: Any = None
        self._arrived: asyncio.Queue[Any] = asyncio.Queue()

    async def connect(self) -> None:
        """Connect and subscribe to the queue. A queue that is not there is an error."""
        self._arrived = asyncio.Queue()
        self._connection = await self._connect(
            self._options.url,
            timeout=CONNECT_SECONDS,
            client_properties={"connection_name": f"ensue {self._endpoint}"},
        )
        channel = await self._connection.channel()
        # One of them is always told, whichever end goes first.
        channel.close_callbacks.add(self._gone)
        self._connection.close_callbacks.add(self._gone)
        # A queue that is deleted, or moves to another node, ends the consumer and leaves the channel open.
        (await channel.get_underlay_channel()).on_consumer_cancel_callbacks.add(self._gone)
        await channel.set_qos(prefetch_count=AHEAD * self._options.batch)
        queue = await channel.get_queue(self._place.queue, ensure=True)
        await queue.consume(self._arrived.put, no_ack=False)

    async def fetch(self, count: int, seconds: float) -> Sequence[Delivered]:
        """What has arrived, or what arrives meanwhile."""
        found: list[Any] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                found.append(await self._arrived.get())
        while found and len(found) < count and not self._arrived.empty():
            found.append(self._arrived.get_nowait())
        if None in found:
            raise SourceLost("the AMQP broker ended the connection or the consumer")
        return [_delivered(message) for message in found]

    async def acknowledge(self, items: Sequence[Delivered]) -> None:
        """Each by itself: what was delivered in between may still be at work."""
        for item in items:
            await item.ticket.ack()

    async def postpone(self, item: Delivered, seconds: float) -> bool:
        """A broker gives a message back at once or not at all."""
        return False

    async def give_back(self, items: Sequence[Delivered]) -> None:
        """Back to the queue."""
        for item in items:
            await item.ticket.nack(requeue=True)

    async def close(self) -> None:
        """Disconnect; whatever was taken ahead is the queue's again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def _gone(self, *_: object) -> None:
        self._arrived.put_nowait(None)


def _delivered(message: Any) -> Delivered:
    given: dict[str, Any] = message.headers or {}
    headers = {name: _text(value) for name, value in given.items()}
    return Delivered(message.message_id, message.body, headers, message)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
