"""The effects as an operator sees them: list, show, retry, discard; what `ensue effects` prints and does.

Decides which effects may be started anew or given up. Leaves printing to the command line. Invariant: a claimed
effect belongs to its worker; nothing here touches it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from ensue.clock import from_micros, whole_micros
from ensue.effects.sql.conditions import UNSETTLED_KEYED
from ensue.effects.sql.lists import as_json, change_rows, each, each_id, rows_of, states_of
from ensue.effects.states import sources_of, target_of
from ensue.errors import NotFound
from ensue.store.driver import Dialect, Driver
from ensue.store.effect_table import GIVEN_UP, SETTLED, STATEMENT_NOW, TRANSACTION_NUMBER, in_list
from ensue.store.marks import marks
from ensue.store.statement import Run, Statement, Work

LIST_LIMIT: Final = 100
ORDER_KEYS_AT_ONCE: Final = 1000


@dataclass(frozen=True, slots=True)
class EffectEntry:
    """One effect without its payload."""

    id: int
    name: str
    key: str
    record: str
    record_id: int
    state: str
    attempt: int
    enqueued_at: datetime
    available_at: datetime
    settled_at: datetime | None
    worker: str | None
    order_key: str | None
    position: int | None
    error_class: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class EffectDetail:
    """One effect with everything that the table holds of it."""

    entry: EffectEntry
    payload: str
    trace: str | None
    lease_until: datetime | None
    target: str
    cause: str | None
    cause_id: int | None
    provider_id: str | None
    note: str | None
    failures: int
    doubt: int
    first_sent_at: datetime | None


@dataclass(frozen=True, slots=True)
class EffectCount:
    """How many effects of one name are in one state, and when the oldest of them was enqueued."""

    name: str
    state: str
    count: int
    oldest: datetime


_ENTRY: Final = (
    "id, name, key, record, record_id, state, attempt, enqueued_at, available_at, settled_at, worker, order_key, position,"
    " error_class, error"
)
_ENTRY_LENGTH: Final = _ENTRY.count(",") + 1
_DETAIL: Final = (
    "payload, trace, lease_until, target, cause, cause_id, provider_id, note, failures, doubt, first_sent_at"
)


async def list_effects(
    driver: Driver,
    *,
    state: str | None = None,
    name: str | None = None,
    before_id: int | None = None,
    limit: int = LIST_LIMIT,
) -> list[EffectEntry]:
    """Newest first, at most `limit`; `before_id` pages on."""
    in_state, named, before, most = marks(driver.dialect, "text", "text", "bigint", "bigint")
    text = (
        f"SELECT {_ENTRY} FROM ensue_effect WHERE ({in_state} IS NULL OR state = {in_state})"
        f" AND ({named} IS NULL OR name = {named}) AND ({before} IS NULL OR id < {before})"
        f" ORDER BY id DESC LIMIT {most}"
    )
    rows = await driver.read(rows_of(Statement("effect.list", text, rows=True), (state, name, before_id, limit)))
    return [_entry(row) for row in rows]


async def count_effects(driver: Driver) -> list[EffectCount]:
    """Per name and state: how many, and the oldest."""
    text = "SELECT name, state, count(*), min(enqueued_at) FROM ensue_effect GROUP BY name, state ORDER BY name, state"
    rows = await driver.read(rows_of(Statement("effect.count", text, rows=True), ()))
    return [EffectCount(name, state, count, from_micros(oldest)) for name, state, count, oldest in rows]


async def show_effect(driver: Driver, id: int) -> EffectDetail:
    """One effect. Raises `NotFound`."""
    (mark,) = marks(driver.dialect, "bigint")
    text = f"SELECT {_ENTRY}, {_DETAIL} FROM ensue_effect WHERE id = {mark}"
    rows = await driver.read(rows_of(Statement("effect.show", text, rows=True), (id,)))
    if not rows:
        raise NotFound(
            f"There is no effect {id}. What was done is removed after a while; `ensue effects list` shows the rest."
        )
    more = list(rows[0][_ENTRY_LENGTH:])
    more[2], more[-1] = _instant(more[2]), _instant(more[-1])
    return EffectDetail(_entry(rows[0][:_ENTRY_LENGTH]), *more)


async def effect_states(driver: Driver, ids: Sequence[int]) -> dict[int, str]:
    """In which states effects are, by id; those that there are not are left out."""
    return await states_of(driver, "ensue_effect", ids)


async def retry_effects(driver: Driver, ids: Sequence[int]) -> list[int]:
    """Start effects anew, with all attempts and a new age; answers those that were not claimed, done or unknown.

    The key stays: the other side may recognise a repeat. With `order_by=`, an effect that was dead may now come after
    later ones.
    """
    now = STATEMENT_NOW[driver.dialect]
    change = (
        f"state = '{target_of('requeue')}', attempt = 0, failures = 0, enqueued_at = {now}, available_at = {now},"
        f" since_transaction = {TRANSACTION_NUMBER[driver.dialect]},"
        " due_at = NULL, settled_at = NULL, worker = NULL"
    )
    return await _change(driver, "requeue", change, ids)


async def discard_effects(driver: Driver, ids: Sequence[int]) -> list[int]:
    """Give effects up for good; answers those that were not claimed or settled. The next of their order key may go."""
    change = f"state = '{target_of('discard')}', settled_at = {STATEMENT_NOW[driver.dialect]}"
    return await _change(driver, "discard", change, ids)


class Returned(msgspec.Struct, frozen=True):
    """An effect that was handed to a relay, and that nobody behind it could deliver.

    `enqueued_at` is in µs since 1970: what an operator started anew since is another matter.
    """

    key: str
    enqueued_at: int
    error_class: str
    error: str


async def return_effects(driver: Driver, effects: Sequence[Returned]) -> tuple[list[str], list[str]]:
    """Note that effects which were settled by handing them over are dead.

    Answers the keys of those that are dead now, and of those whose hand-over is not settled yet: ask again for them.
    """
    return await driver.write(_return(driver.dialect, effects))


def _return(dialect: Dialect, effects: Sequence[Returned]) -> Work[tuple[list[str], list[str]]]:
    if dialect == "sqlite":
        fields = ", ".join(f"value ->> '{name}' AS {name}" for name in Returned.__struct_fields__)
        items = f"(SELECT {fields} FROM json_each(?1)) AS r"
    else:
        items = "json_to_recordset($1::text::json) AS r(key text, enqueued_at bigint, error_class text, error text)"
    same = "e.key = r.key AND e.enqueued_at = r.enqueued_at"
    early = f"SELECT e.key FROM ensue_effect e JOIN {items} ON {same} WHERE e.state NOT IN {in_list(SETTLED)}"
    dead = (
        f"UPDATE ensue_effect AS e SET state = '{target_of('return')}', error_class = r.error_class, error = r.error"
        f" FROM {items} WHERE {same} AND e.state IN {sources_of('return')} RETURNING {'e.' * (dialect == 'postgresql')}key"
    )
    params = (as_json(effects),)
    # In this order: what is settled in between is found by the second.
    waiting: list[tuple[str]] = yield Run(Statement("effect.returned_early", early, rows=True), params)
    changed: list[tuple[str]] = yield Run(Statement("effect.return", dead, rows=True), params)
    keys = [row[0] for row in changed]
    return keys, [row[0] for row in waiting if row[0] not in keys]


async def hasten(driver: Driver, names: Sequence[str]) -> None:
    """Make everything that waits for a later attempt due now; attempts are unchanged."""
    now = STATEMENT_NOW[driver.dialect]
    text = (
        f"UPDATE ensue_effect SET available_at = {now}"
        f" WHERE state = 'retry_wait' AND name IN ({each(driver.dialect)}) RETURNING id"
    )
    await driver.write(rows_of(Statement("effect.hasten", text, rows=True), (as_json(names),)))


async def prune_effects(driver: Driver, *, older_than: timedelta) -> int:
    """Remove what was done or cancelled longer than `older_than` ago; what is dead stays as evidence.

    Answers the number. With the newest effect of an order key goes its last position, if nothing of the key waits or can be
    started anew: the next effect of the key has position 1 again.
    """
    removed, newest = await driver.write(_prune(driver.dialect, whole_micros(older_than)))
    keys = list(newest)
    for start in range(0, len(keys), ORDER_KEYS_AT_ONCE):
        some = {key: newest[key] for key in keys[start : start + ORDER_KEYS_AT_ONCE]}
        await driver.write(forget_order_keys(driver.dialect, some))
    return removed


def _prune(dialect: Dialect, age: int) -> Work[tuple[int, dict[str, int]]]:
    """The number, and the highest position of each order key among them. The attempts go with their effects."""
    (mark,) = marks(dialect, "bigint")
    text = (
        "DELETE FROM ensue_effect WHERE state IN ('done', 'cancelled')"
        f" AND state IN {in_list(SETTLED)} AND settled_at < {STATEMENT_NOW[dialect]} - {mark}"
        " RETURNING id, order_key, position"
    )
    rows: list[tuple[int, str | None, int]] = yield Run(Statement("effect.prune", text, rows=True), (age,))
    if rows:
        text = f"DELETE FROM ensue_effect_attempt WHERE effect_id IN ({each_id(dialect)})"
        yield Run(Statement("effect.prune_attempts", text), (as_json([row[0] for row in rows]),))
    newest: dict[str, int] = {}
    for _, order_key, position in rows:
        if order_key is not None:
            newest[order_key] = max(position, newest.get(order_key, 0))
    return len(rows), newest


_IDLE: Final = (
    f"NOT EXISTS (SELECT 1 FROM ensue_effect h WHERE h.order_key = o.order_key AND {UNSETTLED_KEYED})"
    " AND NOT EXISTS (SELECT 1 FROM ensue_effect h WHERE h.order_key = o.order_key AND h.order_key IS NOT NULL"
    f" AND h.state IN {in_list(GIVEN_UP)})"
)


def forget_order_keys(dialect: Dialect, newest: Mapping[str, int]) -> Work[None]:
    """Remove the last positions of idle order keys if they still are those of `newest`, which are gone."""
    if dialect == "sqlite":
        items, locked = "SELECT key, value FROM json_each(?1)", ""
    else:
        items, locked = "SELECT key, value::bigint FROM json_each_text($1::text::json)", " FOR UPDATE OF o SKIP LOCKED"
    idle = f"(o.order_key, o.last_position) IN ({items}) AND {_IDLE}"
    look = f"SELECT o.order_key FROM ensue_effect_order AS o WHERE {idle}{locked}"
    found: list[tuple[str]] = yield Run(Statement("effect.idle_order_keys", look, rows=True), (as_json(newest),))
    if found:
        # Looked at again by a statement that began after the lock: whoever took a position before it has committed, and
        # whoever comes now waits for us. An effect that was being enqueued during the first look would else lose its place.
        still = as_json({row[0]: newest[row[0]] for row in found})
        text = f"DELETE FROM ensue_effect_order AS o WHERE {idle}"
        yield Run(Statement("effect.forget_order_keys", text), (still,))


async def _change(driver: Driver, transition: str, change: str, ids: Sequence[int]) -> list[int]:
    name, states = f"effect.{transition}", sources_of(transition)
    return await change_rows(driver, name, "ensue_effect", change, states=states, ids=ids)


def _instant(micros: int | None) -> datetime | None:
    return None if micros is None else from_micros(micros)


def _entry(row: tuple[Any, ...]) -> EffectEntry:
    values = list(row)
    values[7:10] = [_instant(micros) for micros in values[7:10]]
    return EffectEntry(*values)
