"""Ids that callers give, next to those that are allotted."""

from __future__ import annotations

import pytest

from ensue import App, Entity, Property
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
