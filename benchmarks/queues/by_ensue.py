"""ensue: the side effect is declared on the record, and enqueued by the commit that creates it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from benchmarks.queues.contest import CONCURRENCY, Seen
from ensue import App, Effect, Entity, Integration, Property, side_effect

name = "ensue"
guarantees = "one transaction with the cause; lease, fenced completion, stable key"


class Order(Entity):
    number: Property[int]


class Outside(Integration):
    def __init__(self, seen: Seen | None) -> None:
        self._seen = seen

    @side_effect(Order, on="create", concurrency=CONCURRENCY)
    async def tell(self, effect: Effect[Order]) -> None:
        assert self._seen is not None
        self._seen(effect.record.number)


def app(database: str, seen: Seen | None) -> App:
    return App(entities=[Order], integrations={"outside": Outside(seen)}, database=database)


class EnsueProducer:
    def __init__(self, database: str) -> None:
        self._run: Any = app(f"{database}?pool=10", None).run(deliver=False)

    async def prepare(self) -> None:
        await self._run.__aenter__()

    async def produce(self, number: int) -> None:
        await self._run.controller.store.create(Order(number=number))

    async def close(self) -> None:
        await self._run.__aexit__(None, None, None)


def producer(database: str) -> EnsueProducer:
    return EnsueProducer(database)


async def work(database: str, seen: Seen, ready: Callable[[], None]) -> None:
    async with app(database, seen).run():
        ready()
        await asyncio.Event().wait()
