"""Which side effects the changes of a transaction have, and what is written of each.

Decides the payload and the key of an effect, its order key, its delay and its cause. Leaves positions and the insert to
`enqueue`. Invariant: an effect carries the change as it was at the commit, so that it can be delivered at any later time.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec

from ensue.clock import to_micros, whole_micros
from ensue.engine.events import Event, net_events
from ensue.engine.propagation.view import NEW, OLD, load_crossings
from ensue.engine.read.json_form import to_json
from ensue.engine.read.reads import select_fields
from ensue.engine.transaction import Transaction
from ensue.plan.plan import EffectPlan
from ensue.store.effect_table import NEVER, PAYLOAD_VERSION, NewEffect, effect_key, order_key_of
from ensue.store.statement import Work

INITIAL_EFFECT = "ensue.initial"
"""The name of the effect that awaits a `Custom(initial=…)` for a record that arose inside a transaction."""


@dataclass(frozen=True, slots=True)
class AfterCommit:
    """An effect that is not durable: it runs in this process, once, after the commit."""

    name: str
    key: str
    payload: str
    trace: str | None = None


def initial_effect(tx: Transaction, record: str, position: int, id_: int) -> NewEffect:
    """The effect that computes a `Custom(initial=…)` later."""
    name = tx.plan.records[record].columns[position].name
    payload = msgspec.json.encode({"v": PAYLOAD_VERSION, "field": name}).decode()
    key = effect_key(INITIAL_EFFECT, record, id_, name)
    return NewEffect(name=INITIAL_EFFECT, key=key, record=record, record_id=id_, payload=payload, trace=tx.trace)


def collect_effects(tx: Transaction, durable: list[NewEffect], volatile: list[AfterCommit]) -> Work[None]:
    """Add the effects of the transaction's net changes to `durable` and `volatile`."""
    tx.token = tx.token or secrets.token_hex(6)
    for record in tx.plan.effect_records:
        events = net_events(tx.plan, tx.frame.net, frozenset({record}))
        for effect in tx.plan.records[record].effects if events else ():
            chosen: list[Event] = []
            for event in events:
                if (yield from _concerns(tx, effect, event)):
                    chosen.append(event)
            if chosen:
                yield from _build_effects(tx, effect, chosen, durable=durable, volatile=volatile)


def _concerns(tx: Transaction, effect: EffectPlan, event: Event) -> Work[bool]:
    if event.change not in effect.model.on:
        return False
    old, new = event.old, event.new
    if effect.of and old is not None and new is not None and all(old[p] == new[p] for p in effect.of):
        return False
    if effect.where is None:
        return True
    side = OLD if new is None else NEW
    resolve = yield from load_crossings(tx, effect.where_view, tx.frame.net, [(old, new)])
    return effect.where(event.row, *resolve(event.row, side))


def _build_effects(
    tx: Transaction, effect: EffectPlan, events: list[Event], *, durable: list[NewEffect], volatile: list[AfterCommit]
) -> Work[None]:
    model = effect.model
    loaded: Mapping[int, Any] = {}
    if model.fields:
        present = [event.row[0] for event in events if event.new is not None]
        loaded = yield from select_fields(tx.reader, model.record, present, model.fields, own=True)
    for event in events:
        id_ = event.row[0]
        record = loaded.get(id_) or tx.frame.captured.get((model.name, id_))
        payload = effect_payload(event, record)
        key = effect_key(model.name, model.record, id_, f"{event.change}-{tx.token}")
        if not model.durable:
            volatile.append(AfterCommit(model.name, key, payload, tx.trace))
            continue
        durable.append((yield from _durable(tx, effect, event, key=key, payload=payload)))


def _durable(tx: Transaction, effect: EffectPlan, event: Event, *, key: str, payload: str) -> Work[NewEffect]:
    model = effect.model
    order_key = None
    if effect.order_by is not None:
        side = OLD if event.new is None else NEW
        resolve = yield from load_crossings(tx, effect.order_view, tx.frame.net, [(event.old, event.new)])
        order_key = order_key_of(model.name, effect.order_by(event.row, *resolve(event.row, side)))
    delay, due_at = yield from _delay(tx, effect, event)
    target = model.options.get("target")
    cause, cause_id = tx.cause or (None, None)
    return NewEffect(
        name=model.name,
        key=key,
        record=model.record,
        record_id=event.row[0],
        payload=payload,
        order_key=order_key,
        target=None if target is None else target.name,
        priority=model.options.get("priority", 0),
        delay=delay,
        due_at=due_at,
        cause=cause,
        cause_id=cause_id,
        trace=tx.trace,
    )


def _delay(tx: Transaction, effect: EffectPlan, event: Event) -> Work[tuple[int | None, int | None]]:
    """How long the effect waits in µs, or until which instant in µs since 1970."""
    if isinstance(effect.model.delay, timedelta):
        return min(whole_micros(effect.model.delay), _DELAY_MAX), None
    if effect.delay is None:
        return None, None
    side = OLD if event.new is None else NEW
    resolve = yield from load_crossings(tx, effect.delay_view, tx.frame.net, [(event.old, event.new)])
    found = effect.delay(event.row, *resolve(event.row, side))
    if found is None:
        return None, None
    if isinstance(found, datetime):
        return None, min(to_micros(found), NEVER)
    return min(max(0, round(found * 1_000_000)), _DELAY_MAX), None


_DELAY_MAX = 100 * 365 * 24 * 3600 * 1_000_000
"""A century: what lies beyond is a mistake, and would not fit the calendar."""


def effect_payload(event: Event, record: Any | None = None) -> str:
    """An event as the JSON of an effect's row: the change, its images and (in `record`) the fields that were asked for."""
    mutation = event.mutation
    body: dict[str, Any] = {
        "v": PAYLOAD_VERSION,
        "type": mutation.type,
        "record_name": mutation.record_name,
        "record": to_json(mutation.record if record is None else record),
        "old_record": None if mutation.old_record is None else to_json(mutation.old_record),
        "changed": sorted(mutation.changed),
    }
    return msgspec.json.encode(body).decode()
