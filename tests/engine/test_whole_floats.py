"""A float that happens to be whole makes floats of ints, as any other does: a type hangs on no value."""

from __future__ import annotations

from ensue import App, Computed, Count, Entity, Globals, Property, Sum


class Line(Entity):
    count: Property[int]

    doubled = Computed(lambda line: line.count * 2.0)
    one_more = Computed(lambda line: 1.0 + line.count)
    one_less = Computed(lambda line: line.count - 1.0)
    is_three = Computed(lambda line: line.count == 3.0)


class Totals(Globals):
    doubled = Sum(lambda: Line, lambda line: line.count * 2.0)
    threes = Count(lambda: Line, where=lambda line: line.count.in_([3.0]))


async def test_a_whole_float_beside_an_int(database_url: str) -> None:
    async with App(entities=[Line], globals=[Totals], database=database_url).run(deliver=False) as run:
        store = run.controller.store
        made = await store.create(Line(count=3))
        for line in (made, await store.get(Line, made.id)):
            values = (line.doubled, line.one_more, line.one_less)
            assert (values, {type(value) for value in values}) == ((6.0, 4.0, 2.0), {float})
            assert line.is_three
        totals = await store.globals(Totals)
        assert (totals.doubled, type(totals.doubled), totals.threes) == (6.0, float, 1)
