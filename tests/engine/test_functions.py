"""Functions of users inside a transaction: what they see, when they are called again, and what they may not do."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from ensue import (
    App,
    Count,
    Custom,
    Entity,
    Many,
    Mutation,
    One,
    Property,
    State,
    StateMachine,
    Sum,
    Transform,
    Transition,
)
from ensue.engine.audit import audit
from ensue.errors import UsageError


class Album(Entity):
    title: Property[str]
    tracks = Many(lambda: Track, inverse="album")
    length = Custom[int](initial=lambda a: 0, compute=lambda a, inputs: len(inputs.tracks), uses=lambda a: [a.tracks])
    sign = Custom[str](initial=lambda a: a.title, compute=lambda a, inputs: a.title + "!", uses=lambda a: [a.title])


class Track(Entity):
    album: One[Album] = One(on_delete="cascade")


async def test_a_new_record_is_computed_again_when_its_inputs_change_in_the_same_transaction(database_url: str) -> None:
    async with App(entities=[Album, Track], database=database_url) as app:
        store = app.controller.store
        async with store.transaction():
            first = await store.create(Album(title="a"))
            second = await store.create(Album(title="b"))
            await store.create(Track(album=second))
            await store.update(Album, second.id, title="c")
        assert [(album.length, album.sign) for album in await store.find(Album)] == [(0, "a"), (1, "c!")]
        assert first.sign == "a"


async def test_an_initial_value_is_not_that_of_a_record_that_was_rolled_back(database_url: str) -> None:
    async with App(entities=[Album, Track], database=database_url) as app:
        store = app.controller.store
        async with store.transaction():
            with contextlib.suppress(ZeroDivisionError):
                async with store.transaction():
                    await store.create(Album(title="gone"))
                    raise ZeroDivisionError
            album = await store.create(Album(title="here"))
        assert (await store.get(Album, album.id)).sign == "here"


class Source(Entity):
    number: Property[int]


class Derived(Entity, derived=Transform(lambda: Source, lambda s: {"number": s.number})):
    number: Property[int]
    sign = Custom[str](initial=lambda d: f"{d.id > 0} {d.number}")


class Called(
    Entity, derived=Transform(lambda: Source, compute=lambda s: {"a": 1, "b": "x"} if s.number > 5 else {"a": 2})
):
    a: Property[int]
    b: Property[str] = Property(default="none")


async def test_a_record_derived_from_a_record_has_its_initial_value(database_url: str) -> None:
    async with App(entities=[Source, Derived], database=database_url) as app:
        await app.controller.store.create(Source(number=3))
        (derived,) = await app.controller.store.find(Derived)
        assert derived.sign == "True 3"


async def test_what_the_function_of_a_transform_leaves_out_goes_back_to_its_default(database_url: str) -> None:
    async with App(entities=[Source, Called], database=database_url) as app:
        store = app.controller.store
        source = await store.create(Source(number=9))
        await store.update(Source, source.id, number=1)
        (called,) = await store.find(Called)
        assert (called.a, called.b) == (2, "none")


async def test_a_function_that_reads_while_derived_data_is_computed_is_refused(database_url: str) -> None:
    async def number(record: Any, inputs: Any) -> int:
        return await app.controller.store.count(Source)

    class Reading(Entity):
        text: Property[str]
        sources = Custom[int](compute=number, uses=lambda r: [r.text])

    async with App(entities=[Source, Reading], database=database_url) as app:
        with pytest.raises(UsageError, match="uses="):
            await app.controller.store.create("Reading", text="a")
        assert await app.controller.store.count("Reading") == 0


class Owner(Entity):
    boxes = Many(lambda: Box, inverse="owner")
    open_total = Sum(boxes, lambda b: b.item_count, where=lambda b: b.state != "closed")


class Box(Entity):
    owner: One[Owner]
    items = Many(lambda: Item, inverse="box")
    item_count = Count(items)
    state = StateMachine(
        initial="closed",
        states=[State("closed"), State("open", value=lambda last, event: opened())],
        transitions=[Transition("closed", "open", on=Mutation(lambda: Item, "create"), record=lambda e: e.record.box)],
    )


class Item(Entity):
    box: One[Box]


STORE: list[Any] = []


async def opened() -> str:
    await STORE[-1].count(Item)
    return "open"


async def test_a_function_of_a_state_that_reads_does_not_hold_an_old_image(database_url: str) -> None:
    async with App(entities=[Owner, Box, Item], database=database_url) as app:
        store = app.controller.store
        STORE.append(store)
        owner = await store.create(Owner())
        box = await store.create(Box(owner=owner))
        async with store.transaction():
            await store.create_many([Item(box=box), Item(box=box)])
        assert (await store.get(Owner, owner.id)).open_total == 2
        assert (await audit(app.controller.engine)).clean


class Meter(Entity):
    ticks = Many(lambda: Tick, inverse="meter")
    tick_count = Count(ticks)
    log = StateMachine(
        states=[
            State("on", value=lambda last, e: "" if e is None else f"{last}{e.old_record.tick_count}>{e.tick_count} ")
        ],
        initial="on",
        transitions=[
            Transition(
                "on", "on", on=Mutation(lambda: Meter, "update", of=["tick_count"]), record=lambda e: e.record.id
            )
        ],
    )


class Tick(Entity):
    meter: One[Meter]


async def test_a_read_does_not_split_the_event_of_a_derived_change(database_url: str) -> None:
    async with App(entities=[Meter, Tick], database=database_url) as app:
        store = app.controller.store
        found: list[str] = []
        for reading in (False, True):
            meter = await store.create(Meter())
            async with store.transaction():
                await store.create(Tick(meter=meter))
                if reading:
                    await store.find(Meter)
                await store.create(Tick(meter=meter))
            found.append((await store.get(Meter, meter.id)).log)
        assert found == ["on0>2 ", "on0>2 "]


async def test_a_task_started_in_a_transaction_can_write_after_it_has_ended(database_url: str) -> None:
    ended = asyncio.Event()

    async def later() -> int:
        await ended.wait()
        return (await app.controller.store.create(Source(number=2))).number

    async with App(entities=[Source], database=database_url) as app:
        async with app.controller.store.transaction():
            await app.controller.store.create(Source(number=1))
            task = asyncio.create_task(later())
        ended.set()
        assert await task == 2
