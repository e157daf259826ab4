"""Values at the edge: given ids next to allotted ones, floats whose squares overflow, integers of 64 bits in sums."""

from __future__ import annotations

from decimal import Decimal

import pytest

from ensue import App, Average, Entity, Globals, Many, Max, One, Property, Sum
from ensue.engine.audit import audit
from ensue.errors import ConstraintViolated, InvalidValue


class Plain(Entity):
    number: Property[int] = Property(default=0)


async def test_a_given_id_is_never_allotted_even_before_the_first_block(database_url: str) -> None:
    async with App(entities=[Plain], database=database_url) as app:
        store = app.controller.store
        await store.create(Plain(id=5))
        async with store.transaction():
            made = [(await store.create(Plain())).id for _ in range(10)]
        assert len({5, *made}) == 11


async def test_a_given_id_that_is_taken_is_the_callers_mistake(database_url: str) -> None:
    async with App(entities=[Plain], database=database_url) as app:
        await app.controller.store.create(Plain(id=5))
        with pytest.raises(ConstraintViolated, match="unique"):
            await app.controller.store.create(Plain(id=5))


class Gauge(Entity):
    readings = Many(lambda: Reading, inverse="gauge")
    mean = Average(readings, lambda r: r.value)


class Reading(Entity):
    gauge: One[Gauge]
    value: Property[float]


async def test_large_floats_can_be_audited(database_url: str) -> None:
    async with App(entities=[Gauge, Reading], database=database_url) as app:
        gauge = await app.controller.store.create(Gauge())
        await app.controller.store.create_many([Reading(gauge=gauge, value=value) for value in (1e300, 3e300)])
        assert (await audit(app.controller.engine)).clean


class Ledger(Entity):
    entries = Many(lambda: Posting, inverse="ledger")
    total = Sum(entries, lambda e: e.amount)
    money = Sum(entries, lambda e: e.price)
    mean = Average(entries, lambda e: e.amount)
    ratio = Sum(entries, lambda e: e.ratio)
    largest = Max(entries, lambda e: e.amount)


class Posting(Entity):
    ledger: One[Ledger]
    amount: Property[int]
    price: Property[Decimal] = Property(default=Decimal(0), scale=2)
    ratio: Property[float] = Property(default=0.5)


class Books(Globals):
    total = Sum(lambda: Posting, lambda e: e.amount)


LEAST, MOST = -(2**63), 2**63 - 1
RICH = Decimal(MOST).scaleb(-2)


async def test_a_sum_moves_from_one_end_of_its_range_to_the_other(database_url: str) -> None:
    async with App(entities=[Ledger, Posting], globals=[Books], database=database_url) as app:
        store = app.controller.store
        ledger, other = await store.create_many([Ledger(), Ledger()])
        entry = await store.create(Posting(ledger=ledger, amount=LEAST, price=-RICH))
        await store.update(Posting, entry.id, amount=MOST, price=RICH)
        found = await store.get(Ledger, ledger.id)
        assert (found.total, found.money, found.mean, found.ratio, found.largest) == (
            MOST,
            RICH,
            float(MOST),
            0.5,
            MOST,
        )
        assert (await store.globals(Books)).total == MOST
        await store.update(Posting, entry.id, amount=LEAST, price=-RICH)
        await store.update(Posting, entry.id, ledger=other)
        moved = await store.get(Ledger, other.id)
        assert (moved.total, moved.money, moved.ratio, moved.largest) == (LEAST, -RICH, 0.5, LEAST)
        left = await store.get(Ledger, ledger.id)
        assert (left.total, left.money, left.ratio, left.largest) == (0, 0, 0, None)
        assert (await audit(app.controller.engine)).clean
        await store.delete(Posting, entry.id)
        assert (await store.globals(Books)).total == 0
        assert (await store.get(Ledger, other.id)).total == 0


async def test_a_sum_out_of_range_is_refused_and_changes_nothing(database_url: str) -> None:
    async with App(entities=[Ledger, Posting], globals=[Books], database=database_url) as app:
        store = app.controller.store
        ledger = await store.create(Ledger())
        await store.create(Posting(ledger=ledger, amount=MOST))
        for amounts in ([1], [MOST], [MOST, MOST]):
            with pytest.raises(InvalidValue, match="out of the range"):
                await store.create_many([Posting(ledger=ledger, amount=amount) for amount in amounts])
        assert (await store.get(Ledger, ledger.id)).total == MOST
        assert await store.count(Posting) == 1
