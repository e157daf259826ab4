"""Tasks that work in the background: begun with their owner, and ended with it.

Decides that cancelling once is not enough: before Python 3.12 `asyncio.wait_for`, in which clients send, loses a
cancellation that comes just as it is done, and its task goes on. Leaves what a task does to its owner. Invariants: after
`end_tasks` without a bound, and after a `Background` was left, nothing of them runs any more; one that ended by an error of
its own is told of at once.
"""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Any, ClassVar, Final, Self

_logger = logging.getLogger("ensue")

AGAIN_SECONDS: Final = 0.5
"""Between two cancellations of a task: it may be closing something, which a second one would cut short."""


async def end_tasks(*tasks: asyncio.Task[Any] | None, within_seconds: float | None = None) -> bool:
    """Cancel `tasks` until they have ended, whatever they ended with; None is no task.

    Without a bound it returns once all have ended. With one it may give up, and answers whether all have.

    >>> await end_tasks(self._loop, *self._calls, within_seconds=5.0)
    True
    """
    loop = asyncio.get_running_loop()
    end = float("inf") if within_seconds is None else loop.time() + within_seconds
    while running := [task for task in tasks if task is not None and not task.done()]:
        left = min(AGAIN_SECONDS, end - loop.time())
        if left <= 0:
            return False
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=left)
    return True


class Background:
    """An async context manager with a task: `_run` works while it is entered.

        class Watch(Background):
            task_name = "ensue.watch"

            async def _run(self) -> None: ...

    Override `__aexit__` for what is to be done after the task has ended, and call this one first.
    """

    task_name: ClassVar[str] = "ensue.background"
    _task: asyncio.Task[None] | None = None

    async def _run(self) -> None:
        raise NotImplementedError(f"{type(self).__name__} does nothing in the background: it has no _run.")

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=self.task_name)
        self._task.add_done_callback(_report)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        await end_tasks(task)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _logger.error("%s has ended by an error, and does nothing any more", task.get_name(), exc_info=error)
