"""The effects that this process is delivering right now: their handlers, how each ended, and the room that is left.

Decides how an attempt ended and what its effect becomes. Leaves claiming and writing to `deliver`. Invariant: a
claimed effect is here from its claim until the database has confirmed (or refused) its end, and takes up one place of
its target all that time.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Literal

from ensue.clock import Clock
from ensue.effects.heartbeat import Heartbeat
from ensue.effects.outbox import Claim, Lease, Outcome, Rescued, Want, outcome
from ensue.effects.retry import Failure, decide, judge
from ensue.effects.target import EffectRow, Target

_logger = logging.getLogger("ensue.effects")


@dataclass(slots=True, eq=False)
class _Flight:
    claim: Claim
    target: Target
    started_at: float
    task: asyncio.Task[None] | None = None
    interrupted: Literal["", "lost", "stopped"] = ""
    end: Outcome | None = None


class Flights:
    """Runs handlers under their leases. `on_end` is called whenever one has ended."""

    def __init__(
        self,
        targets: Mapping[str, Target],
        heartbeat: Heartbeat,
        *,
        clock: Clock,
        rng: Random,
        on_end: Callable[[], None],
    ) -> None:
        self._targets = targets
        self._heartbeat = heartbeat
        self._clock = clock
        self._rng = rng
        self._on_end = on_end
        self._flights: dict[Lease, _Flight] = {}

    # --- What is there ------------------------------------------------------------------------------------------------

    def ends(self) -> list[Outcome]:
        """Ends that the database has not confirmed yet, oldest claim first."""
        return [flight.end for flight in self._flights.values() if flight.end is not None]

    def running(self) -> list[asyncio.Task[None]]:
        """Handlers that have not returned."""
        return [flight.task for flight in self._flights.values() if flight.task is not None and not flight.task.done()]

    def tokens(self) -> list[str]:
        """The tokens of all leases that are in use here."""
        return list({lease.token for lease in self._flights})

    def wants(self) -> list[Want]:
        """The room per target once the present ends are written; names without room are left out."""
        taken = Counter(flight.claim.row.name for flight in self._flights.values() if flight.end is None)
        free = ((name, target.concurrency - taken[name]) for name, target in self._targets.items())
        return [Want(name, room) for name, room in free if room > 0]

    def __len__(self) -> int:
        return len(self._flights)

    # --- What happens -------------------------------------------------------------------------------------------------

    def launch(self, claims: Iterable[Claim], *, since: float, context: Context) -> None:
        """Start the handlers of `claims`, made after the monotonic instant `since`, each in a copy of `context`."""
        claims = tuple(claims)
        self._heartbeat.hold((claim.lease for claim in claims), since=since)
        for claim in claims:
            flight = _Flight(claim, self._targets[claim.row.name], since)
            self._flights[claim.lease] = flight
            flight.task = asyncio.create_task(
                self._fly(flight), name=f"ensue.effects.{claim.row.name}", context=context.copy()
            )

    def confirm(self, outcomes: Sequence[Outcome], settled: frozenset[int]) -> None:
        """The database has answered for `outcomes`: it took those in `settled` and refused the others."""
        for end in outcomes:
            flight = self._flights.pop(Lease(end.id, end.token))
            self._heartbeat.drop(flight.claim.lease)
            if end.id not in settled:
                row, what = flight.claim.row, "ended without its lease, so that its result was refused"
                log_effect(logging.WARNING, what, row, detail=end.state)

    def lose(self, lease: Lease) -> None:
        """Someone else may own the effect of `lease` by now: end its handler, report nothing."""
        flight = self._flights.get(lease)
        if flight is not None and flight.task is not None and not flight.task.done():
            flight.interrupted = "lost"
            flight.task.cancel()

    def cancel(self) -> None:
        """End all handlers; their effects go back as they were."""
        for flight in self._flights.values():
            if flight.task is not None and not flight.task.done():
                flight.interrupted = flight.interrupted or "stopped"
                flight.task.cancel()

    def give_back(self) -> None:
        """Give up on handlers that ignored their cancellation: their effects go to others, as after a crash."""
        for flight in self._flights.values():
            if flight.end is None:
                what = "did not end when it was cancelled; it is given to others"
                log_effect(logging.WARNING, what, flight.claim.row)
                flight.end = outcome(flight.claim, "release")

    # --- One attempt --------------------------------------------------------------------------------------------------

    async def _fly(self, flight: _Flight) -> None:
        row = flight.claim.row
        try:
            async with asyncio.timeout(flight.target.timeout_seconds):
                await flight.target.handler(row)
        except asyncio.CancelledError as error:
            self._interrupted(flight, error)
        except Exception as error:  # noqa: BLE001 - judged, logged and written to the table
            self._failed(flight, self._judged(error, flight))
        else:
            flight.end = flight.end or outcome(flight.claim, "succeed")
            log_effect(logging.DEBUG, "delivered", row)
        self._on_end()

    def _interrupted(self, flight: _Flight, error: asyncio.CancelledError) -> None:
        if flight.interrupted == "lost":
            log_effect(logging.WARNING, "lost its lease and was ended", flight.claim.row)
            self._flights.pop(flight.claim.lease, None)
        elif flight.interrupted == "stopped":
            flight.end = flight.end or outcome(flight.claim, "release")
        else:
            # The handler cancelled itself, through a scope of its own that leaked.
            self._failed(flight, judge(error))

    def _judged(self, error: Exception, flight: _Flight) -> Failure:
        if isinstance(error, TimeoutError) and not str(error):
            return Failure("transient", f"TimeoutError: no end within {flight.target.timeout_seconds:g} s")
        return judge(error)

    def _failed(self, flight: _Flight, failure: Failure) -> None:
        row = flight.claim.row
        elapsed = timedelta(seconds=self._clock.monotonic_seconds() - flight.started_at)
        age = timedelta(microseconds=flight.claim.age_micros) + elapsed
        verdict = decide(failure, flight.target.retry, attempts=row.attempt, age=age, rng=self._rng)
        flight.end = flight.end or outcome(
            flight.claim, verdict.transition, delay_seconds=verdict.delay_seconds, error=(failure.kind, failure.message)
        )
        if verdict.transition == "bury":
            log_effect(logging.ERROR, "is dead; `ensue effects retry` starts it anew", row, detail=failure.message)
        else:
            then = f"{failure.kind}, next attempt in {verdict.delay_seconds:.1f} s"
            log_effect(logging.WARNING, f"failed ({then})", row, detail=failure.message)


def log_effect(level: int, what: str, row: EffectRow | Rescued, *, detail: str = "") -> None:
    """One line about one effect, its identity also as fields; never its payload."""
    attempt = row.attempt if isinstance(row, EffectRow) else None
    fields = {"effect_id": row.id, "effect_name": row.name, "effect_key": row.key, "effect_attempt": attempt}
    text = f"{what}: {detail}" if detail else what
    _logger.log(level, "effect %d %s (%s) %s", row.id, row.name, row.key, text, extra=fields)
