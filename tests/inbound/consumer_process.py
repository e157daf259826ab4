"""A process that consumes, and is killed after the commit of a message and before its acknowledgement.

`python -m tests.inbound.consumer_process DATABASE KIND URL NAME` prints a line for each message that it would
acknowledge now, and then waits to be killed.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from ensue.integrations.inbound.consuming.amqp_queue import AmqpSource
from ensue.integrations.inbound.consuming.nats_stream import NatsSource
from ensue.integrations.inbound.consuming.redis_stream import RedisSource
from tests.inbound.brokers import AmqpBroker, Broker, NatsBroker, RedisBroker
from tests.inbound.feed import Feed
from tests.inbound.shop import shop


async def hold(_: Any, items: Any) -> None:
    print(len(items), flush=True)
    await asyncio.Event().wait()


async def consume(database: str, kind: str, url: str, name: str) -> None:
    broker: Broker = {"nats": NatsBroker, "redis": RedisBroker, "amqp": AmqpBroker}[kind](url, None)
    broker.name = name
    broker.describe()
    NatsSource.acknowledge = RedisSource.acknowledge = AmqpSource.acknowledge = hold
    async with shop(database, integrations={"feed": Feed(broker, redeliver_seconds=1)}).run():
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(consume(*sys.argv[1:]))
