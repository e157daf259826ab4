"""The effects that this process is delivering right now: their calls, how each ended, and the room that is left.

Decides how an attempt ended, what its effect becomes, and what that says about its target. Leaves claiming and writing to
`deliver`. Invariant: a claimed effect is here from its claim until the database has confirmed (or refused) its end, and
takes up its place all that time. The one exception is a call that ignores its cancellation: its effect counts as timed out and
goes on without it, and only the call keeps its place, until it ends.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any, Final, Literal, cast

from ensue.clock import Clock
from ensue.effects.breaker import CallWindow
from ensue.effects.heartbeat import Heartbeat
from ensue.effects.observe import DeliveryEvent, Observer, tell
from ensue.effects.outbox import Claim, Lease, Move, Outcome, Rescued, micros, outcome
from ensue.effects.retry import Circumstances, Failure, after_denial, decide, judge, pause_after, storable
from ensue.effects.target import EffectRow, Handling
from ensue.schema.delivery import Receipt

_logger = logging.getLogger("ensue.effects")

IGNORED_SECONDS: Final = 10.0
"""How long after its time a call may go on, to put away what it had begun, before its effect goes on without it."""


@dataclass(slots=True, eq=False)
class _Part:
    """One effect of a call."""

    claim: Claim
    started: bool = False
    end: Outcome | None = None


@dataclass(slots=True, eq=False)
class _Flight:
    """One call: an effect, or several of a batch."""

    name: str
    handling: Handling
    parts: list[_Part]
    started_at: float
    task: asyncio.Task[None] | None = None
    interrupted: Literal["", "lost", "stopped"] = ""
    asking: bool = False
    abandoned: bool = False


class Flights:
    """Makes calls under their leases. `on_end` is called whenever one has ended."""

    def __init__(
        self,
        handlings: Mapping[str, Handling],
        heartbeat: Heartbeat,
        *,
        clock: Clock,
        rng: Random,
        on_end: Callable[[], None],
    ) -> None:
        self._handlings = handlings
        self._heartbeat = heartbeat
        self._clock = clock
        self._rng = rng
        self._on_end = on_end
        self._flights: dict[Lease, tuple[_Flight, _Part]] = {}
        self._abandoned: set[_Flight] = set()
        self._moves: list[Move] = []
        self._windows: dict[str, CallWindow] = {}
        self._names: dict[str, tuple[str, ...]] = {}
        for name, handling in handlings.items():
            target = handling.target_name(name)
            self._names[target] = (*self._names.get(target, ()), name)
            if handling.breaker is not None:
                self._windows.setdefault(target, CallWindow(handling.breaker))
        self.observers: list[Observer] = []

    # --- What is there ------------------------------------------------------------------------------------------------

    def ends(self) -> list[Outcome]:
        """Ends that the database has not confirmed yet, oldest claim first."""
        return [part.end for _, part in self._flights.values() if part.end is not None]

    def take_moves(self) -> list[Move]:
        """What was learnt about targets and not written yet."""
        moves, self._moves = self._moves, []
        return moves

    def put_back(self, moves: Sequence[Move]) -> None:
        """These could not be written."""
        self._moves[:0] = moves

    def running(self) -> list[asyncio.Task[None]]:
        """Calls that have not returned."""
        flights = (flight for flight, _ in self._flights.values() if not flight.abandoned)
        tasks = {flight.task for flight in flights if flight.task is not None}
        return [task for task in tasks if not task.done()]

    def tokens(self) -> list[str]:
        """The tokens of all leases that are in use here."""
        return list({lease.token for lease in self._flights})

    def wants(self) -> list[tuple[str, int]]:
        """The room for calls per name; names without room are left out. An end keeps its place until it is written."""
        calls = Counter(flight.name for flight in self._abandoned | {flight for flight, _ in self._flights.values()})
        free = ((name, item, item.concurrency - calls[name]) for name, item in self._handlings.items())
        return [(name, room) for name, _, room in free if room > 0]

    def __len__(self) -> int:
        return len(self._flights)

    # --- What happens -------------------------------------------------------------------------------------------------

    def launch(self, claims: Iterable[Claim], *, since: float, context: Context) -> None:
        """Make the calls of `claims`, made after the monotonic instant `since`, each in a copy of `context`."""
        claims = tuple(claims)
        self._heartbeat.hold((claim.lease for claim in claims), since=since)
        for group in self._grouped(claims):
            name = group[0].row.name
            flight = _Flight(name, self._handlings[name], [_Part(claim) for claim in group], since)
            for part in flight.parts:
                self._flights[part.claim.lease] = (flight, part)
                if self.observers:
                    waited = part.claim.age_micros / 1_000_000
                    tell(self.observers, DeliveryEvent("claimed", part.claim.row, part.claim.target, seconds=waited))
            flight.task = asyncio.create_task(self._fly(flight), name=f"ensue.effects.{name}", context=context.copy())

    @staticmethod
    def _grouped(claims: Sequence[Claim]) -> Iterable[list[Claim]]:
        """The calls that `claims` are, as they were claimed and counted."""
        calls: dict[tuple[str, int | str], list[Claim]] = {}
        for claim in claims:
            calls.setdefault(claim.call, []).append(claim)
        return calls.values()

    def confirm(self, outcomes: Sequence[Outcome], settled: Mapping[int, str]) -> None:
        """The database has answered for `outcomes`: it took those in `settled` and refused the others."""
        for end in outcomes:
            flight, part = self._flights.pop(Lease(end.id, end.token))
            self._heartbeat.drop(part.claim.lease)
            refused = end.id not in settled
            if refused:
                what = "ended without its lease, so that its result was refused"
                log_effect(logging.WARNING, what, part.claim.row, detail=end.state)
            if self.observers:
                seconds = self._clock.monotonic_seconds() - flight.started_at
                event = DeliveryEvent(
                    "refused" if refused else "ended",
                    part.claim.row,
                    part.claim.target,
                    state=settled.get(end.id, end.state),
                    seconds=seconds,
                    error_class=end.error_class,
                    provider_id=end.provider_id,
                )
                tell(self.observers, event)

    def lose(self, lease: Lease) -> None:
        """Someone else may own the effect of `lease` by now: end its call, report nothing."""
        flight, _ = self._flights.get(lease, (None, None))
        if flight is not None and flight.task is not None and not flight.task.done():
            flight.interrupted = "lost"
            flight.task.cancel()

    def cancel(self) -> None:
        """End all calls; their effects go back as they were."""
        for flight in self._abandoned | {flight for flight, _ in self._flights.values()}:
            if flight.task is not None and not flight.task.done():
                flight.interrupted = flight.interrupted or "stopped"
                flight.task.cancel()

    def give_back(self) -> None:
        """Give up on calls that ignored their cancellation: their effects go to others, as after a crash."""
        for flight, part in self._flights.values():
            if part.end is None:
                what = "did not end when it was cancelled; it is given to others"
                log_effect(logging.WARNING, what, part.claim.row)
                part.end = self._released(flight, part)

    # --- One attempt --------------------------------------------------------------------------------------------------

    async def _fly(self, flight: _Flight) -> None:
        limit = flight.handling.timeout_seconds + IGNORED_SECONDS
        timer = asyncio.get_running_loop().call_later(limit, self._abandon, flight)
        try:
            first = flight.parts[0]
            if first.claim.row.doubt and not flight.handling.resend_is_safe(self._since_sent(first)):
                flight.asking = True
                await self._ask(flight, first)
            else:
                await self._send(flight)
        except asyncio.CancelledError as error:
            self._interrupted(flight, error)
        except BaseException as error:
            # Whatever was raised: what has no end would stay claimed, and renewed, for as long as this process lives.
            for part in flight.parts:
                if part.end is None:
                    self._failed(flight, part, judged(error, flight.handling))
            if flight.parts[0].claim.probe and not flight.abandoned:
                self._move("unprobe", flight.parts[0].claim)
            # Not SystemExit, which functions made for the command line raise: it would end one worker after the other.
            if isinstance(error, KeyboardInterrupt):
                self._on_end()
                raise
        finally:
            timer.cancel()
            self._abandoned.discard(flight)
        self._on_end()

    def _abandon(self, flight: _Flight) -> None:
        """The call was cut off and goes on all the same: nobody can end it, and its effects don't wait for it."""
        if flight.interrupted == "stopped":
            return  # `give_back` is about to say so.
        flight.abandoned = True
        self._abandoned.add(flight)
        first, handling = flight.parts[0], flight.handling
        what = (
            f"was cut off after {handling.timeout_seconds:g} s, and its call goes on: the function swallows CancelledError. The"
            f" effect counts as timed out, and the call takes one of {handling.concurrency} places of this process until it ends."
            " Let CancelledError pass where the function awaits, and restart this process"
        )
        log_effect(logging.ERROR, what, first.claim.row)
        message = f"TimeoutError: no end within {handling.timeout_seconds:g} s, and the call can't be ended"
        if flight.interrupted:
            self._interrupted(flight, TimeoutError(message))
        elif flight.asking:
            self._undecided(first, message)
        else:
            failure = Failure("transient", message, unanswered=True)
            for part in flight.parts:
                self._failed(flight, part, failure)
            self._learn(flight, flight.parts, failure)
        self._on_end()

    async def _send(self, flight: _Flight) -> None:
        handling, parts = flight.handling, flight.parts
        rows = [part.claim.row for part in parts]
        for part in parts:
            part.started = True
        try:
            async with asyncio.timeout(handling.timeout_seconds):
                answer = await handling.handler(rows if handling.batch is not None else rows[0])
        except Exception as error:  # noqa: BLE001 - judged, logged and written to the table
            if flight.abandoned:
                return
            if flight.interrupted:
                # What a cancellation was turned into says nothing of the call, and without a lease there is no other.
                self._interrupted(flight, error)
                return
            failure = judged(error, handling)
            if len(parts) > 1 and self._to_be_split(flight, failure):
                _logger.warning("a batch of %d %s failed, one by one now: %s", len(parts), flight.name, failure.message)
                told = (failure.kind, failure.message)
                for part in parts:
                    part.end = part.end or outcome(part.claim, "split", error=told, yields=handling.coalesce)
            else:
                for part in parts:
                    self._failed(flight, part, failure)
            self._learn(flight, parts, failure)
        else:
            if flight.abandoned:
                return
            for part, receipt in zip(parts, _receipts(answer, len(parts)), strict=True):
                part.end = part.end or _arrived(part.claim, "succeed", receipt)
                log_effect(logging.DEBUG, "delivered", part.claim.row)
            self._learn(flight, parts, None)

    def _to_be_split(self, flight: _Flight, failure: Failure) -> bool:
        """Whether each effect of a batch that failed is called alone at once, as one of them may be what the others failed with.

        Each of these calls is claimed anew, so that the target's limits see it. Not while the other side can't be had, and not
        what must be asked about first.
        """
        if failure.kind in ("unavailable", "throttled", "unknown"):
            return False
        since = self._since_sent(flight.parts[0]) + self._elapsed(flight)
        return not (flight.handling.guarded and failure.ambiguous) or flight.handling.resend_is_safe(since)

    async def _ask(self, flight: _Flight, part: _Part) -> None:
        """An earlier call may have arrived: find out before another one."""
        handling, claim = flight.handling, part.claim
        if handling.verify is None:
            log_effect(logging.ERROR, "may have arrived, and can't be asked about; `ensue effects resolve`", claim.row)
            part.end = outcome(claim, "suspect", delay_seconds=None)
            if claim.probe:
                self._move("unprobe", claim)
            return
        answer: object = None
        failure: Failure | None = None
        try:
            async with asyncio.timeout(handling.timeout_seconds):
                answer = await handling.verify(claim.row)
        except Exception as error:  # noqa: BLE001 - no answer, asked again later
            if flight.abandoned:
                return
            if flight.interrupted:
                self._interrupted(flight, error)
                return
            failure = judged(error, handling)
        if flight.abandoned:
            return
        self._learn(flight, [part], failure)
        if answer is True or isinstance(answer, Receipt):
            receipt = answer if isinstance(answer, Receipt) else None
            part.end = part.end or _arrived(claim, "confirm", receipt)
        elif answer is False:
            verdict = after_denial(handling, self._circumstances(flight, part), self._rng)
            end = outcome(claim, verdict.transition, delay_seconds=verdict.delay_seconds, doubt=0)
            part.end = part.end or end
            if verdict.transition != "deny":
                log_effect(logging.ERROR, f"did not arrive, and is not sent again ({part.end.state})", claim.row)
        else:
            self._undecided(part, failure.message if failure is not None else _no_answer(answer))

    def _undecided(self, part: _Part, message: str) -> None:
        """The question has no answer yet."""
        claim = part.claim
        pause = pause_after(claim.row.doubt, self._rng)
        told = ("unknown", message)
        part.end = part.end or outcome(claim, "suspect", delay_seconds=pause, error=told, doubt=claim.row.doubt + 1)
        log_effect(logging.WARNING, f"may have arrived; asked again in {pause:.1f} s", claim.row, detail=message)

    def _interrupted(self, flight: _Flight, error: BaseException) -> None:
        for part in flight.parts:
            if part.end is not None:
                continue
            if flight.interrupted == "lost":
                log_effect(logging.WARNING, "lost its lease and was ended", part.claim.row)
                self._flights.pop(part.claim.lease, None)
                self._heartbeat.drop(part.claim.lease)
                tell(self.observers, DeliveryEvent("lost", part.claim.row, part.claim.target))
            elif flight.interrupted == "stopped":
                part.end = self._released(flight, part)
            else:
                # The function cancelled itself, through a scope of its own that leaked.
                self._failed(flight, part, judged(error, flight.handling))

    def _released(self, flight: _Flight, part: _Part) -> Outcome:
        """What was called may have arrived, and is treated so if it must not simply be repeated."""
        if part.claim.probe:
            self._move("unprobe", part.claim)
        doubtful = part.started and flight.handling.guarded
        return outcome(part.claim, "release", doubt=max(part.claim.row.doubt, 1) if doubtful else None)

    def _since_sent(self, part: _Part) -> timedelta:
        return timedelta(microseconds=part.claim.sent_micros)

    def _elapsed(self, flight: _Flight) -> timedelta:
        return timedelta(seconds=self._clock.monotonic_seconds() - flight.started_at)

    def _circumstances(self, flight: _Flight, part: _Part) -> Circumstances:
        row = part.claim.row
        elapsed = self._elapsed(flight)
        return Circumstances(
            attempts=row.attempt,
            age=timedelta(microseconds=part.claim.age_micros) + elapsed,
            failures=row.failures,
            doubtful=row.doubt > 0,
            since_first_send=self._since_sent(part) + elapsed,
        )

    def _failed(self, flight: _Flight, part: _Part, failure: Failure) -> None:
        claim, handling = part.claim, flight.handling
        row = claim.row
        verdict = decide(failure, handling, self._circumstances(flight, part), self._rng)
        part.end = part.end or outcome(
            claim,
            verdict.transition,
            delay_seconds=verdict.delay_seconds,
            error=(failure.kind, failure.message),
            doubt=max(row.doubt, 1) if verdict.doubtful else row.doubt,
            # A defect is none of the other side's: parked for it, it would be tried for ever, as every probe.
            parks=verdict.transition in ("retry", "outage") and failure.kind != "bug",
            yields=handling.coalesce,
        )
        if verdict.transition == "bury":
            log_effect(logging.ERROR, "is dead; `ensue effects retry` starts it anew", row, detail=failure.message)
        elif verdict.delay_seconds is None:
            what = "waits for an operator; see `ensue effects show`"
            log_effect(logging.ERROR, f"{what} ({part.end.state})", row, detail=failure.message)
        else:
            then = f"{failure.kind}, next attempt in {verdict.delay_seconds:.1f} s"
            log_effect(logging.WARNING, f"failed ({then})", row, detail=failure.message)

    # --- Targets ------------------------------------------------------------------------------------------------------

    def _learn(self, flight: _Flight, parts: Sequence[_Part], failure: Failure | None) -> None:
        """What a call says about its target; a defect of the function says nothing."""
        claim = parts[0].claim
        if failure is not None and failure.kind == "throttled":
            pause = failure.retry_after_seconds
            self._move("hold", claim, pause=micros(pause if pause is not None else 1.0))
        said_nothing = failure is not None and failure.kind == "bug"
        answered = failure is None or not failure.unanswered
        breaker, window = flight.handling.breaker, self._windows.get(claim.target)
        if claim.probe:
            if said_nothing:
                self._move("unprobe", claim)
            elif answered:
                self._move("close", claim)
            else:
                self._move("reopen", claim, most=micros(breaker.open_seconds_max if breaker else 300.0))
        elif breaker is None or window is None or said_nothing:
            return
        elif window.count(answered=answered, now=self._clock.monotonic_seconds()):
            _logger.warning("calls to %s are stopped: it does not answer", claim.target)
            self._move("trip", claim, pause=micros(breaker.open_seconds))

    def _move(
        self,
        kind: Literal["hold", "trip", "close", "reopen", "unprobe"],
        claim: Claim,
        *,
        pause: int = 0,
        most: int = 0,
    ) -> None:
        names = self._names.get(claim.target, ())
        self._moves.append(Move(kind, claim.target, pause, most, token=claim.turn, names=names))
        if kind == "close" and claim.target in self._windows:
            self._windows[claim.target].reset()


def judged(error: BaseException, handling: Handling) -> Failure:
    """What an error of a call says, by the integration's own word first; a call that was cut off says its time."""
    if type(error) is TimeoutError and not str(error) and error.__cause__ is not None:
        message = f"TimeoutError: no end within {handling.timeout_seconds:g} s"
        return Failure("transient", message, unanswered=True)
    try:
        return judge(error, handling.classify)
    except Exception as defect:
        # `classify` is an integration's own; it must not decide whether there is an end at all.
        _logger.exception("classify raised %s; the error is judged without it", type(defect).__name__)
        return judge(error)


def _arrived(claim: Claim, transition: str, receipt: Receipt | None) -> Outcome:
    given = receipt or Receipt()
    # What can't be written would be called again and again: an end counts only once it is in the table.
    provider_id, note = (None if item is None else storable(str(item)) for item in (given.provider_id, given.note))
    return outcome(claim, transition, doubt=0, provider_id=provider_id, note=note)


def _no_answer(answer: object) -> str:
    if answer is None:
        return "it can't be said yet whether it arrived"
    return f"verify gave {type(answer).__name__}; expected True or a Receipt, False, or None if that can't be said now"


def _receipts(answer: object, count: int) -> list[Receipt | None]:
    """One for each effect of a call: the function gave one for all, or a list of them, or nothing."""
    if isinstance(answer, list | tuple):
        items = cast("Sequence[Any]", answer)
        if len(items) == count:
            return [item if isinstance(item, Receipt) else None for item in items]
    return [answer if isinstance(answer, Receipt) else None] * count


def log_effect(level: int, what: str, row: EffectRow | Rescued, *, detail: str = "") -> None:
    """One line about one effect, its identity also as fields; never its payload."""
    attempt = row.attempt if isinstance(row, EffectRow) else None
    fields = {"effect_id": row.id, "effect_name": row.name, "effect_key": row.key, "effect_attempt": attempt}
    text = f"{what}: {detail}" if detail else what
    _logger.log(level, "effect %d %s (%s) %s", row.id, row.name, row.key, text, extra=fields)
