"""Keeping leases alive while handlers run.

Decides when leases are renewed and when one counts as lost. Leaves what follows from a loss to its owner. Invariant: a
lease that is still held here was renewed, by the database's word, less than `lease_seconds` ago, or `on_lost` is called
for it. With a driver of its own it beats from a thread, which a handler that blocks the event loop can't hold up.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ensue.clock import Clock
from ensue.effects.outbox import Lease, beat, micros
from ensue.errors import Unavailable, UsageError
from ensue.schema.delivery import LEASE_SECONDS
from ensue.store.driver import Driver

_logger = logging.getLogger("ensue.effects")

PAUSE_AFTER_FAILURE_SECONDS = 1.0
STOP_SECONDS_MAX = 5.0


@dataclass(frozen=True, slots=True)
class Rhythm:
    """A lease lasts `lease_seconds` and is renewed every `beat_seconds`; two beats in a row may fail before it ends."""

    lease_seconds: float = LEASE_SECONDS
    beat_seconds: float = 8.0

    def __post_init__(self) -> None:
        if not 0 < self.beat_seconds * 3 <= self.lease_seconds:
            raise UsageError(
                f"A lease of {self.lease_seconds} s with a beat every {self.beat_seconds} s: at least three beats must fit"
                " in a lease, or one slow write loses work that is still running."
            )


class Heartbeat:
    """Renews the leases that it was told of with `hold`, until `drop`.

    `on_lost(lease)` is called on the loop of `start`.
    """

    def __init__(self, driver: Driver, rhythm: Rhythm, *, clock: Clock, on_lost: Callable[[Lease], None]) -> None:
        self._driver = driver
        self._rhythm = rhythm
        self._clock = clock
        self._on_lost = on_lost
        self._valid_until: dict[Lease, float] = {}
        self._lock = threading.Lock()
        self._task: asyncio.Task[None] | None = None
        self._thread: _BeatThread | None = None

    def start(self, own_driver: Callable[[], Driver] | None) -> None:
        """Begin to beat: in a thread with the driver that `own_driver` makes, else as a task over the shared driver."""
        loop = asyncio.get_running_loop()
        if own_driver is None:
            self._task = loop.create_task(
                self._beat_for_ever(self._driver, self._on_lost), name="ensue.effects.heartbeat"
            )
            return

        def lost(lease: Lease) -> None:
            with suppress(RuntimeError):  # The loop is closed: there is nobody left to tell.
                loop.call_soon_threadsafe(self._on_lost, lease)

        self._thread = _BeatThread(own_driver, lambda driver: self._beat_for_ever(driver, lost))
        self._thread.start()

    async def stop(self) -> None:
        """Stop beating; leases that are still held run out."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._thread is not None:
            await asyncio.to_thread(self._thread.stop)
            self._thread = None

    def hold(self, leases: Iterable[Lease], *, since: float) -> None:
        """Keep `leases` alive; `since` is a monotonic instant before the claim."""
        with self._lock:
            self._valid_until |= dict.fromkeys(leases, since + self._rhythm.lease_seconds)

    def drop(self, lease: Lease) -> None:
        """Stop keeping `lease` alive."""
        with self._lock:
            self._valid_until.pop(lease, None)

    async def _beat_for_ever(self, driver: Driver, lost: Callable[[Lease], None]) -> None:
        pause = self._rhythm.beat_seconds
        beating: asyncio.Task[list[Lease]] | None = None
        try:
            while True:
                await asyncio.sleep(pause)
                pause = self._rhythm.beat_seconds
                beating = beating or asyncio.create_task(self._beat(driver))
                # A database that is silent fails no statement; then the clock alone tells which leases have ended.
                await asyncio.wait([beating], timeout=min(pause, self._first_end_in()))
                try:
                    gone = beating.result()
                    beating = None
                except Exception as error:  # noqa: BLE001 - logged; the next beat may get through
                    pause = min(PAUSE_AFTER_FAILURE_SECONDS, pause)
                    silent = isinstance(error, asyncio.InvalidStateError)
                    beating = beating if silent else None
                    what = "the database does not answer" if silent else error
                    _logger.warning("leases could not be renewed, next try in %.1f s: %s", pause, what)
                    gone = self._overdue()
                for lease in gone:
                    self.drop(lease)
                    lost(lease)
        finally:
            if beating is not None:
                beating.cancel()
                await asyncio.wait([beating], timeout=STOP_SECONDS_MAX)

    async def _beat(self, driver: Driver) -> list[Lease]:
        """Renew everything that is held; answers the leases that were no longer ours."""
        with self._lock:
            leases = list(self._valid_until)
        if not leases:
            return []
        before = self._clock.monotonic_seconds()
        renewed = await driver.write(beat(driver.dialect, leases, micros(self._rhythm.lease_seconds)))
        end = before + self._rhythm.lease_seconds
        with self._lock:
            still = [lease for lease in leases if lease in self._valid_until]  # The others were settled meanwhile.
            self._valid_until |= {lease: end for lease in still if lease.id in renewed}
        return [lease for lease in still if lease.id not in renewed]

    def _first_end_in(self) -> float:
        """Seconds until the first lease ends that is not renewed."""
        now = self._clock.monotonic_seconds()
        with self._lock:
            return max(0.0, min(self._valid_until.values(), default=float("inf")) - now)

    def _overdue(self) -> list[Lease]:
        now = self._clock.monotonic_seconds()
        with self._lock:
            return [lease for lease, end in self._valid_until.items() if end <= now]


class _BeatThread:
    """A thread with an event loop and a driver of its own."""

    def __init__(self, make_driver: Callable[[], Driver], run: Callable[[Driver], Coroutine[Any, Any, None]]) -> None:
        self._make_driver = make_driver
        self._run = run
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._work, name="ensue.effects.heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; waits a few seconds for a statement that is under way."""
        self._ready.wait(STOP_SECONDS_MAX)
        if self._loop is not None and self._main is not None:
            with suppress(RuntimeError):  # The thread is past its loop already.
                self._loop.call_soon_threadsafe(self._main.cancel)
        self._thread.join(STOP_SECONDS_MAX)

    def _work(self) -> None:
        with suppress(asyncio.CancelledError):
            asyncio.run(self._live())

    async def _live(self) -> None:
        self._main = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._ready.set()
        driver = self._make_driver()
        try:
            await self._open(driver)
            await self._run(driver)
        finally:
            await driver.close()

    async def _open(self, driver: Driver) -> None:
        while True:
            try:
                return await driver.open()
            except Unavailable as error:
                _logger.warning(
                    "the heartbeat has no connection yet, next try in %.1f s: %s", PAUSE_AFTER_FAILURE_SECONDS, error
                )
                await asyncio.sleep(PAUSE_AFTER_FAILURE_SECONDS)
