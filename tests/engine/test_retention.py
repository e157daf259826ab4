"""Idempotency keys: which can be kept, and for how long."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from ensue import App, Interaction
from ensue.engine.retention import prune_idempotency_keys
from ensue.errors import InvalidValue


class Ring(Interaction):
    times: int = 1


async def test_a_key_is_forgotten_after_its_time_only(database_url: str) -> None:
    app = App(interactions=[Ring], database=database_url)
    async with app:
        dispatch = app.controller.dispatch
        first = await dispatch(Ring(), idempotency_key="k")
        driver = app.controller.engine.driver
        assert await prune_idempotency_keys(driver) == 0
        assert (await dispatch(Ring(), idempotency_key="k")).replayed
        assert await prune_idempotency_keys(driver, older_than=timedelta(seconds=-1)) == 1
        again = await dispatch(Ring(), idempotency_key="k")
        assert not again.replayed
        assert again.event.id != first.event.id


async def test_a_key_that_cannot_be_kept_is_refused(database_url: str) -> None:
    wrong: list[tuple[Any, str]] = [
        ("", "has 0 characters; expected 1 to 255"),
        ("k" * 256, "has 256 characters; expected 1 to 255"),
        (5, "is a int; expected a str"),
        ("a\0", "holds a NUL character"),
    ]
    app = App(interactions=[Ring], database=database_url)
    async with app:
        for key, told in wrong:
            with pytest.raises(InvalidValue, match=told) as caught:
                await app.controller.dispatch(Ring(), idempotency_key=key)
            assert list(caught.value.fields) == ["idempotency_key"]
        assert await app.controller.store.count(Ring) == 0
        assert not (await app.controller.dispatch(Ring(), idempotency_key="k" * 255)).replayed
