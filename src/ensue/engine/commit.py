"""The end of a transaction: propagate, let machines follow what was derived, enqueue effects; and the `Commit` that is announced.

Effects are computed from the net change of each record, so a record that was created and deleted has none. Invariant: when the
work of `finish` is done, the transaction can be committed and nothing that it caused is missing.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ensue.engine.events import Event, net_events
from ensue.engine.propagation.machines import run_machines
from ensue.engine.propagation.propagate import propagate
from ensue.engine.propagation.view import NEW, OLD, load_crossings
from ensue.engine.read.json_form import to_json
from ensue.engine.read.reads import select_fields
from ensue.engine.transaction import ROUNDS_MAX, Transaction
from ensue.errors import UsageError
from ensue.plan.plan import EffectPlan
from ensue.schema.event import MutationEvent
from ensue.store.effect_table import (
    PAYLOAD_VERSION,
    NewEffect,
    allot_params,
    allot_statement,
    effect_key,
    enqueue_params,
    enqueue_statement,
    order_key_of,
)
from ensue.store.statement import Run, Work


@dataclass(frozen=True, slots=True)
class AfterCommit:
    """An effect that is not durable: it runs in this process, once, after the commit."""

    name: str
    key: str
    payload: str


@dataclass(frozen=True, slots=True)
class Commit:
    """What a committed transaction did, for those who follow it.

    `events`: net change per record whose images are known. `touched`: ids of every record that changed, by type, derived changes
    included. `effects`: how many were enqueued.
    """

    events: Callable[[], Sequence[MutationEvent[Any]]]
    touched: Mapping[str, frozenset[int]]
    effects: int = 0
    after_commit: tuple[AfterCommit, ...] = ()


def settle(tx: Transaction) -> Work[None]:
    """Propagate until nothing is pending and no state machine has anything left to follow."""
    yield from propagate(tx)
    rounds = 0
    while tx.derived:
        rounds += 1
        if rounds > ROUNDS_MAX:
            names = ", ".join(sorted(tx.derived))
            raise UsageError(
                f"Derived data and state machines set each other off without end (last: {names}). Narrow the `where=` or `of=` of "
                "the Mutation triggers so that the chain ends."
            )
        events = net_events(tx.plan, tx.derived)
        tx.derived = {}
        yield from run_machines(tx, events)
        yield from propagate(tx)


def finish(tx: Transaction) -> Work[Commit]:
    """Everything that must happen before COMMIT."""
    yield from settle(tx)
    net = tx.frame.net
    durable: list[NewEffect] = []
    volatile: list[AfterCommit] = []
    if not tx.plan.effect_records.isdisjoint(net):
        yield from _collect_effects(tx, durable, volatile)
        if durable:
            yield from _enqueue(tx, durable)
    if tx.frame.deferred:
        initials = [_initial_effect(tx, *item) for item in tx.frame.deferred]
        yield Run(enqueue_statement(tx.plan.dialect), enqueue_params(initials))
        durable.extend(initials)
    touched = {record: frozenset(table) for record, table in net.items() if table}
    for record, ids in tx.frame.touched.items():
        touched[record] = touched.get(record, frozenset()) | ids
    plan = tx.plan
    return Commit(lambda: [event.mutation for event in net_events(plan, net)], touched, len(durable), tuple(volatile))


INITIAL_EFFECT = "ensue.initial"
"""The name of the effect that awaits a `Custom(initial=…)` for a record that arose inside a transaction."""


def _initial_effect(tx: Transaction, record: str, position: int, id_: int) -> NewEffect:
    name = tx.plan.records[record].columns[position].name
    payload = msgspec.json.encode({"v": PAYLOAD_VERSION, "field": name}).decode()
    key = effect_key(INITIAL_EFFECT, record, id_, name)
    return NewEffect(name=INITIAL_EFFECT, key=key, record=record, record_id=id_, payload=payload)


# --- Effects ----------------------------------------------------------------------------------------------------------


def _collect_effects(tx: Transaction, durable: list[NewEffect], volatile: list[AfterCommit]) -> Work[None]:
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
            volatile.append(AfterCommit(model.name, key, payload))
            continue
        order_key = None
        if effect.order_by is not None:
            side = OLD if event.new is None else NEW
            resolve = yield from load_crossings(tx, effect.order_view, tx.frame.net, [(event.old, event.new)])
            order_key = order_key_of(model.name, effect.order_by(event.row, *resolve(event.row, side)))
        durable.append(
            NewEffect(
                name=model.name, key=key, record=model.record, record_id=id_, payload=payload, order_key=order_key
            )
        )


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


def _enqueue(tx: Transaction, effects: list[NewEffect]) -> Work[None]:
    counts: dict[str, int] = {}
    for effect in effects:
        if effect.order_key is not None:
            counts[effect.order_key] = counts.get(effect.order_key, 0) + 1
    if counts:
        taken: list[tuple[str, int]] = yield Run(allot_statement(tx.plan.dialect), allot_params(counts))
        next_position = {key: last - counts[key] + 1 for key, last in taken}
        for n, effect in enumerate(effects):
            if effect.order_key is not None:
                effects[n] = msgspec.structs.replace(effect, position=next_position[effect.order_key])
                next_position[effect.order_key] += 1
    yield Run(enqueue_statement(tx.plan.dialect), enqueue_params(effects))
