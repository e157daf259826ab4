"""Processes that are killed: forked from one that has everything imported, so that a life begins in milliseconds."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import select
import signal
import time
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

READY_SECONDS_MAX = 30.0
END_SECONDS_MAX = 300.0

Work = Callable[[Callable[[], None]], Coroutine[Any, Any, None]]
"""What a process does; it calls what it is given once it has come to its work."""


def freeze() -> None:
    """Leave what there is now alone for good, so that collecting in a child copies none of it."""
    gc.collect()
    gc.freeze()


class Child:
    """A forked process that does `work`. Errors of the framework, and its own, go to the file `log`, which outlives it."""

    def __init__(self, work: Work, log: Path, name: str = "a process") -> None:
        self.name = name
        self._ready, write_end = os.pipe()
        self.born = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._ready)
            os._exit(_live(work, log, name, write_end))
        os.close(write_end)

    def wait_ready(self) -> float:
        """Wait until it does its work; answers the seconds that took."""
        readable, _, _ = select.select([self._ready], [], [], READY_SECONDS_MAX)
        if not readable or not os.read(self._ready, 1):
            raise RuntimeError(f"{self.name} did not come to its work; see the log")
        return time.monotonic() - self.born

    def kill(self) -> bool:
        """Kill it; false if it had ended by itself, which it should not have."""
        os.kill(self.pid, signal.SIGKILL)
        os.close(self._ready)
        _, status = os.waitpid(self.pid, 0)
        return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL

    def wait(self, seconds: float = END_SECONDS_MAX) -> int:
        """Wait for its end; answers its status, -1 if it had to be killed."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self._ready)
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        self.kill()
        return -1


def _live(work: Work, log: Path, name: str, ready: int) -> int:
    # What goes wrong outside is logged as warnings; an error is ours.
    logging.basicConfig(filename=log, level=logging.ERROR, format="%(levelname)s %(name)s %(message)s", force=True)

    def tell() -> None:
        os.write(ready, b".")

    try:
        asyncio.run(work(tell))
    except BaseException:  # noqa: BLE001 - the process ends here, whatever it was
        with log.open("a") as file:
            file.write(f"ERROR {name} failed\n")
            traceback.print_exc(file=file)
        return 1
    return 0
