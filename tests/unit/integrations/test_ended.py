"""A task is ended, also where its first cancellation is lost."""

from __future__ import annotations

import asyncio

from ensue.integrations.running.ended import end_task


async def test_a_cancellation_that_is_lost_is_repeated() -> None:
    lost = 0

    async def stubborn() -> None:
        nonlocal lost
        while lost < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                lost += 1
        await asyncio.Event().wait()

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await end_task(task)
    assert (lost, task.cancelled()) == (2, True)


async def test_one_that_has_ended_or_failed_is_left_alone() -> None:
    async def fail() -> None:
        raise LookupError("gone")

    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    await end_task(task)
    assert isinstance(task.exception(), LookupError)
