"""Idempotency keys are forgotten after their time, not before."""

from __future__ import annotations

from datetime import timedelta

from ensue import App, Interaction
from ensue.engine.retention import prune_idempotency_keys


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
