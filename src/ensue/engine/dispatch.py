"""Dispatch an interaction: store it as an event, derive records from it, let state machines move.

Guard and transaction are the controller's.
Invariant: the event, everything that derives from it and its effects are in one transaction; a rejection leaves nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from ensue.engine.callbacks import invoke
from ensue.engine.events import Event
from ensue.engine.propagation.customs import fill_initial
from ensue.engine.propagation.locking import lock_in_order
from ensue.engine.propagation.machines import run_machines
from ensue.engine.propagation.transforms import admitted, mappings
from ensue.engine.propagation.view import remember_rows
from ensue.engine.read.json_form import json_value
from ensue.engine.transaction import Transaction
from ensue.engine.writing.apply import insert_rows
from ensue.errors import InvalidValue, Rejected
from ensue.plan.plan import RecordPlan, Row
from ensue.schema.record import Record, make_record, record_values
from ensue.store.effect_table import DEFAULT_NOW
from ensue.store.statement import Access, Run, Shared, Statement, Work
from ensue.store.system_tables import ANONYMOUS

KEY_LENGTH_MAX = 255
"""Characters of an idempotency key."""


@dataclass(slots=True)
class Dispatched:
    """A stored event: its plan, its row, and the interaction as callbacks and callers get it."""

    plan: RecordPlan
    row: Row
    instance: Any


def event_values(plan: RecordPlan, interaction: Any, user: Any) -> dict[str, Any]:
    """The values of an interaction's event record, before they are admitted."""
    values = dict(record_values(interaction))
    if "user" in plan.normalise:
        values["user"] = user
    return values


def store_events(tx: Transaction, given: Sequence[tuple[RecordPlan, dict[str, Any], Any]]) -> Work[list[Dispatched]]:
    """Insert the event records of interactions (plan, values, interaction), one statement per type, in order."""
    drafts: dict[str, list[list[Any]]] = {}
    for plan, values, _ in given:
        drafts.setdefault(plan.name, []).append(plan.admit({**values, "at": tx.now}, tx.now))
    for name, items in drafts.items():
        yield from _require_references(tx, tx.plan.records[name], items)
    rows: dict[str, Any] = {}
    for name, items in drafts.items():
        rows[name] = iter((yield from insert_rows(tx, tx.plan.records[name], items)))
    stored = [_dispatched(tx, plan, next(rows[plan.name]), interaction) for plan, _, interaction in given]
    if stored and tx.cause is None:
        tx.cause = (stored[0].plan.name, stored[0].row[0])
    return stored


def _dispatched(tx: Transaction, plan: RecordPlan, row: Row, interaction: Any) -> Dispatched:
    stored = record_values(plan.snapshot(row))
    # References that were given as records keep what they had loaded.
    given = {name: value for name, value in record_values(interaction).items() if isinstance(value, Record)}
    instance = make_record(cast("type[Record]", type(interaction)), {**stored, **given}, tx.plan.model)
    return Dispatched(plan, row, instance)


def _require_references(tx: Transaction, plan: RecordPlan, drafts: list[list[Any]]) -> Work[None]:
    """Every `Ref` of a payload must exist: an event has no foreign keys, so nothing else would say so."""
    yield from lock_in_order(tx, plan, drafts)
    missing = False
    for target, mode, positions in tx.plan.references[plan.name]:
        ids = {draft[position] for position in positions for draft in drafts}
        ids.discard(None)
        known = tx.rows.get(target)
        unknown = ids if known is None else ids - known.keys()
        if unknown:
            yield from remember_rows(tx, tx.plan.records[target], sorted(unknown), mode)
            missing = missing or not unknown <= tx.rows[target].keys()
    if missing:
        raise _no_such_records(tx, plan, drafts)


def _no_such_records(tx: Transaction, plan: RecordPlan, drafts: list[list[Any]]) -> InvalidValue:
    wrong = {
        link.name: f"there is no {link.target} with id {id_}"
        for link in plan.model.links.values()
        for id_ in (draft[plan.index[link.name]] for draft in drafts)
        if id_ is not None and id_ not in tx.rows.get(link.target, {})
    }
    listed = "; ".join(f"{name}: {why}" for name, why in wrong.items())
    return InvalidValue(f"{plan.name} does not accept: {listed}.", fields=wrong)


def follow_events(tx: Transaction, events: Sequence[Dispatched]) -> Work[None]:
    """What ensues at once: records derived from the events, then state machines, in the order of the events."""
    caused = [Event(event.plan, None, event.row, event.instance) for event in events]
    caused.extend((yield from _derive(tx, events)))
    yield from run_machines(tx, caused)


def _derive(tx: Transaction, events: Sequence[Dispatched]) -> Work[list[Event]]:
    drafts: dict[str, list[list[Any]]] = {}
    for event in events:
        for name in tx.plan.derived_from_events.get(event.plan.name, ()):
            plan = tx.plan.records[name]
            transform = plan.model.transform
            assert transform is not None
            assert transform.function is not None
            result = yield from invoke(tx, transform.function, event.instance)
            for values in mappings(result, plan):
                drafts.setdefault(name, []).append(admitted(plan, values, tx.now))
    created: list[Event] = []
    for name, items in drafts.items():
        plan = tx.plan.records[name]
        if plan.customs:
            yield from fill_initial(tx, plan, items)
        rows = yield from insert_rows(tx, plan, items)
        created.extend(Event(plan, None, row) for row in rows)
    return created


# --- Idempotency ------------------------------------------------------------------------------------------------------

_CLAIM = {
    "sqlite": "INSERT INTO ensue_idempotency (interaction, user_id, key, payload_hash, created_at) "
    f"VALUES (?1, ?2, ?3, ?4, {DEFAULT_NOW['sqlite']}) "
    "ON CONFLICT (interaction, user_id, key) DO NOTHING RETURNING id",
    "postgresql": "INSERT INTO ensue_idempotency (interaction, user_id, key, payload_hash, created_at) "
    f"VALUES ($1::text, $2::bigint, $3::text, $4::text, {DEFAULT_NOW['postgresql']}) "
    "ON CONFLICT (interaction, user_id, key) DO NOTHING RETURNING id",
}
_STORED = {
    "sqlite": "SELECT payload_hash, event_id FROM ensue_idempotency WHERE interaction = ?1 AND user_id = ?2 AND key = ?3",
    "postgresql": "SELECT payload_hash, event_id FROM ensue_idempotency "
    "WHERE interaction = $1::text AND user_id = $2::bigint AND key = $3::text",
}
_FILL = {
    "sqlite": "UPDATE ensue_idempotency SET event_id = ?4 WHERE interaction = ?1 AND user_id = ?2 AND key = ?3",
    "postgresql": "UPDATE ensue_idempotency SET event_id = $4::bigint "
    "WHERE interaction = $1::text AND user_id = $2::bigint AND key = $3::text",
}
_CLAIM_MANY = Statement(
    "ensue_idempotency.claim_many",
    "INSERT INTO ensue_idempotency (interaction, user_id, key, payload_hash, created_at) "
    f"SELECT g.i, g.u, g.k, g.h, {DEFAULT_NOW['postgresql']} "
    "FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[]) AS g(i, u, k, h) "
    "ORDER BY g.i, g.u, g.k ON CONFLICT (interaction, user_id, key) DO NOTHING RETURNING interaction, user_id, key",
    rows=True,
)
_FILL_MANY = Statement(
    "ensue_idempotency.fill_many",
    "UPDATE ensue_idempotency AS t SET event_id = g.e "
    "FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[]) AS g(i, u, k, e) "
    "WHERE t.interaction = g.i AND t.user_id = g.u AND t.key = g.k",
)


def _shared_key(access: Access, many: Statement | None = None) -> Shared:
    """A key is its member's until that is done: who comes with it again finds the event."""

    def claimed(runs: Sequence[Run], rows: Sequence[Row]) -> Sequence[list[Row]]:
        ours = set(rows)
        return [[(True,)] if tuple(run.params[:3]) in ours else [] for run in runs]

    return Shared(
        access,
        "ensue_idempotency",
        exclusive=True,
        ids=lambda run: (tuple(run.params[:3]),),
        many=many,
        join=None if many is None else (lambda runs: list(zip(*[run.params for run in runs], strict=True))),
        split=claimed,
    )


CLAIM, STORED, FILL = (
    {
        dialect: Statement(
            f"ensue_idempotency.{name}", text, rows=rows, shared=shared if dialect == "postgresql" else None
        )
        for dialect, text in texts.items()
    }
    for name, texts, rows, shared in (
        ("claim", _CLAIM, True, _shared_key("write", _CLAIM_MANY)),
        ("read", _STORED, True, _shared_key("read")),
        ("fill", _FILL, False, _shared_key("write", _FILL_MANY)),
    )
)

IdempotencyKey = tuple[str, int, str]
"""(interaction, id of the user or 0, key)"""


def payload_hash(values: Mapping[str, Any]) -> str:
    """A digest of a payload: equal for equal values, whatever their order."""
    shown = {
        name: value.__ensue_id__() if isinstance(value, Record) else json_value(value) for name, value in values.items()
    }
    return hashlib.sha256(msgspec.json.encode(shown, order="deterministic")).hexdigest()


def claim_key(tx: Transaction, key: IdempotencyKey, digest: str) -> Work[int | None]:
    """Claim an idempotency key; None if it is ours now, else the id of the event that was stored under it.

    On PostgreSQL a concurrent holder is waited for. Raises `Rejected("idempotency_mismatch")` for another payload.
    """
    dialect = tx.plan.dialect
    claimed: list[Any] = yield Run(CLAIM[dialect], (*key, digest))
    if claimed:
        return None
    ((stored, event_id),) = yield Run(STORED[dialect], key)
    if stored != digest:
        raise Rejected(
            "idempotency_mismatch",
            f"The idempotency key {key[2]!r} was used for {key[0]} with another payload. Use a new key for a new request.",
        )
    return event_id


def fill_key(tx: Transaction, key: IdempotencyKey, event_id: int) -> Work[None]:
    """Keep, under a claimed key, which event it led to."""
    yield Run(FILL[tx.plan.dialect], (*key, event_id))


def idempotency_key(name: str, user: Any, key: str) -> IdempotencyKey:
    """The key under which a dispatch is remembered. Raises InvalidValue for one that can't be kept."""
    if type(key) is not str:
        raise _wrong_key(f"is a {type(key).__name__}; expected a str")
    if not 0 < len(key) <= KEY_LENGTH_MAX:
        raise _wrong_key(f"has {len(key)} characters; expected 1 to {KEY_LENGTH_MAX}")
    if "\0" in key:
        raise _wrong_key("holds a NUL character, which databases can't store in text")
    identity = user.__ensue_id__() if isinstance(user, Record) else user
    return (name, identity if isinstance(identity, int) else ANONYMOUS, key)


def _wrong_key(reason: str) -> InvalidValue:
    return InvalidValue(f"The idempotency key {reason}.", fields={"idempotency_key": reason})
