"""Values at the edge: ids that callers give next to allotted ones, floats whose squares overflow."""

from __future__ import annotations

import pytest

from ensue import App, Average, Entity, Many, One, Property
from ensue.engine.audit import audit
from ensue.errors import ConstraintViolated


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
