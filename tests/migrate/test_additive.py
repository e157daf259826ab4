"""Additions to a schema are applied over data and leave an audit nothing to find; anything else is refused and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest

from ensue import (
    AnyOf,
    Average,
    Computed,
    Count,
    Custom,
    Entity,
    EveryOf,
    Globals,
    Many,
    Max,
    Maybe,
    Mutation,
    One,
    Property,
    StateMachine,
    Sum,
    Transform,
    Transition,
    now,
)
from ensue.engine.audit import audit, format_report
from ensue.errors import DeclarationError
from ensue.migrate.additive import adopt, apply_additive, plan_additive
from ensue.migrate.catalogue import SchemaMismatch
from ensue.migrate.install import prepare_database
from ensue.store.statement import Statement
from tests.migrate.versions import Classes, app, compiled, opened, sql


def first() -> Classes:
    class Item(Entity):
        amount: Property[int]
        box: One[Box]

    class Box(Entity):
        name: Property[str]
        items = Many(lambda: Item, inverse="box")
        n = Count(items)

    return Item, Box


def second() -> tuple[Classes, Classes]:
    class Item(Entity):
        amount: Property[int]
        box: One[Box]
        weight: Property[float] = Property(default=-1.5)
        price: Property[Decimal] = Property(scale=2, default=Decimal("2.50"))
        fresh: Property[bool] = Property(default=True)
        note: Property[str | None]
        at: Property[datetime] = Property(default=now, index=True)
        key: Property[UUID] = Property(default=uuid4, unique=True)
        small: Property[int] = Property(default=1, check=lambda v: v < 10)
        owner: Maybe[Person] = Maybe(default=None)
        double = Computed(lambda i: i.amount * 2)
        place = Computed[str](lambda i: "in " + i.box.name)
        status = StateMachine(
            initial="new",
            transitions=[Transition("new", "sold", on=Mutation(lambda: Person, "create"), record=lambda e: 1)],
        )

    class Person(Entity):
        name: Property[str]
        items = Many(lambda: Item, inverse="owner")
        item_count = Count(items)

    class Box(Entity):
        name: Property[str]
        items = Many(lambda: Item, inverse="box")
        n = Count(items, where=lambda i: i.amount > 1)
        total = Sum(items, lambda i: i.double)
        mean = Average(items, lambda i: i.price)
        best = Max(items, lambda i: i.weight)
        any_fresh = AnyOf(items, lambda i: i.fresh)
        all_big = EveryOf(items, lambda i: i.amount > 1)
        label = Computed[str](lambda b: b.name + "!")

    class Copy(Entity, derived=Transform(lambda: Item, lambda i: {"amount": i.double, "item": i})):
        amount: Property[int]
        item: One[Item] = One(on_delete="cascade")

    class Stock(Globals):
        items = Count(lambda: Item)
        total = Sum(lambda: Box, lambda b: b.total)

    return (Item, Person, Box, Copy), (Stock,)


async def fill(url: str, classes: Classes) -> None:
    item, box = classes
    async with app(classes, url) as running:
        store = running.controller.store
        for n in range(3):
            made = await store.create(box(name=f"b{n}"))
            for m in range(n):
                await store.create(item(amount=m + 1, box=made))


async def test_additions_over_data(database_url: str) -> None:
    await fill(database_url, first())
    classes, globals_ = second()
    async with opened(database_url) as driver:
        plan = compiled(driver, classes, globals_)
        planned = await plan_additive(plan, driver)
        assert not planned.refused
        assert "Column item.owner_id: new in the app" in str(planned)
        await apply_additive(plan, driver)
        assert (await apply_additive(plan, driver)).empty
        await prepare_database(plan, driver)
        report = await audit(plan, driver)
        assert report.clean, format_report(report)
        assert await sql(driver, "SELECT n, total, name FROM box ORDER BY id") == [
            (0, 0, "b0"),
            (0, 2, "b1"),
            (1, 6, "b2"),
        ]
        assert await sql(driver, "SELECT items, total FROM stock") == [(3, 8)]
        assert await sql(driver, "SELECT amount FROM copy ORDER BY ensue_source") == [(2,), (2,), (4,)]
        assert await sql(
            driver, "SELECT count(DISTINCT key), min(status), min(status__state), min(place) FROM item"
        ) == [(3, "new", "new", "in b1")]
    async with app(classes, database_url, globals_) as running:
        item, person, box, _ = classes
        store = running.controller.store
        owner = await store.create(person(name="ann"))
        made = await store.create(item(amount=9, box=box.ref(1), owner=owner, note="x"))
        assert (await store.get(person, owner.id)).item_count == 1
        assert (await store.get(box, 1)).total == 18
        assert (await store.get(item, made.id)).status == "new"
        with pytest.raises(Exception, match=r"check|small"):
            await store.create(item(amount=9, box=box.ref(1), note=None, small=11))
        report = await audit(running.controller.engine)
        assert report.clean, format_report(report)


def removed() -> Classes:
    class Item(Entity):
        box: One[Box]

    class Box(Entity):
        name: Property[str]
        items = Many(lambda: Item, inverse="box")
        n = Count(items)

    return Item, Box


def required() -> Classes:
    class Item(Entity):
        amount: Property[int]
        colour: Property[str]
        box: One[Box]
        shelf: One[Box]

    class Box(Entity):
        name: Property[str]
        items = Many(lambda: Item, inverse="box")
        others = Many(lambda: Item, inverse="shelf")
        n = Count(items)

    return Item, Box


def derived() -> Classes:
    class Item(Entity):
        amount = Computed(lambda i: i.box.n + 1)
        box: One[Box]

    class Box(Entity):
        name: Property[str]
        items = Many(lambda: Item, inverse="box")
        n = Count(items)

    return Item, Box


def retyped() -> Classes:
    class Item(Entity):
        amount: Property[int | None]
        box: One[Box]

    class Box(Entity):
        name: Property[str]
        items = Many(lambda: Item, inverse="box")
        n = Count(items)

    return Item, Box


@pytest.mark.parametrize(
    ("version", "named"),
    [
        (removed, ["Column item.amount: the database has it"]),
        (required, ["Column item.colour: it is required", "Column item.shelf_id: it is required"]),
        (derived, ["Definition item.amount: new in the app", "would be lost"]),
        (retyped, ["Column item.amount: is", "NOT NULL in the database"]),
    ],
)
async def test_what_does_not_add_is_refused(
    version: Callable[[], Classes], named: list[str], database_url: str
) -> None:
    await fill(database_url, first())
    async with opened(database_url) as driver:
        before = await sql(driver, "SELECT value FROM ensue_meta")
        plan = compiled(driver, version())
        assert (await plan_additive(plan, driver)).refused
        with pytest.raises(DeclarationError) as caught:
            await apply_additive(plan, driver)
        for text in named:
            assert text in str(caught.value)
        assert await sql(driver, "SELECT value FROM ensue_meta") == before
        assert await sql(driver, "SELECT sum(amount) FROM item") == [(4,)]


async def test_an_empty_database_is_installed(database_url: str) -> None:
    async with opened(database_url) as driver:
        plan = compiled(driver, first())
        await apply_additive(plan, driver)
        await prepare_database(plan, driver)
        assert (await audit(plan, driver)).clean


async def test_duplicates_stop_a_new_unique_constraint(database_url: str) -> None:
    def unique() -> Classes:
        class Box(Entity):
            name: Property[str] = Property(unique=True)
            items = Many(lambda: Item, inverse="box")
            n = Count(items)

        class Item(Entity):
            amount: Property[int]
            box: One[Box]

        return Item, Box

    await fill(database_url, first())
    async with opened(database_url) as driver:
        plan = compiled(driver, unique())
        await driver.script([Statement("twice", "UPDATE box SET name = 'same'")])
        with pytest.raises(SchemaMismatch, match=r"box\(name\): .*same value of name.*migrate again"):
            await apply_additive(plan, driver)
        await driver.script([Statement("apart", "UPDATE box SET name = 'b' || CAST(id AS TEXT)")])
        await apply_additive(plan, driver)
        with pytest.raises(Exception, match="same value of name"):
            await driver.script([Statement("twice", "UPDATE box SET name = 'same'")])


async def test_states_that_are_gone_must_be_empty(database_url: str) -> None:
    def machine(*states: str) -> Classes:
        class Step(Entity):
            job: One[Job]

        class Job(Entity):
            name: Property[str]
            status = StateMachine(
                initial="new",
                transitions=[
                    Transition(before, after, on=Mutation(Step, "create"), record=lambda e: e.record.job)
                    for before, after in pairwise(("new", *states))
                ],
            )

        return Job, Step

    async with opened(database_url) as driver:
        await prepare_database(compiled(driver, machine("done", "lost")), driver)
    classes = machine("done", "lost")
    async with app(classes, database_url) as running:
        store = running.controller.store
        job: Any = await store.create(classes[0](name="x"))
        await store.create(classes[1](job=job))
        assert (await store.get(classes[0], job.id)).status == "done"
    async with opened(database_url) as driver:
        await apply_additive(compiled(driver, machine("done", "lost", "sent")), driver)
        with pytest.raises(DeclarationError, match="states that are gone"):
            await apply_additive(compiled(driver, machine("lost")), driver)
        await driver.script([Statement("move", "UPDATE job SET status = 'lost', status__state = 'lost'")])
        await apply_additive(compiled(driver, machine("lost")), driver)


async def test_a_database_changed_by_hand_is_adopted(database_url: str) -> None:
    await fill(database_url, first())
    async with opened(database_url) as driver:
        plan = compiled(driver, removed())
        with pytest.raises(DeclarationError, match=r"Column item\.amount is not in the app"):
            await adopt(plan, driver)
        await driver.script(
            [Statement("drop", "ALTER TABLE item DROP COLUMN amount"), Statement("bad", "UPDATE box SET n = 9")]
        )
        await adopt(plan, driver)
        await prepare_database(plan, driver)
        assert (await audit(plan, driver)).clean


async def test_a_new_function_is_called_for_the_records_that_are_there(database_url: str) -> None:
    def before() -> Classes:
        class Item(Entity):
            name: Property[str]

        return (Item,)

    def after() -> Classes:
        class Item(Entity):
            name: Property[str]
            slug = Custom[str](compute=lambda item, _: item.name.lower(), uses=lambda item: [item.name])

        return (Item,)

    async with app(before(), database_url).run() as run:
        await run.controller.store.create_many([run.model.records["Item"].cls(name=name) for name in ("A", "B")])
    async with opened(database_url) as driver:
        await apply_additive(compiled(driver, after()), driver)
        assert await sql(driver, "SELECT slug FROM item ORDER BY id") == [("a",), ("b",)]
