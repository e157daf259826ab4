"""A call in a transaction that fails half-way, and whose error is caught: nothing is committed, but for a savepoint around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from ensue import (
    App,
    Count,
    Custom,
    Entity,
    Many,
    Mutation,
    One,
    Property,
    Rejected,
    State,
    StateMachine,
    Store,
    Sum,
    Transform,
    Transition,
    UsageError,
)
from ensue.engine.audit import audit


def refuse(number: int, unwanted: int) -> None:
    if number == unwanted:
        raise Rejected("unwanted", f"no {unwanted}")


def counted(last: int | None, event: Any) -> int:
    refuse(event.record.number, 13)
    return (last or 0) + 1


def copied(item: Any) -> dict[str, Any]:
    refuse(item.number, 14)
    return {"number": item.number, "item": item}


async def listed(_: Any, inputs: Any) -> str:
    if any(item.number == 16 for item in inputs.items):
        await asyncio.Event().wait()
    for item in inputs.items:
        refuse(item.number, 15)
    return " ".join(sorted(str(item.number) for item in inputs.items))


counting = State("counting", value=counted)


class Box(Entity):
    items = Many(lambda: Item, inverse="box")
    count = Count(items)
    total = Sum(items, lambda item: item.number)
    seen = StateMachine[int | None](
        states=[counting],
        initial=counting,
        transitions=[
            Transition(counting, counting, on=Mutation("Item", "create"), record=lambda event: event.record.box.id)
        ],
    )
    numbers = Custom[str](compute=listed, uses=lambda box: [box.items.fields(Item.number)])


class Item(Entity):
    number: Property[int]
    box: One[Box] = One(on_delete="cascade")


class Copy(Entity, derived=Transform(lambda: Item, compute=copied)):
    number: Property[int]
    item: One[Item]


@pytest_asyncio.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    async with App(entities=[Box, Copy], database=database_url).run(deliver=False) as run:
        yield run.controller.store
        assert (await audit(run.controller.engine)).clean


async def create(store: Store, box: Box, number: int) -> None:
    await store.create(Item(number=number, box=box))
    await store.get(Box, box.id)


async def update(store: Store, box: Box, number: int) -> None:
    item = await store.create(Item(number=1, box=box))
    await store.update(Item, item.id, number=number)
    await store.count(Copy)


FAILING = [(create, 13), (create, 14), (create, 15), (update, 14), (update, 15)]
Fails = Callable[[Store, Box, int], Awaitable[None]]


@pytest.mark.parametrize(("fails", "number"), FAILING)
async def test_nothing_is_committed_with_it(store: Store, fails: Fails, number: int) -> None:
    box = await store.create(Box())

    async def goes_on() -> None:
        async with store.transaction():
            await store.create(Item(number=7, box=box))
            with pytest.raises(Rejected, match=f"no {number}"):
                await fails(store, box, number)
            for call in (lambda: store.get(Box, box.id), lambda: store.create(Item(number=2, box=box))):
                with pytest.raises(UsageError, match="failed half-way"):
                    await call()

    with pytest.raises(UsageError, match=f"failed half-way .*no {number}"):
        await goes_on()
    assert await store.count(Item) == 0


@pytest.mark.parametrize(("fails", "number"), FAILING)
async def test_a_savepoint_around_it_takes_it_back(store: Store, fails: Fails, number: int) -> None:
    box = await store.create(Box())
    async with store.transaction():
        await store.create(Item(number=7, box=box))
        with pytest.raises(Rejected, match=f"no {number}"):
            async with store.transaction():
                await fails(store, box, number)
        await store.create(Item(number=2, box=box))
    box = await store.get(Box, box.id)
    assert (box.count, box.total, box.seen, box.numbers) == (2, 9, 2, "2 7")
    assert await store.count(Copy) == 2


async def test_a_call_that_took_too_long_is_one_that_failed(store: Store) -> None:
    box = await store.create(Box())

    async def goes_on() -> None:
        async with store.transaction():
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await create(store, box, 16)
            await store.create(Item(number=2, box=box))

    with pytest.raises(UsageError, match="failed half-way"):
        await goes_on()
    assert await store.count(Item) == 0


async def test_what_was_refused_before_anything_was_done_may_be_caught(store: Store) -> None:
    box = await store.create(Box())
    async with store.transaction():
        await store.create(Item(number=7, box=box))
        for call in (
            lambda: store.get(Box, 99),
            lambda: store.delete(Item, 99),
            lambda: store.create("Item", number="x", box=box),
        ):
            with pytest.raises((LookupError, Rejected)):
                await call()
    assert (await store.get(Box, box.id)).count == 1
