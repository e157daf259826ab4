"""Hold Python's cyclic garbage collector while many rows are made at once.

Rows hold no cycles, but their number makes the collector walk everything that is alive, again and again: a third of the time of a
bulk insert. Invariant: it runs again as soon as nobody holds it, however the holders nest or overlap.
"""

import gc
import threading
from collections.abc import Generator
from contextlib import contextmanager

ROWS_MIN = 500
"""Below this number of rows holding the collector gains nothing."""


class _Holders:
    """How many hold it; threads of drivers hold it too, so counting is under a lock."""

    def __init__(self) -> None:
        self._count = 0
        self._was_enabled = False
        self._lock = threading.Lock()

    def add(self) -> None:
        with self._lock:
            if self._count == 0:
                self._was_enabled = gc.isenabled()
                gc.disable()
            self._count += 1

    def drop(self) -> None:
        with self._lock:
            self._count -= 1
            if self._count == 0 and self._was_enabled:
                gc.enable()


_holders = _Holders()


@contextmanager
def held_for(rows: int) -> Generator[None]:
    """Hold the collector while the body makes that many rows, if that is many."""
    if rows < ROWS_MIN:
        yield
        return
    _holders.add()
    try:
        yield
    finally:
        _holders.drop()
