"""An AMQP broker in memory, at the boundary of aio-pika: what `aio_pika.connect` would give, as far as consumers use it.

Decides as RabbitMQ does what becomes of messages: prefetch, acknowledgement, requeue, and redelivery when a connection
goes. The suite that runs on it runs on a real broker too, where `ENSUE_TEST_AMQP` names one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any


class AmqpDouble:
    """One broker; `connect` takes the place of `aio_pika.connect`."""

    def __init__(self) -> None:
        self.queues: dict[str, deque[Message]] = {}
        self.connections: list[Connection] = []
        self.down = False

    async def connect(self, url: str, **_: Any) -> Connection:
        await asyncio.sleep(0)
        if self.down:
            raise ConnectionError("nobody listens")
        self.connections.append(Connection(self))
        return self.connections[-1]

    def publish(self, queue: str, body: bytes, message_id: str | None) -> None:
        self.queues[queue].append(Message(body, message_id))
        self.deliver()

    def delete(self, queue: str) -> None:
        del self.queues[queue]
        for connection in self.connections:
            if connection.queue == queue:
                connection.callback = None
                for callback in tuple(connection.on_consumer_cancel_callbacks):
                    callback(connection)

    def left(self, queue: str) -> int:
        """Waiting and unacknowledged."""
        return len(self.queues[queue]) + sum(len(one.unacknowledged) for one in self.connections)

    def stop(self) -> None:
        self.down = True
        for connection in tuple(self.connections):
            connection.end()

    def start(self) -> None:
        self.down = False

    def deliver(self) -> None:
        """Give what waits to whoever has room, in turn."""
        progress = True
        while progress:
            progress = sum(connection.take_one() for connection in tuple(self.connections)) > 0


class Connection:
    """Connection, channel and queue in one: each consumer has one of each."""

    def __init__(self, broker: AmqpDouble) -> None:
        self.broker = broker
        self.close_callbacks: set[Callable[..., Any]] = set()
        self.on_consumer_cancel_callbacks: set[Callable[..., Any]] = set()
        self.unacknowledged: list[Message] = []
        self.prefetch = 1
        self.queue = ""
        self.callback: Callable[[Message], Awaitable[Any]] | None = None
        self._tasks: set[Any] = set()

    async def channel(self) -> Connection:
        return self

    async def get_underlay_channel(self) -> Connection:
        return self

    async def set_qos(self, *, prefetch_count: int) -> None:
        self.prefetch = prefetch_count

    async def get_queue(self, name: str, *, ensure: bool) -> Connection:
        if ensure and name not in self.broker.queues:
            raise LookupError(f"NOT_FOUND - no queue {name!r}")
        self.queue = name
        return self

    async def consume(self, callback: Callable[[Message], Awaitable[Any]], *, no_ack: bool) -> None:
        assert not no_ack
        self.callback = callback
        self.broker.deliver()

    async def close(self) -> None:
        self.end()

    def end(self) -> None:
        if self in self.broker.connections:
            self.broker.connections.remove(self)
            self.broker.queues.get(self.queue, deque()).extendleft(reversed(self.unacknowledged))
            self.unacknowledged = []
            for callback in tuple(self.close_callbacks):
                callback(self, None)
            self.broker.deliver()

    def take_one(self) -> bool:
        waiting = self.broker.queues.get(self.queue, deque())
        if self.callback is None or not waiting or len(self.unacknowledged) >= self.prefetch:
            return False
        message = waiting.popleft()
        message.connection = self
        self.unacknowledged.append(message)
        task = asyncio.ensure_future(self.callback(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True


class Message:
    def __init__(self, body: bytes, message_id: str | None) -> None:
        self.body = body
        self.message_id = message_id
        self.headers: dict[str, Any] = {"tried": 1}
        self.connection: Connection | None = None

    async def ack(self) -> None:
        connection = self._settle()
        connection.broker.deliver()

    async def nack(self, *, requeue: bool) -> None:
        assert requeue
        connection = self._settle()
        connection.broker.queues[connection.queue].appendleft(self)
        connection.broker.deliver()

    def _settle(self) -> Connection:
        connection = self.connection
        if connection is None or self not in connection.unacknowledged:
            raise ConnectionError("the channel is closed")
        connection.unacknowledged.remove(self)
        return connection
