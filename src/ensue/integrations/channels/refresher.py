"""Reads again, in batches, what has changed, however often and from wherever that is said.

Decides when to read and for whom; leaves reading and applying to the given function. Invariants: two batches never
overlap, so an older answer can't overwrite a newer one; a request made while a batch runs is answered by a later
batch.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType

from ensue.background import Background

logger = logging.getLogger("ensue.integrations.redis_channels")

RETRY_SECONDS_MAX = 1.0
BATCH_MAX = 500

Apply = Callable[[frozenset[int]], Awaitable[None]]


class Refresher(Background):
    """An async context manager whose task calls `apply(users)` for those that were asked for.

    `request` waits for the batch and raises what it raised; `note` doesn't wait, and its users are tried until it
    works.
    """

    task_name = "ensue.refresher"

    def __init__(self, apply: Apply) -> None:
        self._apply = apply
        self._noted: set[int] = set()
        self._asked: dict[int, list[asyncio.Future[None]]] = {}
        self._some = asyncio.Event()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, trace)
        for future in [future for waiting in self._asked.values() for future in waiting]:
            future.cancel()

    def note(self, users: Iterable[int]) -> None:
        """These need reading again, soon."""
        self._noted.update(users)
        if self._noted:
            self._some.set()

    async def request(self, users: Iterable[int]) -> None:
        """Read these again and return when that was applied. Raises what reading raised."""
        waiting: list[asyncio.Future[None]] = []
        for user in users:
            future = asyncio.get_running_loop().create_future()
            self._asked.setdefault(user, []).append(future)
            waiting.append(future)
        if waiting:
            self._some.set()
            outcomes = await asyncio.gather(*waiting, return_exceptions=True)
            for outcome in outcomes:
                if outcome is not None:
                    raise outcome

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            self._some.clear()
            while batch := self._next_batch():
                await self._one(batch)

    def _next_batch(self) -> frozenset[int]:
        users = [*self._asked, *(user for user in self._noted if user not in self._asked)]
        return frozenset(users[:BATCH_MAX])

    async def _one(self, batch: frozenset[int]) -> None:
        asked = [future for user in batch for future in self._asked.pop(user, [])]
        noted = self._noted & batch
        self._noted -= batch
        try:
            await self._apply(batch)
        except asyncio.CancelledError:
            for future in asked:
                future.cancel()
            raise
        except Exception as error:
            for future in asked:
                if not future.done():
                    future.set_exception(error)
            self._noted |= noted
            if noted:
                logger.exception("reading the channels of %d users failed; it is tried again", len(batch))
                await asyncio.sleep(random.uniform(0, RETRY_SECONDS_MAX))
        else:
            for future in asked:
                if not future.done():
                    future.set_result(None)
