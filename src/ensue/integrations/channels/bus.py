"""What carries messages between processes, and the one that stays within a process.

Decides the contract of a bus: topics in, messages out, and a word when messages may have been missed. Leaves the
meaning of topics to its user. Invariant: after `follow` has returned while the bus is up, whatever is published on the
topic arrives.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from ensue.integrations.contract import Health


class Listener(Protocol):
    """Who uses a bus."""

    async def received(self, topic: str, text: str) -> None:
        """A message on a followed topic. Must not wait for anybody: all other messages are behind it."""
        ...

    async def reconnected(self) -> None:
        """The bus is back after an outage: change what is followed, if need be, before it is followed again."""
        ...

    async def restored(self) -> None:
        """Everything is followed again; messages sent during the outage may have been missed."""
        ...


class Bus(Protocol):
    """Publish and follow topics. At most once: who needs more publishes from a durable effect."""

    async def listen(self, listener: Listener, control: str) -> None:
        """Tell `listener` from now on.

        `control` is always followed, and after an outage before `reconnected` is called.
        """
        ...

    async def publish(self, topic: str, text: str) -> None:
        """Send `text` to every follower of `topic`. Raises `Unavailable` when it can't."""
        ...

    async def follow(self, topics: Collection[str]) -> None:
        """Receive these topics; returns when they are live. While the bus is down it returns at once: later, then."""
        ...

    async def unfollow(self, topics: Collection[str]) -> None:
        """Receive these topics no more."""
        ...

    def health(self) -> Health: ...


class MemoryExchange:
    """Where the memory buses of one process meet; each stands for a process of its own.

    >>> exchange = MemoryExchange()
    >>> one, other = exchange.join(), exchange.join()
    """

    def __init__(self) -> None:
        self._buses: list[MemoryBus] = []

    def join(self) -> MemoryBus:
        """A new bus that exchanges messages with all others here."""
        bus = MemoryBus(self)
        self._buses.append(bus)
        return bus

    async def deliver(self, topic: str, text: str) -> None:
        """Give a message to every bus that follows `topic`."""
        for bus in tuple(self._buses):
            await bus.receive(topic, text)


class MemoryBus:
    """A bus within one process: for `redis_url="memory://"`, and as a double in tests."""

    def __init__(self, exchange: MemoryExchange | None = None) -> None:
        self.topics: set[str] = set()
        self._exchange = exchange
        self._listener: Listener | None = None

    async def listen(self, listener: Listener, control: str) -> None:
        self._listener = listener
        self.topics.add(control)

    async def publish(self, topic: str, text: str) -> None:
        if self._exchange is not None:
            await self._exchange.deliver(topic, text)
        else:
            await self.receive(topic, text)

    async def follow(self, topics: Collection[str]) -> None:
        self.topics.update(topics)

    async def unfollow(self, topics: Collection[str]) -> None:
        self.topics.difference_update(topics)

    async def receive(self, topic: str, text: str) -> None:
        """Take a message from the exchange, if its topic is followed."""
        if topic in self.topics and self._listener is not None:
            await self._listener.received(topic, text)

    def health(self) -> Health:
        return Health(up=True, detail="within this process")
