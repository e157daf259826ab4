"""What an operator does besides looking: stop and start targets, answer for unknown outcomes, send done effects once more.

Decides which rows each may touch. Leaves printing to the command line, and the moves of targets to `sql.targets`. Invariants: a
claimed effect belongs to its worker; what is sent once more on purpose has a key of its own, so that the other side takes it
for something new.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from secrets import token_hex
from typing import Any

from ensue.clock import from_micros
from ensue.effects.outbox import Move, move
from ensue.effects.sql.conditions import REPLAYED
from ensue.effects.sql.lists import as_json, change_rows, each_id, rows_of
from ensue.effects.sql.targets import TARGETS
from ensue.effects.states import sources_of, target_of
from ensue.store.driver import Dialect, Driver
from ensue.store.effect_table import (
    CLAIMABLE,
    SETTLED,
    STATEMENT_NOW,
    NewEffect,
    allot_params,
    allot_statement,
    enqueue_params,
    enqueue_statement,
    in_list,
)
from ensue.store.marks import marks
from ensue.store.statement import Run, Statement, Work


@dataclass(frozen=True, slots=True)
class TargetState:
    """A target that was stopped or has limits. `reason` is given by who paused it; times are the database's."""

    target: str
    paused: bool
    reason: str | None
    held_until: datetime | None
    breaker: str
    open_until: datetime | None
    open_seconds: float
    tokens: float | None


@dataclass(frozen=True, slots=True)
class AttemptEntry:
    """One attempt of an effect that did not succeed at once."""

    attempt: int
    worker: str | None
    started_at: datetime | None
    ended_at: datetime
    outcome: str
    error_class: str | None
    error: str | None
    provider_id: str | None


@dataclass(frozen=True, slots=True)
class Progress:
    """Of one side effect, now: how many are in each unsettled state, how many ended in the last seconds, the lag."""

    name: str
    pending: int
    claimed: int
    retry_wait: int
    parked: int
    unknown: int
    settled: int
    dead: int
    lag_seconds: float


async def target_states(driver: Driver) -> list[TargetState]:
    """Every target that has a row: those without limits that were never stopped have none."""
    rows = await driver.read(rows_of(TARGETS[driver.dialect].states))
    return [
        TargetState(
            target,
            bool(paused),
            reason,
            from_micros(held) if held > now else None,
            breaker,
            from_micros(opened) if breaker != "closed" else None,
            seconds,
            tokens,
        )
        for target, paused, reason, held, breaker, opened, seconds, tokens, _refilled, now in rows
    ]


async def pause_target(driver: Driver, target: str, reason: str) -> None:
    """Let nothing more go to `target`, in any process, until it is resumed. What is under way ends."""
    await driver.write(move(driver.dialect, [Move("pause", target, reason=reason)]))


async def resume_target(driver: Driver, target: str, names: Sequence[str] = ()) -> bool:
    """Let effects go to `target` again, whatever stopped it; what is parked of `names` is due at once.

    Answers whether the target was known.
    """
    return bool(await driver.write(move(driver.dialect, [Move("resume", target, names=tuple(names))])))


async def resolve_effects(driver: Driver, ids: Sequence[int], *, arrived: bool, note: str | None = None) -> list[int]:
    """Say for unknown outcomes whether they arrived: then they are done, else they are sent again under their key.

    Answers those that were changed; one that is dead can be said to have arrived, too.
    """
    now, transition = STATEMENT_NOW[driver.dialect], "resolve" if arrived else "resend"
    settled = f"settled_at = {now}" if arrived else f"settled_at = NULL, available_at = {now}, first_sent_at = NULL"
    return await _change(driver, transition, f"{settled}, doubt = 0", ids, note=note)


async def replay_effects(driver: Driver, ids: Sequence[int], *, per_second: float | None = None) -> list[int]:
    """Enqueue settled effects once more, each under a new key; at `per_second` if given. Answers those that were settled.

    The other side takes them for something new; `retry_effects` keeps the key. With `order_by=` they come last.
    """
    return await driver.write(_replay(driver.dialect, ids, per_second))


def _replay(dialect: Dialect, ids: Sequence[int], per_second: float | None) -> Work[list[int]]:
    text = (
        "SELECT id, name, key, record, record_id, payload, order_key, trace, target, priority, cause, cause_id"
        f" FROM ensue_effect WHERE state IN {in_list(SETTLED)} AND id IN ({each_id(dialect)}) ORDER BY id"
    )
    rows: list[Any] = yield Run(Statement("effect.replayed", text, rows=True), (as_json(ids),))
    counts: dict[str, int] = {}
    for row in rows:
        if row[6] is not None:
            counts[row[6]] = counts.get(row[6], 0) + 1
    following: dict[str, int] = {}
    if counts:
        taken: list[tuple[str, int]] = yield Run(allot_statement(dialect), allot_params(counts))
        following = {key: last - counts[key] for key, last in taken}
    token, effects = token_hex(4), list[NewEffect]()
    for number, row in enumerate(rows):
        _, name, key, record, record_id, payload, order_key, trace, target, priority, cause, cause_id = row
        if order_key is not None:
            following[order_key] += 1
        effects.append(
            NewEffect(
                name=name,
                key=f"{key}{REPLAYED}{token}",
                record=record,
                record_id=record_id,
                payload=payload,
                order_key=order_key,
                position=None if order_key is None else following[order_key],
                trace=trace,
                target=target or None,
                priority=priority,
                delay=round(number / per_second * 1_000_000) if per_second else None,
                cause=cause,
                cause_id=cause_id,
            )
        )
    if effects:
        yield Run(enqueue_statement(dialect), enqueue_params(effects))
    return [row[0] for row in rows]


@dataclass(frozen=True, slots=True)
class Doubtful:
    """An effect of which an earlier call, first made so long ago, may have arrived."""

    id: int
    name: str
    since_first_send: timedelta


async def doubtful_effects(driver: Driver, ids: Sequence[int]) -> list[Doubtful]:
    """Which of the effects may have arrived: they are asked about, or were sent too long ago, before there is another call."""
    text = (
        f"SELECT id, name, {STATEMENT_NOW[driver.dialect]} - first_sent_at FROM ensue_effect"
        f" WHERE doubt > 0 AND first_sent_at IS NOT NULL AND id IN ({each_id(driver.dialect)}) ORDER BY id"
    )
    rows = await driver.read(rows_of(Statement("effect.doubtful", text, rows=True), (as_json(list(ids)),)))
    return [Doubtful(id_, name, timedelta(microseconds=since)) for id_, name, since in rows]


async def attempts_of(driver: Driver, id: int) -> list[AttemptEntry]:
    """The attempts of an effect that did not succeed at once, oldest first."""
    (mark,) = marks(driver.dialect, "bigint")
    text = (
        "SELECT attempt, worker, started_at, ended_at, outcome, error_class, error, provider_id"
        f" FROM ensue_effect_attempt WHERE effect_id = {mark} ORDER BY id"
    )
    rows = await driver.read(rows_of(Statement("effect.attempts", text, rows=True), (id,)))
    return [
        AttemptEntry(row[0], row[1], None if row[2] is None else from_micros(row[2]), from_micros(row[3]), *row[4:])
        for row in rows
    ]


async def progress(driver: Driver, *, last_seconds: float = 10.0) -> list[Progress]:
    """How delivery goes, by name. Counts what is unsettled and what was settled lately, not what is kept."""
    now = STATEMENT_NOW[driver.dialect]
    (mark,) = marks(driver.dialect, "bigint")
    # In the order of the fields of `Progress`.
    counted = [(state,) for state in ("pending", "claimed", "retry_wait", "parked", "unknown")] + [SETTLED, ("dead",)]
    counts = ", ".join(f"sum(CASE WHEN state IN {in_list(states)} THEN 1 ELSE 0 END)" for states in counted)
    columns = "name, state, available_at"
    text = (
        f"SELECT name, {counts},"
        f" {now} - min(CASE WHEN state IN {in_list(CLAIMABLE)} THEN available_at END) FROM"
        f" (SELECT {columns} FROM ensue_effect WHERE state IN {in_list((*CLAIMABLE, 'claimed'))}"
        f" UNION ALL SELECT {columns} FROM ensue_effect WHERE state IN {in_list(SETTLED)} AND settled_at > {now} - {mark}"
        ") AS e GROUP BY name ORDER BY name"
    )
    rows = await driver.read(rows_of(Statement("effect.progress", text, rows=True), (round(last_seconds * 1_000_000),)))
    return [Progress(*row[:-1], lag_seconds=max(0.0, (row[-1] or 0) / 1_000_000)) for row in rows]


async def _change(driver: Driver, transition: str, change: str, ids: Sequence[int], *, note: str | None) -> list[int]:
    (mark,) = marks(driver.dialect, "text", first=2)
    change = f"state = '{target_of(transition)}', {change}, note = coalesce({mark}, note)"
    name, states = f"effect.{transition}", sources_of(transition)
    return await change_rows(driver, name, "ensue_effect", change, states=states, ids=ids, more=(note,))


async def unserved_effects(driver: Driver, served: Collection[str]) -> dict[str, int]:
    """How many open effects have a name that is not among `served`, by name: nobody who serves only those calls them."""
    text = (
        f"SELECT name, count(*) FROM ensue_effect WHERE state IN {in_list(CLAIMABLE)} AND state NOT IN {in_list(SETTLED)}"
        " GROUP BY name ORDER BY name"
    )
    rows = await driver.read(rows_of(Statement("effect.unserved", text, rows=True)))
    return {name: count for name, count in rows if name not in served}
