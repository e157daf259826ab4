"""An integration that consumes payments of one place at one broker."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from ensue import Consumer, ConsumerOptions, Inbound, Incoming, Integration
from tests.inbound.brokers import Broker
from tests.inbound.shop import PaymentEvent


class Feed(Integration):
    """Consumes payments of one place; `fails` says how often each order's message fails."""

    def __init__(self, broker: Broker, **options: Any) -> None:
        super().__init__()
        self.broker = broker
        self.options = {"url": broker.url, **options}
        self.fails: Counter[int] = Counter()
        self.seen: list[Inbound] = []
        self.gate = asyncio.Event()
        self.gate.set()

    def create_consumers(self) -> list[Consumer]:
        return [Consumer("payments", self._paid, self.broker.place, ConsumerOptions(**self.options))]

    async def _paid(self, message: Inbound) -> Incoming:
        self.seen.append(message)
        await self.gate.wait()
        order = message.json()["order"]
        if self.fails[order] > 0:
            self.fails[order] -= 1
            raise LookupError(f"order {order}")
        return PaymentEvent(order_number=order)
