"""The delivery loop of one process: looks for effects, claims them, has them run, and writes how they ended.

Decides when to look and how much to claim. Leaves the SQL to `outbox`, handlers and their ends to `flights`, leases
to `heartbeat`, schedules to `retry`. Invariants: a handler runs only under a lease; its end counts only if the
database confirms it under that lease; notifications are hints, and polling alone delivers everything; the loop ends
only by `stop`.
"""

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Final
from uuid import uuid4

from ensue.clock import Clock, SystemClock
from ensue.effects.after_commit import run_after_commit
from ensue.effects.flights import Flights, log_effect
from ensue.effects.heartbeat import Heartbeat, Rhythm
from ensue.effects.ledger import hasten
from ensue.effects.outbox import Due, Lease, Outcome, Served, Turn, TurnResult, Want, due, micros, settle, turn
from ensue.effects.target import EffectRow, Target
from ensue.errors import Unavailable, UsageError
from ensue.store.driver import Driver

_logger = logging.getLogger("ensue.effects")

CANCEL_SECONDS_MAX: Final = 5.0
HINT_SPACING_SECONDS: Final = 0.01


Watch = Callable[[Callable[[str], None]], Awaitable[None]]
"""Has a callback called, on the event loop, when another process may have enqueued something; see `Driver.watch`."""


@dataclass(frozen=True, slots=True)
class Polling:
    """The net under notifications: an idle loop looks after `first_seconds`, then half as often each time.

    `last_seconds` is the longest pause, and so the latency when every notification is lost.
    """

    first_seconds: float = 0.05
    last_seconds: float = 1.0


class Delivery:
    """Delivers the effects of `targets`, by qualified name, from the database behind `driver`.

        delivery = Delivery(driver, {"channels.publish": Target(handler)})
        await delivery.start()
        ...                                   # delivery.wake() after each commit that enqueued something
        await delivery.stop(grace_seconds=15)

    Any number of processes may do so on one database. `heartbeat_driver` makes a second driver for the same database,
    used from a thread, so that leases survive a handler that blocks the event loop; without it they are renewed from
    the loop. `watch` is by default that of the driver, which has one listener only: pass a function of your own that
    shares it.
    """

    def __init__(
        self,
        driver: Driver,
        targets: Mapping[str, Target],
        *,
        clock: Clock | None = None,
        worker_name: str = "worker",
        rhythm: Rhythm | None = None,
        polling: Polling | None = None,
        rng: Random | None = None,
        heartbeat_driver: Callable[[], Driver] | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._driver = driver
        self._watch = watch or driver.watch
        self._targets = dict(targets)
        self._clock: Clock = clock or SystemClock()
        # The name alone may be that of a predecessor whose leases have not ended yet.
        self.worker = f"{worker_name}-{uuid4().hex[:12]}"
        self._rhythm = rhythm or Rhythm()
        self._polling = polling or Polling()
        self._rng = rng or Random()
        self._heartbeat_driver = heartbeat_driver
        self._signal = asyncio.Event()
        self._heartbeat = Heartbeat(driver, self._rhythm, clock=self._clock, on_lost=self._on_lost)
        self._flights = Flights(
            self._targets, self._heartbeat, clock=self._clock, rng=self._rng, on_end=self._signal.set
        )
        # Handlers must not inherit the transaction of whoever happens to start them.
        self._context = contextvars.copy_context()
        self._served = [Served(name, target.retry.max_age // _MICROSECOND) for name, target in self._targets.items()]
        self._places = {name: asyncio.Semaphore(target.concurrency) for name, target in self._targets.items()}
        self._after_commit: set[asyncio.Task[None]] = set()
        self._doubtful_tokens: tuple[str, ...] = ()
        self._loop_task: asyncio.Task[None] | None = None
        self._round_lock = asyncio.Lock()
        self._woken = False
        self._watching = False
        self._stopping = False
        self._closing = False
        self._hint_timer: asyncio.TimerHandle | None = None
        self._looked_at = float("-inf")
        self._pause = self._polling.first_seconds
        self._due_in_seconds: float | None = None

    # --- Life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to deliver. The database need not answer yet: the loop keeps trying.

        Raises `UsageError` when it was started before, or when someone else listens to the driver's notifications.
        """
        if self._loop_task is not None or self._stopping:
            raise UsageError("This Delivery was started before; make a new one to deliver again.")
        await self._ensure_watch()
        self._heartbeat.start(self._heartbeat_driver)
        self._woken = True
        self._loop_task = asyncio.create_task(self._loop(), name="ensue.effects.deliver")

    def wake(self) -> None:
        """Something was enqueued by this process: claim now. Cheap; call it on the event loop after the commit."""
        self._woken = True
        self._signal.set()

    async def stop(self, grace_seconds: float = 15.0) -> None:
        """Claim no more, let handlers run for `grace_seconds`, then cancel them and give their leases back.

        What is given back has as many attempts as before. Bounded: at most 5 s more than `grace_seconds`, plus one
        write.
        """
        self._stopping = True
        # The round under way may still bring claims; they are to be waited for as well.
        async with self._round_lock:
            pass
        await self._wait_for_handlers(grace_seconds)
        self._flights.cancel()
        for task in self._after_commit:
            task.cancel()
        await self._wait_for_handlers(CANCEL_SECONDS_MAX)
        self._flights.give_back()
        self._closing = True
        self._signal.set()
        if self._loop_task is not None:
            await self._loop_task
        await self._try_round()
        await self._heartbeat.stop()
        if len(self._flights):
            _logger.warning(
                "stopped with %d effects unsettled; others take them when their leases end", len(self._flights)
            )

    async def drain(self, *, waiting: bool = False) -> None:
        """Deliver everything that is due, and wait for it; with `waiting` also what waits for a later attempt, once.

        For tests and for commands that end. Works whether or not the loop runs, and raises what the database raises.
        """
        if waiting:
            await hasten(self._driver, tuple(self._targets))
        while True:
            self._woken = True
            busy = await self._round()
            running = [*self._flights.running(), *self._after_commit]
            if running:
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            elif not busy and not self._flights.ends():
                return

    def run_after_commit(self, name: str, row: EffectRow) -> None:
        """Start the after-commit effect `name`, within the concurrency of its target.

        `drain` and `stop` wait for it.
        """
        task = asyncio.create_task(
            self._run_after_commit(name, row), name=f"ensue.effects.{name}", context=self._context.copy()
        )
        self._after_commit.add(task)
        task.add_done_callback(self._after_commit.discard)

    async def _run_after_commit(self, name: str, row: EffectRow) -> None:
        async with self._places[name]:
            await run_after_commit(self._targets[name], row)

    async def _wait_for_handlers(self, seconds: float) -> None:
        running = [*self._flights.running(), *self._after_commit]
        if running and seconds > 0:
            await asyncio.wait(running, timeout=seconds)

    # --- The loop -----------------------------------------------------------------------------------------------------

    async def _loop(self) -> None:
        while not self._closing:
            self._signal.clear()
            busy = await self._try_round()
            if busy:
                self._pause = self._polling.first_seconds
            if not self._woken:
                await self._rest()

    async def _ensure_watch(self) -> None:
        if self._watching:
            return
        try:
            await self._watch(self._on_hint)
            self._watching = True
        except Unavailable as error:
            _logger.warning("no notifications for now, polling alone: %s", error)

    def _on_hint(self, _payload: str) -> None:
        # Spaced, because on a busy database every commit of every process is a hint.
        if self._hint_timer is None and not self._closing:
            age = self._clock.monotonic_seconds() - self._looked_at
            loop = asyncio.get_running_loop()
            self._hint_timer = loop.call_later(max(0.0, HINT_SPACING_SECONDS - age), self._look_again)

    def _look_again(self) -> None:
        self._hint_timer = None
        self._pause = self._polling.first_seconds
        self._signal.set()

    def _on_lost(self, lease: Lease) -> None:
        self._flights.lose(lease)

    async def _rest(self) -> None:
        """Wait for a wake, a hint, the end of a handler, the next instant something is due, or the next poll."""
        pause = self._pause * self._rng.uniform(0.9, 1.0)
        if self._due_in_seconds is not None:
            pause = min(pause, self._due_in_seconds)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._signal.wait()
        self._pause = min(self._pause * 2, self._polling.last_seconds)

    async def _try_round(self) -> bool:
        """A round whose failure is logged: the loop must outlive every outage of the database."""
        try:
            if not self._stopping:
                await self._ensure_watch()
            return await self._round()
        except Unavailable as error:
            _logger.warning("delivery waits for the database: %s", error)
        except Exception:
            _logger.exception("a round of delivery failed; it is tried again")
            await self._settle_singly()
        # Ends that could not be written keep the signal set; without a pause the loop would spin.
        await asyncio.sleep(self._pause)
        self._pause = min(self._pause * 2, self._polling.last_seconds)
        return False

    # --- One round ----------------------------------------------------------------------------------------------------

    async def _round(self) -> bool:
        """Settle, rescue and claim in one transaction what there is of each; answers whether there was anything."""
        async with self._round_lock:
            ends = self._flights.ends()
            wants = [] if self._stopping else self._flights.wants()
            claim, rescue = await self._worth(wants, bool(ends))
            if not (ends or claim or rescue or self._doubtful_tokens):
                return False
            result = await self._turn(ends, wants if claim else (), rescue)
            return bool(ends or result.claims or result.rescued)

    async def _worth(self, wants: Sequence[Want], ends: bool) -> tuple[bool, bool]:
        """Whether a claim may find something, and whether a rescue may. Costs a read unless that is known already."""
        woken, self._woken = self._woken, False
        now = self._clock.monotonic_seconds()
        known = woken or ends
        if not wants or (known and now - self._looked_at < self._polling.last_seconds):
            return bool(wants) and known, False
        self._looked_at = now
        seen = await self._driver.read(due(self._driver.dialect, [want.name for want in wants]))
        self._due_in_seconds = _next_instant(seen)
        claim = known or any(one.claimable_in is not None and one.claimable_in <= 0 for one in seen)
        return claim, any(one.lease_ends_in is not None and one.lease_ends_in <= 0 for one in seen)

    async def _turn(self, ends: Sequence[Outcome], wants: Sequence[Want], rescue: bool) -> TurnResult:
        token = uuid4().hex
        since = self._clock.monotonic_seconds()
        round_ = Turn(
            outcomes=ends,
            doubtful_tokens=self._doubtful_tokens,
            rescue=self._served if rescue else (),
            live_tokens=self._flights.tokens(),
            wants=wants,
            token=token,
            worker=self.worker,
            lease_micros=micros(self._rhythm.lease_seconds),
        )
        try:
            result = await self._driver.write(turn(self._driver.dialect, round_))
        except BaseException:
            # It may have been committed all the same; then these claims are ours and nobody runs them.
            self._doubtful_tokens = (*self._doubtful_tokens[-99:], token)
            raise
        self._doubtful_tokens = ()
        self._flights.confirm(ends, result.settled)
        for lost in result.rescued:
            log_effect(logging.WARNING, f"was left by worker {lost.worker}; now {lost.state}", lost)
        self._flights.launch(result.claims, since=since, context=self._context)
        return result

    async def _settle_singly(self) -> None:
        """One end that the database refuses must not hold up the others."""
        async with self._round_lock:
            for end in self._flights.ends():
                try:
                    settled = await self._driver.write(settle(self._driver.dialect, [end]))
                except Unavailable:
                    return
                except Exception:
                    _logger.exception("the end of effect %d can't be written; its lease is left to run out", end.id)
                    settled = frozenset[int]()
                self._flights.confirm([end], settled)


_MICROSECOND: Final = timedelta(microseconds=1)


def _next_instant(seen: Sequence[Due]) -> float | None:
    """Seconds until the first thing that is not due yet.

    What is overdue and could not be had waits for the next poll.
    """
    ahead = [at for one in seen for at in (one.claimable_in, one.lease_ends_in) if at is not None and at > 0]
    return min(ahead) / 1_000_000 if ahead else None
