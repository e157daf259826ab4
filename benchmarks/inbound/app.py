"""The app that is measured: one webhook, and consumers at two brokers, each making one record.

Decides how little there is besides the way in. Leaves measuring to `__main__`.
"""

from __future__ import annotations

import os

from ensue import (
    App,
    Consumer,
    ConsumerOptions,
    Entity,
    Inbound,
    Incoming,
    Integration,
    NatsPlace,
    Property,
    RedisPlace,
    StandardWebhooks,
    webhook,
)

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - of a published example
NAME = "measured"


class Arrived(Entity):
    number: Property[int]


class Measured(Integration):
    """Consumes if `BENCH_BROKER` says where."""

    @webhook(verify=StandardWebhooks(secret=SECRET))
    async def arrived(self, message: Inbound) -> Incoming:
        return Arrived(number=message.json()["number"])

    def create_consumers(self) -> list[Consumer]:
        url = os.environ.get("BENCH_BROKER", "")
        if not url:
            return []
        nats = NatsPlace(subject=NAME, durable=NAME)
        place = nats if url.startswith("nats:") else RedisPlace(stream=NAME, field="body")
        options = ConsumerOptions(url=url, batch=int(os.environ.get("BENCH_BATCH", "32")))
        return [Consumer("consumed", self.arrived, place, options)]


app = App(
    entities=[Arrived],
    integrations={"m": Measured()},
    database=os.environ.get("BENCH_DATABASE", "sqlite:///:memory:"),
)
