"""The delivery loops of one process: one looks for effects, claims them and has them run, one writes how they ended.

Decides when to look and how much to claim. Leaves the SQL to `outbox`, calls and their ends to `flights`, leases to
`heartbeat`, schedules to `retry`. Invariants: a call is made only under a lease; its end counts only if the database
confirms it under that lease; notifications are hints, and polling alone delivers everything; the loops end only by `stop`.
A claim alone is committed without waiting for the disk: one that a crashing server forgets is pending again, and what was
called under it is refused when it ends, and called again with the same key. What must know of its first call waits.
"""

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Final
from uuid import uuid4

from ensue.clock import Clock, SystemClock
from ensue.effects.after_commit import run_after_commit
from ensue.effects.flights import Flights, log_effect
from ensue.effects.heartbeat import Heartbeat, Rhythm
from ensue.effects.ledger import hasten
from ensue.effects.observe import DeliveryEvent, Observer, tell
from ensue.effects.offers import Offers
from ensue.effects.outbox import (
    Claim,
    Due,
    Lease,
    Turn,
    Want,
    claim,
    due,
    ensure_targets,
    micros,
    plan_anew,
    release,
    rescue,
    settle,
    walk_end,
)
from ensue.effects.target import EffectRow, Handling
from ensue.errors import Unavailable, UsageError
from ensue.store.driver import Driver
from ensue.store.effect_table import notify_statement
from ensue.store.statement import Run, Work

_logger = logging.getLogger("ensue.effects")

CANCEL_SECONDS_MAX: Final = 5.0
GROWTHS: Final = (1_000, 4_000, 16_000, 64_000)
"""The ids at which a table that was new is much larger than when its statements were planned.

The server's own look at it may be a minute away, in which each claim would read the whole table; later that look suffices.
"""
STUCK_LOOK_SECONDS: Final = 1.0
HINT_SPACING_SECONDS: Final = 0.01
PROBE: Final = "{}"
"""A notification that says nothing, to hear whether notifications are heard."""
PROBE_SECONDS: Final = 20.0
PROBE_WAIT_SECONDS: Final = 1.0


Watch = Callable[[Callable[[str], None]], Awaitable[None]]
"""Has a callback called, on the event loop, when another process may have enqueued something; see `Driver.watch`."""


@dataclass(frozen=True, slots=True)
class Polling:
    """The net under notifications: an idle loop looks after `first_seconds`, then half as often each time.

    `last_seconds` is the longest pause while notifications come through, `blind_seconds` when they don't, and so the
    latency when every notification is lost.
    """

    first_seconds: float = 0.05
    last_seconds: float = 1.0
    blind_seconds: float = 0.25


class Delivery:
    """Delivers the effects of `targets`, by qualified name, from the database behind `driver`.

        delivery = Delivery(driver, {"channels.publish": Handling(handler)})
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
        targets: Mapping[str, Handling],
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
        self._ended = asyncio.Event()
        self._heartbeat = Heartbeat(driver, self._rhythm, clock=self._clock, on_lost=self._on_lost)
        self._flights = Flights(
            self._targets, self._heartbeat, clock=self._clock, rng=self._rng, on_end=self._ended.set
        )
        self._offers = Offers(self._targets)
        # Handlers must not inherit the transaction of whoever happens to start them.
        self._context = contextvars.copy_context()
        self._places = {name: asyncio.Semaphore(target.concurrency) for name, target in self._targets.items()}
        self._after_commit: set[asyncio.Task[None]] = set()
        self._doubtful_tokens: tuple[str, ...] = ()
        self._tasks: list[asyncio.Task[None]] = []
        self._round_lock = asyncio.Lock()
        self._settle_lock = asyncio.Lock()
        self._ensured = False
        self._woken = False
        self._watching = False
        self._stopping = False
        self._closing = False
        self._begins = True
        self._hint_timer: asyncio.TimerHandle | None = None
        self._looked_at = float("-inf")
        self._growths = GROWTHS if driver.dialect == "postgresql" else ()
        self._probed_at = float("-inf")
        self._heard_at = float("-inf")
        self._pause = self._polling.first_seconds
        self._due_in_seconds: float | None = None

    @property
    def observers(self) -> list[Observer]:
        """Who is told of claims and ends; see `DeliveryEvent`."""
        return self._flights.observers

    # --- Life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to deliver. The database need not answer yet: the loop keeps trying.

        Raises `UsageError` when it was started before, or when someone else listens to the driver's notifications.
        """
        if self._tasks or self._stopping:
            raise UsageError("This Delivery was started before; make a new one to deliver again.")
        await self._ensure_watch()
        self._heartbeat.start(self._heartbeat_driver)
        self._woken = True
        self._tasks = [
            asyncio.create_task(self._loop(), name="ensue.effects.deliver"),
            asyncio.create_task(self._settle_loop(), name="ensue.effects.settle"),
        ]

    @property
    def names(self) -> frozenset[str]:
        """The side effects that are called here."""
        return frozenset(self._targets)

    def wake(self) -> None:
        """Something was enqueued by this process: claim now. Cheap; call it on the event loop after the commit."""
        self._woken = True
        self._signal.set()

    async def stop(self, grace_seconds: float = 15.0) -> None:
        """Claim no more, let handlers run for `grace_seconds`, then cancel them and give their leases back.

        What is given back has as many attempts as before. Bounded: at most 5 s more than `grace_seconds`, plus one
        write, which waits for the database until `Driver.cut`.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + grace_seconds
        self._stopping = True
        self._signal.set()
        # The round under way may still bring claims; they are to be waited for as well, unless the database is silent.
        with suppress(TimeoutError):
            async with asyncio.timeout_at(end), self._round_lock:
                pass
        await self._wait_for_handlers(end - loop.time())
        self._begins = False
        self._flights.cancel()
        for task in self._after_commit:
            task.cancel()
        await self._wait_for_handlers(CANCEL_SECONDS_MAX)
        self._flights.give_back()
        self._closing = True
        self._signal.set()
        self._ended.set()
        if self._tasks:
            await asyncio.gather(*self._tasks)
        await self._try_settle()
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
            busy = await self._settle()
            busy = await self._round() or busy
            running = [*self._flights.running(), *self._after_commit]
            if running:
                # One that can't be ended is not waited for any more once it was given up.
                await asyncio.wait(running, timeout=STUCK_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            elif not busy and not self._flights.ends():
                return

    async def seconds_to_next(self) -> float | None:
        """How long until something can be claimed that can't be now, what its target allows included; None for never."""
        return _next_instant(await self._driver.read(due(self._driver.dialect, self._offers.all())))

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

    # --- The loops ----------------------------------------------------------------------------------------------------

    async def _loop(self) -> None:
        while not self._stopping:
            self._signal.clear()
            busy = await self._try_round()
            if busy:
                self._pause = self._polling.first_seconds
            if not self._woken:
                await self._rest()

    async def _settle_loop(self) -> None:
        """Apart from claiming, so that neither waits for the other's commit; ends that come meanwhile go together."""
        while not self._closing:
            await self._ended.wait()
            self._ended.clear()
            await self._try_settle()

    async def _try_settle(self) -> None:
        try:
            await self._settle()
            return
        except Unavailable as error:
            _logger.warning("ends of effects wait for the database: %s", error)
        except Exception:
            _logger.exception("a round of delivery failed; it is tried again")
            await self._settle_singly()
        if self._flights.ends() and not self._closing:
            await asyncio.sleep(self._polling.first_seconds)
            self._ended.set()

    async def _settle(self) -> bool:
        """Write all ends there are, in one transaction; answers whether there were any."""
        async with self._settle_lock:
            ends, moves = self._flights.ends(), self._flights.take_moves()
            if not ends and not moves:
                return False
            try:
                settled = await self._driver.write(settle(self._driver.dialect, ends, moves))
            except BaseException:
                self._flights.put_back(moves)
                raise
            self._flights.confirm(ends, settled)
        # There is room again, and the next of an order key may go.
        self.wake()
        return True

    async def _ensure_watch(self) -> None:
        if self._watching:
            return
        try:
            await self._watch(self._on_hint)
            self._watching = True
        except Unavailable as error:
            _logger.warning("no notifications for now, polling alone: %s", error)

    def _on_hint(self, payload: str) -> None:
        self._heard_at = self._clock.monotonic_seconds()
        if payload == PROBE:
            return
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
        self._pause = min(self._pause * 2, self._longest)

    @property
    def _longest(self) -> float:
        """The longest pause: short while notifications don't come through, as in front of some poolers they never do."""
        now = self._clock.monotonic_seconds()
        unheard = self._heard_at < self._probed_at and now - self._probed_at > PROBE_WAIT_SECONDS
        if self._driver.dialect != "sqlite" and (unheard or not self._watching):
            return min(self._polling.blind_seconds, self._polling.last_seconds)
        return self._polling.last_seconds

    async def _probe(self) -> None:
        """Tell ourselves something, to see whether we hear it."""
        now = self._clock.monotonic_seconds()
        statement = notify_statement(self._driver.dialect)
        if statement is not None and now - self._probed_at > PROBE_SECONDS:
            self._probed_at = now
            await self._driver.read(_one(Run(statement, (PROBE,))))

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
        await asyncio.sleep(self._pause)
        self._pause = min(self._pause * 2, self._polling.last_seconds)
        return False

    # --- One round ----------------------------------------------------------------------------------------------------

    async def _round(self) -> bool:
        """Claim and rescue what there is; answers whether there was anything."""
        async with self._round_lock:
            if self._doubtful_tokens:
                await self._driver.write(release(self._driver.dialect, self._doubtful_tokens))
                self._doubtful_tokens = ()
            if self._stopping:
                return False
            await self._ensure_targets()
            free = self._flights.wants()
            worth, late = await self._worth({name for name, _ in free})
            if late:
                await self._rescue()
            if not worth or not free:
                return late
            return bool(await self._claim(self._offers.wants(free))) or late

    async def _ensure_targets(self) -> None:
        if not self._ensured and self._offers.limited:
            await self._driver.write(ensure_targets(self._driver.dialect, self._offers.limited))
        self._ensured = True

    async def _worth(self, wanted: set[str]) -> tuple[bool, bool]:
        """Whether a claim may find something, and whether a rescue will. Costs a read unless that is known already."""
        woken, self._woken = self._woken, False
        now = self._clock.monotonic_seconds()
        if woken and now - self._looked_at < self._polling.last_seconds:
            return True, False
        self._looked_at = now
        # Everything, not only what there is room for: leases of others run out all the same.
        seen = await self._driver.read(due(self._driver.dialect, self._offers.all(now)))
        if self._tasks:
            await self._probe()
        self._due_in_seconds = _next_instant(seen)
        if any(one.missing for one in seen):
            # Somebody removed the row that limits are counted in; without it nothing of that target could ever be claimed.
            self._ensured = False
            await self._ensure_targets()
        self._offers.learn(seen)
        ready = any(one.claimable_in is not None and one.claimable_in <= 0 and one.name in wanted for one in seen)
        return woken or ready, any(one.lease_ends_in is not None and one.lease_ends_in <= 0 for one in seen)

    async def _rescue(self) -> None:
        work = rescue(self._driver.dialect, self._offers.served, self._flights.tokens())
        for lost in await self._driver.write(work):
            log_effect(logging.WARNING, f"was left by worker {lost.worker}; now {lost.state}", lost)
            target = self._targets[lost.name].target_name(lost.name)
            tell(self.observers, DeliveryEvent("rescued", lost, target, state=lost.state))

    async def _claim(self, wants: Sequence[Want]) -> tuple[Claim, ...]:
        token = uuid4().hex
        since = self._clock.monotonic_seconds()
        turn = Turn(
            wants=wants,
            gates=self._offers.gates_of(wants),
            token=token,
            worker=self.worker,
            lease_micros=micros(self._rhythm.lease_seconds),
            relaxed=not any(self._targets[want.name].guarded for want in wants),
        )
        work = claim(self._driver.dialect, turn)
        # On PostgreSQL it is one statement, which needs no BEGIN and COMMIT around it.
        run = self._driver.read if self._driver.dialect == "postgresql" else self._driver.write
        try:
            claims = await run(work)
        except BaseException:
            # It may have been committed all the same; then these claims are ours and nobody runs them.
            self._doubtful_tokens = (*self._doubtful_tokens[-99:], token)
            raise
        if not self._begins:
            # The grace was over before the database answered: the last round gives them back.
            self._doubtful_tokens = (*self._doubtful_tokens[-99:], token)
            return ()
        self._offers.rise(claims)
        self._flights.launch(claims, since=since, context=self._context)
        await self._notice_growth(claims)
        await self._walk_on(list(self._offers.missed(wants, claims)))
        return claims

    async def _notice_growth(self, claims: Sequence[Claim]) -> None:
        if not claims or not self._growths or claims[-1].row.id < self._growths[0]:
            return
        known, self._growths = self._growths, tuple(size for size in self._growths if size > claims[-1].row.id)
        # One that was large when we came was planned for as it is; to sample it at each start costs seconds where it is huge.
        if self._growths or known is not GROWTHS:
            await self._driver.read(plan_anew())

    async def _walk_on(self, missed: Sequence[Want]) -> None:
        """Have the next look go on behind the keys of this one: soon while there are more, and then after a long pause.

        Thousands of keys that wait for somebody would else keep the others waiting for as many looks.
        """
        ends: list[str | None] = []
        for want in missed:
            ends.append(await self._driver.read(walk_end(self._driver.dialect, want)))
            self._offers.go_on(want.name, ends[-1])
        if ends:
            self._pause = self._polling.first_seconds if any(ends) else self._longest

    async def _settle_singly(self) -> None:
        """One end that the database refuses must not hold up the others."""
        async with self._settle_lock:
            for end in self._flights.ends():
                try:
                    settled = await self._driver.write(settle(self._driver.dialect, [end]))
                except Unavailable:
                    return
                except Exception:
                    _logger.exception("the end of effect %d can't be written; its lease is left to run out", end.id)
                    settled = dict[int, str]()
                self._flights.confirm([end], settled)


def _one(run: Run) -> Work[None]:
    yield run


def _next_instant(seen: Sequence[Due]) -> float | None:
    """Seconds until the first thing that is not due yet.

    What is overdue and could not be had waits for the next poll.
    """
    ahead = [at for one in seen for at in (one.claimable_in, one.lease_ends_in) if at is not None and at > 0]
    return min(ahead) / 1_000_000 if ahead else None
