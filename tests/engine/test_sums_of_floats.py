"""A sum of floats that no float holds is an error, as every result is: infinity is never stored."""

from __future__ import annotations

import pytest

from ensue import App, Average, Entity, Globals, InvalidValue, Many, Maybe, Property, Sum
from ensue.engine.audit import audit

HUGE = 1e308


class Box(Entity):
    items = Many(lambda: Item, inverse="box")
    weight = Sum(items, lambda item: item.weight)
    mean = Average(items, lambda item: item.weight)


class Item(Entity):
    weight: Property[float]
    box: Maybe[Box] = Maybe(default=None)


class Totals(Globals):
    weight = Sum(lambda: Item, lambda item: item.weight * 0.25)


async def test_what_overflows_is_refused(database_url: str) -> None:
    async with App(entities=[Box], globals=[Totals], database=database_url).run(deliver=False) as run:
        store = run.controller.store
        box, other = await store.create_many([Box(), Box()])
        first = await store.create(Item(weight=HUGE, box=box))
        with pytest.raises(InvalidValue, match="out of"):
            await store.create(Item(weight=HUGE, box=box))
        with pytest.raises(InvalidValue, match="out of"):
            await store.create_many([Item(weight=HUGE, box=other), Item(weight=HUGE, box=other)])
        await store.create_many([Item(weight=HUGE, box=other), Item(weight=1.5, box=box)])
        with pytest.raises(InvalidValue, match="out of"):
            await store.update(Item, first.id, box=other)
        with pytest.raises(InvalidValue, match="out of"):
            await store.update_many(Item, Item.weight > 2.0, box=box)

        await store.update(Item, first.id, weight=-HUGE)
        assert [(box.weight, box.mean) for box in await store.find(Box)] == [(-HUGE, -HUGE / 2), (HUGE, HUGE)]
        assert (await audit(run.controller.engine)).clean
