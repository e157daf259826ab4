"""An error of the application's own function says in which function it was raised."""

from __future__ import annotations

import pytest

from ensue import App, Entity, Interaction, Property, Transform


class Divide(Interaction):
    by: int


class Result(Entity, derived=Transform(Divide, lambda e: {"value": 10 // e.by})):
    value: Property[int]


async def test_an_error_in_a_transform_names_the_function(database_url: str) -> None:
    async with App(interactions=[Divide], entities=[Result], database=database_url) as app:
        with pytest.raises(ZeroDivisionError) as caught:
            await app.controller.dispatch(Divide(by=0))
        assert any("test_callback_errors.py" in note and "ensue called" in note for note in caught.value.__notes__)
        assert await app.controller.store.count(Result) == 0
