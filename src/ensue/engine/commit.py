"""The end of a transaction: propagate, let machines follow what was derived, enqueue effects; and the `Commit` that is announced.

Effects are computed from the net change of each record, so a record that was created and deleted has none. Invariant: when the
work of `finish` is done, the transaction can be committed and nothing that it caused is missing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ensue.engine.enqueuing.collect import AfterCommit, collect_effects, initial_effect
from ensue.engine.enqueuing.enqueue import enqueue
from ensue.engine.events import net_events
from ensue.engine.propagation.machines import run_machines
from ensue.engine.propagation.propagate import propagate
from ensue.engine.transaction import ROUNDS_MAX, Transaction
from ensue.errors import UsageError
from ensue.schema.event import MutationEvent
from ensue.store.effect_table import NewEffect, enqueue_params, enqueue_statement
from ensue.store.statement import Run, Work


@dataclass(frozen=True, slots=True)
class Commit:
    """What a committed transaction did, for those who follow it.

    `events`: net change per record whose images are known. `touched`: ids of every record that changed, by type, derived changes
    included. `effects`: the names of those that were enqueued, one for each.
    """

    events: Callable[[], Sequence[MutationEvent[Any]]]
    touched: Mapping[str, frozenset[int]]
    effects: tuple[str, ...] = ()
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
    tx.require_whole()
    yield from settle(tx)
    net = tx.frame.net
    durable: list[NewEffect] = []
    volatile: list[AfterCommit] = []
    if not tx.plan.effect_records.isdisjoint(net):
        yield from collect_effects(tx, durable, volatile)
        if durable:
            yield from enqueue(tx, durable)
    if tx.frame.deferred:
        initials = [initial_effect(tx, *item) for item in tx.frame.deferred]
        yield Run(enqueue_statement(tx.plan.dialect), enqueue_params(initials))
        durable.extend(initials)
    touched = {record: frozenset(table) for record, table in net.items() if table}
    for record, ids in tx.frame.touched.items():
        touched[record] = touched.get(record, frozenset()) | ids
    plan, enqueued = tx.plan, tuple(effect.name for effect in durable)
    return Commit(lambda: [event.mutation for event in net_events(plan, net)], touched, enqueued, tuple(volatile))
