"""Delivery's work on the table: what is due, claim, settle, beat, rescue, give back.

Decides which statements make one transaction. Leaves the SQL to `outbox_sql`, the choice of transitions to `retry`,
and the loop to `deliver`. Invariants: instants are compared by the database with its own clock; whoever settles or
renews a claimed row proves it with the lease token; of an order key only the lowest unsettled position is ever
claimed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ensue.clock import from_micros
from ensue.effects.outbox_sql import STATEMENTS
from ensue.effects.states import attempts_after, target_of
from ensue.effects.target import EffectRow
from ensue.store.driver import Dialect
from ensue.store.statement import Run, Work


class Want(msgspec.Struct, frozen=True):
    """How many effects of one name a worker has room for."""

    name: str
    free: int


class Served(msgspec.Struct, frozen=True):
    """A name that a worker serves, and the age in µs from which an effect that lost its worker is not tried again."""

    name: str
    max_age: int


class Lease(msgspec.Struct, frozen=True):
    """The right to one claimed effect."""

    id: int
    token: str


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The end of an attempt, as a row of the settling statement; made by `outcome`. `delay` is in µs."""

    id: int
    token: str
    state: str
    attempt: int
    delay: int = 0
    error_class: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """An effect that is ours until the lease ends. `age_micros` is its age at the claim, by the database's clock."""

    row: EffectRow
    token: str
    age_micros: int

    @property
    def lease(self) -> Lease:
        return Lease(self.row.id, self.token)


@dataclass(frozen=True, slots=True)
class Due:
    """Of one name: µs until something can be claimed and until a lease runs out.

    Not positive when overdue, None when never.
    """

    name: str
    claimable_in: int | None
    lease_ends_in: int | None


@dataclass(frozen=True, slots=True)
class Rescued:
    """An effect whose worker did not come back in time; `state` is where it went."""

    id: int
    name: str
    key: str
    state: str
    worker: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One round of a worker, in one transaction: what it settles, gives back, rescues and claims, in this order."""

    outcomes: Sequence[Outcome] = ()
    doubtful_tokens: Sequence[str] = ()
    rescue: Sequence[Served] = ()
    live_tokens: Sequence[str] = ()
    wants: Sequence[Want] = ()
    token: str = ""
    worker: str = ""
    lease_micros: int = 0


@dataclass(frozen=True, slots=True)
class TurnResult:
    """What the round did: ids that were settled, effects that were rescued, claims that are now ours."""

    settled: frozenset[int]
    rescued: tuple[Rescued, ...]
    claims: tuple[Claim, ...]


def micros(seconds: float) -> int:
    """Whole microseconds."""
    return round(seconds * 1_000_000)


def outcome(
    claim: Claim, transition: str, *, delay_seconds: float = 0.0, error: tuple[str, str] | None = None
) -> Outcome:
    """How `claim` ended: `transition` is a fenced one of `states.TRANSITIONS`, `error` its class and text."""
    error_class, message = error if error is not None else (None, None)
    return Outcome(
        id=claim.row.id,
        token=claim.token,
        state=target_of(transition),
        attempt=attempts_after(transition, claim.row.attempt - 1),
        delay=micros(delay_seconds),
        error_class=error_class,
        error=message,
    )


def due(dialect: Dialect, names: Sequence[str]) -> Work[list[Due]]:
    """When each of `names` has something to do. Reads only, one index entry per name and question."""
    rows = yield Run(STATEMENTS[dialect].due, (_json(names),))
    return [Due(*row) for row in rows]


def turn(dialect: Dialect, round_: Turn) -> Work[TurnResult]:
    """Settle first, so that what waited for it, the next of its order key, can be claimed in the same transaction."""
    settled = yield from settle(dialect, round_.outcomes)
    if round_.doubtful_tokens:
        yield Run(STATEMENTS[dialect].release, (_json(round_.doubtful_tokens),))
    rescued: tuple[Rescued, ...] = ()
    if round_.rescue:
        rows = yield Run(STATEMENTS[dialect].rescue, (_json(round_.rescue), _json(round_.live_tokens)))
        rescued = tuple(Rescued(*row) for row in rows)
    claims = yield from claim(dialect, round_)
    return TurnResult(settled, rescued, claims)


def settle(dialect: Dialect, outcomes: Sequence[Outcome]) -> Work[frozenset[int]]:
    """Write the ends of attempts; answers the ids that were still ours.

    For the others the lease was lost: nothing happened.
    """
    if not outcomes:
        return frozenset()
    rows = yield Run(STATEMENTS[dialect].settle, (_json(outcomes),))
    return frozenset(row[0] for row in rows)


def claim(dialect: Dialect, round_: Turn) -> Work[tuple[Claim, ...]]:
    """Lease what is due, oldest first, at most `free` of each name."""
    if not round_.wants:
        return ()
    statement = STATEMENTS[dialect].claim
    rows: list[Any] = []
    if dialect == "postgresql":
        rows = yield Run(statement, (_json(round_.wants), round_.token, round_.lease_micros, round_.worker))
    else:
        # A limit can't differ by row on SQLite, and a statement costs microseconds there.
        for want in round_.wants:
            rows += yield Run(statement, (want.name, want.free, round_.token, round_.lease_micros, round_.worker))
    return tuple(_claim_of(row, round_.token) for row in sorted(rows))


def beat(dialect: Dialect, leases: Iterable[Lease], lease_micros: int) -> Work[frozenset[int]]:
    """Renew leases; answers the ids that were still ours."""
    rows = yield Run(STATEMENTS[dialect].beat, (_json(list(leases)), lease_micros))
    return frozenset(row[0] for row in rows)


def _claim_of(row: tuple[Any, ...], token: str) -> Claim:
    id_, name, key, record, record_id, payload, attempts, order_key, position, trace, enqueued_at, now = row
    effect = EffectRow(
        id=id_,
        name=name,
        key=key,
        record=record,
        record_id=record_id,
        payload=payload,
        attempt=attempts + 1,
        enqueued_at=from_micros(enqueued_at),
        order_key=order_key,
        position=position,
        trace=trace,
    )
    return Claim(effect, token, max(0, now - enqueued_at))


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
