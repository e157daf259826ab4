"""Who waits for a batch is answered, also if the batch never ends."""

from __future__ import annotations

import asyncio

from ensue.integrations.channels.refresher import Refresher


async def test_who_waits_for_a_batch_that_is_cut_short_waits_no_longer() -> None:
    begun = asyncio.Event()

    async def apply(_: frozenset[int]) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with Refresher(apply) as refresher:
        waiting = asyncio.create_task(refresher.request([1]))
        await begun.wait()
    await asyncio.wait([waiting], timeout=5)
    assert waiting.cancelled()
