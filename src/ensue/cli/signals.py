"""SIGINT and SIGTERM while a command serves or delivers.

Decides that the first one asks the command to stop and the second ends the process at once. Leaves what stopping means
to the command. Invariants: the second has its effect also while a function blocks the event loop, and as the first process
of a container, which the system's own handling of signals would spare; outside of the context handlers are as before.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
ENDED_BY: Final = 128
"""What is added to a signal's number for the exit status, as shells do: 130 for SIGINT, 143 for SIGTERM."""


class Signals:
    """A context manager around the event loop; `attach`, on the loop, says what the first signal calls.

    >>> with Signals() as signals:
    ...     asyncio.run(work(signals))  # calls signals.attach(stopping.set)
    """

    def __init__(self) -> None:
        self._stop: Callable[[], None] | None = None
        self._told = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def attach(self, stop: Callable[[], None]) -> None:
        """Call `stop` on the running loop at the first signal; at once, if that has come already."""
        loop = asyncio.get_running_loop()
        self._stop = lambda: _tell(loop, stop)
        if self._told:
            self._stop()

    def _handle(self, number: int, _: object) -> None:
        if self._told:
            # Not by an exception, which would wait for whatever is to be cleaned up.
            os._exit(ENDED_BY + number)
        self._told = True
        if self._stop is not None:
            self._stop()


def _tell(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # The loop is closed: the command has ended.
        loop.call_soon_threadsafe(stop)
