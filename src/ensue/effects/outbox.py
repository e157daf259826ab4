"""Delivery's work on the table: what is due, claim, settle, beat, rescue, give back.

Decides which statements make one transaction. Leaves the SQL to `sql`, the choice of transitions to `retry`, and the loops
to `deliver`. Invariants: instants are compared by the database with its own clock; whoever settles or renews a claimed row
proves it with the lease token; targets are moved before effects are settled, so that a failure meets the breaker that it
opened.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ensue.clock import from_micros
from ensue.effects.sql.claim import ANALYZE, CLAIM, PICK
from ensue.effects.sql.lists import as_json
from ensue.effects.sql.settle import SETTLE
from ensue.effects.sql.targets import TARGETS, MoveKind
from ensue.effects.states import attempts_after, target_of
from ensue.effects.target import EffectRow
from ensue.store.driver import Dialect
from ensue.store.statement import Run, Work


class Want(msgspec.Struct, frozen=True):
    """How many calls of one name a worker has room for, each of up to `batch` effects.

    `keyed`: ordered ones may wait, to be looked for after `after`. `limited`: the target has limits, counted in its row. `floor` is
    what `server` found that nothing unsettled is older than.
    """

    name: str
    free: int
    target: str = ""
    priority: int = 0
    keyed: bool = True
    after: str = ""
    rate: float | None = None
    burst: float | None = None
    limited: bool = False
    batch: int = 1
    floor: int = 0
    server: int = 0


class Gate(msgspec.Struct, frozen=True):
    """A target as one worker knows it: its limits (`rate` in calls per µs), and a probe's time."""

    target: str
    rate: float | None = None
    burst: float | None = None
    concurrency: int | None = None
    probe: int = 60_000_000

    @property
    def limited(self) -> bool:
        """Whether claims are counted in the target's row."""
        return self.rate is not None or self.concurrency is not None


class Served(msgspec.Struct, frozen=True):
    """A name that a worker serves, and what becomes of one that lost its worker: from age `max_age` in µs on not tried again.

    `guard` is `ask` or `doubt` if its call may not simply be repeated.
    """

    name: str
    max_age: int
    guard: str = ""
    poison: str = "skip"


class Lease(msgspec.Struct, frozen=True):
    """The right to one claimed effect."""

    id: int
    token: str


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The end of an attempt, as a row of the settling statement; made by `outcome`. `delay` is in µs, None for ever."""

    id: int
    token: str
    state: str
    attempt: int
    kept: int
    delay: int | None = 0
    error_class: str | None = None
    error: str | None = None
    failures: int = 0
    doubt: int = 0
    parks: bool = False
    yields: bool = False
    provider_id: str | None = None
    note: str | None = None
    tried: int = 1
    noted: str | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """What a worker learnt about a target: told to wait, unavailable, back again."""

    kind: MoveKind
    target: str
    pause: int = 0
    most: int = 0
    token: str = ""
    reason: str | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """An effect that is ours until the lease ends.

    `age_micros` is its age at the claim, by the database's clock, since it was first due; `sent_micros` since the first
    call. `probe`: it is the one call that a target with an open breaker is let.
    """

    row: EffectRow
    token: str
    age_micros: int
    sent_micros: int = 0
    target: str = ""
    probe: bool = False
    floor: int = 0

    @property
    def lease(self) -> Lease:
        return Lease(self.row.id, self.token)

    @property
    def turn(self) -> str:
        """The token of the turn in which it was claimed."""
        return self.token.partition(":")[0]

    @property
    def call(self) -> tuple[str, int | str]:
        """What it has in common with those that go in the same call, and with nobody else."""
        return self.row.name, self.token if ":" in self.token else self.row.id


@dataclass(frozen=True, slots=True)
class Due:
    """Of one name: µs until something can be claimed and until a lease runs out, and whether ordered effects wait.

    Not positive when overdue, None when never. `missing`: its target has limits, and no row that they are counted in.
    """

    name: str
    claimable_in: int | None
    keyed: bool
    lease_ends_in: int | None
    missing: bool = False
    floor: int = 0
    server: int = 0


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
    """What a worker looks for: `relaxed` if a claim may be lost with the server, and made again."""

    wants: Sequence[Want] = ()
    gates: Sequence[Gate] = ()
    token: str = ""
    worker: str = ""
    lease_micros: int = 0
    relaxed: bool = False


def micros(seconds: float) -> int:
    """Whole microseconds."""
    return round(seconds * 1_000_000)


def outcome(
    claim: Claim,
    transition: str,
    *,
    delay_seconds: float | None = 0.0,
    error: tuple[str, str] | None = None,
    doubt: int | None = None,
    **more: Any,
) -> Outcome:
    """How `claim` ended: `transition` is a fenced one of `states.TRANSITIONS`, `error` its class and text."""
    error_class, message = error if error is not None else (None, None)
    row = claim.row
    retried = row.failures > 0 or row.doubt > 0 or error is not None
    return Outcome(
        id=row.id,
        token=claim.token,
        state=target_of(transition),
        attempt=attempts_after(transition, row.attempt - 1),
        kept=row.attempt - 1,
        delay=None if delay_seconds is None else micros(delay_seconds),
        error_class=error_class,
        error=message,
        failures=row.failures + (error is not None),
        doubt=row.doubt if doubt is None else doubt,
        tried=row.attempt,
        # What went well at once needs no entry: its row says all of it.
        noted=transition if retried and transition != "release" else None,
        **more,
    )


def due(dialect: Dialect, wants: Sequence[Want]) -> Work[list[Due]]:
    """When each of the names has something to do. Reads only, one index entry per name and question."""
    rows = yield Run(CLAIM[dialect].due, (as_json(wants),))
    return [
        Due(name, ahead, bool(keyed), lease, bool(missing), *more) for name, ahead, keyed, lease, missing, *more in rows
    ]


def walk_end(dialect: Dialect, want: Want) -> Work[str | None]:
    """The order key at which one look at the keys of `name` ends; None if it comes to the last of them."""
    floor = (want.floor, want.server) if dialect == "postgresql" else ()
    rows = yield Run(CLAIM[dialect].walk_end, (want.name, want.after, *floor))
    return rows[0][0] if rows else None


def first_after(name: str) -> str:
    """What lies before all order keys of `name`."""
    return f"{name}|"


def settle(dialect: Dialect, outcomes: Sequence[Outcome], moves: Sequence[Move] = ()) -> Work[dict[int, str]]:
    """Move targets and write the ends of attempts; answers the ids that were still ours, and the state they came to.

    For the others the lease was lost: nothing happened.
    """
    yield from move(dialect, moves)
    if not outcomes:
        return {}
    if any(end.noted is not None for end in outcomes):
        yield Run(SETTLE[dialect].note, (as_json(outcomes),))
    rows = yield Run(SETTLE[dialect].settle, (as_json(outcomes),))
    return dict(rows)


def move(dialect: Dialect, moves: Iterable[Move]) -> Work[list[str]]:
    """Change rows of targets, in the order of their names; answers those that were changed."""
    changed: list[str] = []
    statements = TARGETS[dialect]
    for one in sorted(moves, key=lambda item: item.target):
        params = (one.target, one.pause, one.most, one.token, one.reason)
        rows = yield Run(statements.moves[one.kind], params)
        changed += [row[0] for row in rows]
        if rows and one.names and one.kind in ("close", "resume"):
            yield Run(statements.unpark, (as_json(one.names),))
    return changed


def ensure_targets(dialect: Dialect, names: Sequence[str]) -> Work[None]:
    """Rows for targets with limits, which claims count in."""
    yield Run(TARGETS[dialect].ensure, (as_json(names),))


def rescue(dialect: Dialect, served: Sequence[Served], live_tokens: Sequence[str]) -> Work[tuple[Rescued, ...]]:
    """Take back what workers left whose leases ran out, and enter it into the ledger."""
    rows = yield Run(SETTLE[dialect].rescue, (as_json(served), as_json(live_tokens)))
    if rows:
        names = ("id", "name", "key", "state", "worker", "attempt", "claimed_at", "error")
        yield Run(SETTLE[dialect].note_lost, (as_json([dict(zip(names, row, strict=True)) for row in rows]),))
    return tuple(Rescued(*row[:5]) for row in rows)


def release(dialect: Dialect, tokens: Sequence[str]) -> Work[None]:
    """Give back what was claimed under `tokens`, if it was: nobody runs it."""
    yield Run(SETTLE[dialect].release, (as_json(tokens),))


def claim(dialect: Dialect, turn: Turn) -> Work[tuple[Claim, ...]]:
    """Lease what is due: of each name at most `free` calls, of each target what it allows."""
    if not turn.wants:
        return ()
    if dialect == "postgresql":
        params = (as_json(turn.wants), as_json(turn.gates), turn.token, turn.lease_micros, turn.worker, turn.relaxed)
        rows = yield Run(CLAIM[dialect].claim, params)
        return tuple(_claim_of(row) for row in sorted(rows))
    return (yield from _claim_on_sqlite(turn))


def _claim_on_sqlite(turn: Turn) -> Work[tuple[Claim, ...]]:
    rooms: dict[str, tuple[bool, float | None, int | None]] = {}
    gates = {gate.target: gate for gate in turn.gates}
    for target, probing, tokens, room in (yield Run(PICK.room, (as_json(turn.gates),))):
        rooms[target] = (bool(probing), tokens if gates[target].limited else None, room)
    found: list[tuple[int, int, bool, Want]] = []
    for want in turn.wants:
        if rooms[want.target][2] == 0:
            continue
        rows: list[Any] = yield Run(PICK.plain, (want.name, want.free * want.batch))
        if want.keyed:
            rows = rows + (yield Run(PICK.keyed, (want.name, want.free * want.batch, want.after)))
        found.extend((at - want.priority * 60_000_000, id_, bool(alone), want) for id_, at, alone in rows)
    chosen, calls = _calls(
        turn, sorted(found, key=lambda item: item[:2]), {name: room[2] for name, room in rooms.items()}
    )
    if not chosen:
        return ()
    taken = [
        {
            "target": target,
            "tokens": None if rooms[target][1] is None else (rooms[target][1] or 0) - count,
            "probe": gates[target].probe if rooms[target][0] else None,
        }
        for target, count in calls.items()
        if rooms[target][2] is not None
    ]
    if taken:
        yield Run(PICK.take_room, (as_json(taken), turn.token))
    claimed = yield Run(CLAIM["sqlite"].claim, (as_json(chosen), turn.lease_micros, turn.worker))
    return tuple(_claim_of((*row, rooms[row[-1]][0], 0)) for row in sorted(claimed))


def _calls(
    turn: Turn, found: Sequence[tuple[int, int, bool, Want]], rooms: Mapping[str, int | None]
) -> tuple[list[dict[str, Any]], Mapping[str, int]]:
    """Which of `found`, in this order, fit into the calls that there is room for; and how many calls of each target."""
    of_target, of_name, places = Counter[str](), Counter[str](), Counter[str]()
    tokens: dict[str, str] = {}
    chosen: list[dict[str, Any]] = []
    for _, id_, alone, want in found:
        joins = not alone and places[want.name] > 0
        if not joins:
            room = rooms[want.target]
            if of_name[want.name] == want.free or (room is not None and of_target[want.target] >= room):
                continue
            of_name[want.name] += 1
            of_target[want.target] += 1
        if alone or want.batch == 1:
            token = turn.token
        else:
            if not joins:
                places[want.name] = want.batch
                tokens[want.name] = f"{turn.token}:{want.name}#{of_name[want.name]}"
            places[want.name] -= 1
            token = tokens[want.name]
        chosen.append({"id": id_, "target": want.target, "token": token})
    return chosen, of_target


def plan_anew() -> Work[None]:
    """For a table on PostgreSQL that has grown: plans that were made while it was small read all of it."""
    yield Run(ANALYZE)


def beat(dialect: Dialect, leases: Iterable[Lease], lease_micros: int) -> Work[frozenset[int]]:
    """Renew leases; answers the ids that were still ours."""
    rows = yield Run(SETTLE[dialect].beat, (as_json(list(leases)), lease_micros))
    return frozenset(row[0] for row in rows)


def _claim_of(row: tuple[Any, ...]) -> Claim:
    id_, name, key, record, record_id, payload, attempts, order_key, position, trace, enqueued_at, *more = row
    failures, doubt, error_class, cause, cause_id, due_at, first_sent_at, token, now, target, probing, floor = more
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
        failures=failures,
        doubt=doubt,
        error_class=error_class,
        cause=cause,
        cause_id=cause_id,
        anew=first_sent_at < enqueued_at,
    )
    sent = max(0, now - first_sent_at)
    return Claim(effect, token, max(0, now - due_at), sent_micros=sent, target=target, probe=bool(probing), floor=floor)
