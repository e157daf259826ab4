"""How a task of an integration is ended.

Decides that cancelling once is not enough: before Python 3.12 `asyncio.wait_for`, in which clients send, loses a
cancellation that comes just as it is done, and its task goes on. Leaves what the task did to its owner. Invariant: it
is done afterwards.
"""

from __future__ import annotations

import asyncio

AGAIN_SECONDS = 0.1


async def end_task(task: asyncio.Task[None]) -> None:
    """Cancel `task` until it has ended, whatever it ended with."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=AGAIN_SECONDS)
