"""The end of workflows, heard of by one process for all: whoever holds the lease asks the server, and others stand by.

Decides who asks, how often, and when everything is looked at anew. Leaves what an end means to its user. Invariants: at
most a lease after its holder died another asks; being asked by two at once does no harm, because an end is told once;
and what the server's listing misses is found by looking at each open workflow.
"""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from ensue.background import Background, end_tasks
from ensue.clock import Clock
from ensue.errors import ConstraintViolated, EnsueError, Unavailable
from ensue.integrations.workflows.records import WorkflowWatch

if TYPE_CHECKING:
    from ensue.engine.store import Store

logger = logging.getLogger("ensue.integrations.temporal")

LEASE: Final = timedelta(seconds=15)
"""How long it takes at most until another process asks, by default."""
FAILED_SECONDS_MAX: Final = 30.0


class Lease:
    """Held by one process at a time, by the app's clock. That clocks differ costs time or a second look, nothing else."""

    def __init__(self, store: Store, name: str, *, clock: Clock, length: timedelta = LEASE) -> None:
        self._store = store
        self._name = name
        self._clock = clock
        self._length = length
        self._holder = uuid.uuid4().hex
        self._until = clock.now()
        self._ask_at = clock.now()

    @property
    def seconds(self) -> float:
        """How long it lasts unless prolonged."""
        return self._length.total_seconds()

    async def held(self) -> bool:
        """Whether it is ours, taken or prolonged if need be."""
        now = self._clock.now()
        if now >= self._ask_at:
            if await self._take():
                self._until = now + self._length
            # A third of it for either: prolonged in time, and taken over soon.
            self._ask_at = now + self._length / 3
        return now < self._until

    async def release(self) -> None:
        """Give it back, so that another need not wait; what can't be given back ends by itself."""
        if self._clock.now() < self._until:
            self._until = self._ask_at = self._clock.now()
            mine = (WorkflowWatch.name == self._name) & (WorkflowWatch.holder == self._holder)
            with suppress(Unavailable):
                await self._store.update_many(WorkflowWatch, mine, until=self._until)

    async def _take(self) -> bool:
        now = self._clock.now()
        free = (WorkflowWatch.holder == self._holder) | (WorkflowWatch.until <= now)
        values: dict[str, Any] = {"holder": self._holder, "until": now + self._length}
        if await self._store.update_many(WorkflowWatch, (WorkflowWatch.name == self._name) & free, **values):
            return True
        if await self._store.count(WorkflowWatch, WorkflowWatch.name == self._name):
            return False
        with suppress(ConstraintViolated):
            await self._store.create(WorkflowWatch(name=self._name, **values))
            return True
        return False


class Watch(Background):
    """An async context manager: while it is open, `look` is called every `seconds` by whoever holds the lease.

    `look(True)` is its first call by a new holder, and after `anew_seconds` again: then everything is to be looked at.
    """

    task_name = "ensue.temporal.watch"

    def __init__(
        self,
        lease: Lease,
        look: Callable[[bool], Awaitable[None]],
        *,
        seconds: float,
        anew_seconds: float,
        clock: Clock,
    ) -> None:
        self._lease = lease
        self._look = look
        self._seconds = seconds
        self._anew_seconds = anew_seconds
        self._clock = clock
        self._anew_at: float | None = None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, trace)
        await self._lease.release()

    async def once(self) -> bool:
        """Look, if the lease is ours; gives whether it is."""
        if not await self._lease.held():
            self._anew_at = None
            return False
        now = self._clock.monotonic_seconds()
        anew = self._anew_at is None or now >= self._anew_at
        # Looking at many takes longer than a lease.
        keeping = asyncio.create_task(self._keep(), name="ensue-temporal-lease")
        try:
            await self._look(anew)
        finally:
            await end_tasks(keeping)
        if anew:
            self._anew_at = now + self._anew_seconds
        return True

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._lease.seconds / 3)
            try:
                await self._lease.held()
            except EnsueError as error:
                logger.warning("The lease of the watch of workflows could not be prolonged: %s", error)

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                await self.once()
                failures = 0
            except Exception as error:  # noqa: BLE001 - whatever it is, the next look may succeed, and none may end the watch
                failures += 1
                self._report(error, failures)
            pause = min(FAILED_SECONDS_MAX, self._seconds * 2 ** min(failures, 10))
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))

    def _report(self, error: Exception, failures: int) -> None:
        # Once for an outage, however long.
        if failures == 1:
            logger.warning("Looking for the ends of workflows failed, and is tried again: %s", error)
        else:
            logger.debug("Looking for the ends of workflows failed %d times: %s", failures, error)
