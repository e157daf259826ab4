"""What a conformance test looks at besides results: tasks that were left running, lines that were logged, time that went by.

Decides how these are seen; leaves what is expected to the suite. Invariant: looking changes nothing, and what was
installed for it is removed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

from ensue.clock import SystemClock
from ensue.testing.faults.listener import PEER_TASK

_PAUSE_SECONDS = 0.02


async def eventually(met: Callable[[], Awaitable[object]], what: str, *, seconds_max: float) -> None:
    """Ask until `met()` is true. Raises `AssertionError` that says `what` did not happen."""
    try:
        async with asyncio.timeout(seconds_max):
            while not await met():  # noqa: ASYNC110 - conditions of all kinds, and nothing to wait for
                await asyncio.sleep(_PAUSE_SECONDS)
    except TimeoutError:
        raise AssertionError(f"{what}: not within {seconds_max:g} s") from None


class Stopwatch:
    """Real seconds since it was made."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._began = self._clock.monotonic_seconds()

    def seconds(self) -> float:
        return self._clock.monotonic_seconds() - self._began


class Tasks:
    """The tasks that were running when it was made."""

    def __init__(self) -> None:
        self._before = asyncio.all_tasks()

    def left(self) -> list[str]:
        """The names of those that were started since and still run, the peer's own left out."""
        names = [task.get_name() for task in asyncio.all_tasks() - self._before if not task.done()]
        return sorted(name for name in names if not name.startswith(PEER_TASK))

    async def expect_none_left(self, after: str, *, seconds_max: float) -> None:
        """Wait until none is left. Raises `AssertionError` naming them."""

        async def none() -> bool:
            return not self.left()

        try:
            await eventually(none, "", seconds_max=seconds_max)
        except AssertionError:
            raise AssertionError(
                f"{after}, tasks that the integration started still run: {', '.join(self.left())}. Cancel and await "
                "them in cleanup(), or enter what owns them with self.enter(...), which closes it."
            ) from None


@contextmanager
def logged() -> Generator[list[str]]:
    """The text of everything that is logged meanwhile, by any logger at any level, tracebacks included."""
    lines: list[str] = []

    class Collecting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    root, handler = logging.getLogger(), Collecting(logging.DEBUG)
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
