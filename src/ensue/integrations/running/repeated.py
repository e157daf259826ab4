"""Work that an integration does now and then, for as long as it runs.

Decides that a database that is away doesn't end it. Leaves what is done to its caller. Invariant: it has ended when the
context has.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from ensue.background import end_tasks
from ensue.errors import Unavailable

logger = logging.getLogger("ensue.integrations")


@asynccontextmanager
async def repeated(work: Callable[[], Awaitable[object]], *, seconds: float, name: str) -> AsyncGenerator[None]:
    """Await `work()` every so many seconds, the first time after them; `name` is what the log calls it."""

    async def repeat() -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await work()
            except Unavailable as error:
                logger.warning("%s has to wait: %s", name, error)
            except Exception:
                logger.exception("%s failed; it is tried again", name)

    task = asyncio.create_task(repeat(), name=f"ensue {name}")
    try:
        yield
    finally:
        await end_tasks(task)
