"""Ids that are given by hand, beside those that are allotted."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from ensue import App, ConstraintViolated, Entity, InvalidValue, Property, Store, UsageError

ID_MAX = 2**63 - 2**32


class Note(Entity):
    text: Property[str] = Property(default="")
    weight: Property[float] = Property(default=0.0)


@pytest_asyncio.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    async with App(entities=[Note], database=database_url).run(deliver=False) as run:
        yield run.controller.store


async def test_one_that_is_taken_is_refused_also_beside_allotted_ones(store: Store) -> None:
    taken = await store.create(Note())
    for ids in ((taken.id, None), (None, taken.id), (70, None, 70)):
        with pytest.raises(ConstraintViolated, match="same id") as raised:
            await store.create_many([Note(id=given) for given in ids])
        assert raised.value.reason == "unique"
    made = await store.create_many([Note(text="a"), Note(id=70, text="b"), Note(text="c")])
    assert [note.text for note in made] == ["a", "b", "c"]
    assert made[1].id == 70
    assert [(note.id, note.text) for note in await store.find(Note)] == sorted(
        (note.id, note.text) for note in [taken, *made]
    )


async def test_one_above_which_nothing_can_be_allotted_is_refused(store: Store) -> None:
    with pytest.raises(InvalidValue, match="id"):
        await store.create(Note(id=2**63 - 1))
    assert (await store.create(Note(id=ID_MAX))).id == ID_MAX
    assert (await store.create(Note())).id > ID_MAX


async def test_a_record_that_exists_is_not_created_among_others(store: Store) -> None:
    loaded = await store.create(Note())
    with pytest.raises(UsageError, match="exists"):
        await store.create_many([Note(), loaded])
    assert await store.count(Note) == 1


async def test_an_int_that_no_float_holds_is_refused(store: Store) -> None:
    with pytest.raises(InvalidValue, match="does not fit in a float"):
        await store.create(Note(weight=10**400))
