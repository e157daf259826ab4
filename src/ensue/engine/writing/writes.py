"""The write calls of the store as engine work: create, update, delete, by record and by condition, link and unlink.

Each call is one event of its own for the state machines, with the image at that time; what derives from it waits until somebody
reads or the transaction ends.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ensue.engine.events import Event
from ensue.engine.propagation.customs import fill_initial
from ensue.engine.propagation.locking import lock_below
from ensue.engine.propagation.machines import run_machines
from ensue.engine.propagation.propagate import propagate
from ensue.engine.transaction import Transaction
from ensue.engine.writing.apply import assign_rows, insert_rows, lock_rows, require, writable_values
from ensue.engine.writing.conditions import condition_ids, expression_values
from ensue.engine.writing.deletes import delete_rows
from ensue.errors import NotFound, Rejected, UsageError
from ensue.expression.nodes import Children, Follow
from ensue.expression.trace import Expr
from ensue.plan.plan import RecordPlan, Row
from ensue.plan.tables import unique_sets
from ensue.schema.model import CollectionModel
from ensue.store.statement import Work


def create_records(tx: Transaction, plan: RecordPlan, values: Sequence[Mapping[str, Any]]) -> Work[list[Row]]:
    """Create records from given values."""
    refuse_owned(plan, "created")
    return (yield from create_drafts(tx, plan, [plan.admit(item, tx.now) for item in values]))


def create_drafts(
    tx: Transaction, plan: RecordPlan, drafts: list[list[Any]], *, unless: tuple[str, ...] = ()
) -> Work[list[Row]]:
    """Create records from admitted rows, with their events; `unless` as in `insert_rows`."""
    if "create" in plan.settled_before:
        yield from propagate(tx)
    if plan.customs:
        yield from fill_initial(tx, plan, drafts)
    rows = yield from insert_rows(tx, plan, drafts, unless=unless)
    if rows and "create" in plan.triggers:
        yield from run_machines(tx, [Event(plan, None, row) for row in rows])
    if rows and plan.computes:
        # The caller sees what a function computed, as it sees what an expression did.
        yield from propagate(tx)
        made = tx.frame.net[plan.name]
        rows = [made[row[0]][1] or row for row in rows]
    return rows


def refuse_owned(plan: RecordPlan, verb: str) -> None:
    """Records that derive from records, and the one row of a Globals class, are not written by hand."""
    transform = plan.model.transform
    if transform is not None and not transform.event:
        raise Rejected(
            "derived",
            f"{plan.name} derives from {transform.source} by the Transform declared at {transform.origin} and can't be {verb} "
            f"directly. Change the {transform.source} that it derives from.",
        )
    if plan.model.kind == "globals":
        raise Rejected(
            "derived",
            f"{plan.name} is a Globals class: its one row can't be {verb}, its values derive from other records.",
        )
    if plan.model.kind == "event":
        raise Rejected(
            "derived",
            f"{plan.name} is an interaction: its events can't be {verb} directly. Use `controller.dispatch(…)`.",
        )


def update_record(tx: Transaction, plan: RecordPlan, id_: int, values: Mapping[str, Any]) -> Work[None]:
    """Update one record. Raises NotFound."""
    assign = _assigner(tx, plan, values)
    if tx.pending and ("update" in plan.settled_before or any(isinstance(value, Expr) for value in values.values())):
        # An expression, and a state machine's event, see derived columns as they are, whatever was read before.
        yield from propagate(tx)
    if plan.name in tx.plan.locked_below:
        yield from lock_below(tx, plan, [id_], {plan.index[name] for name in values if name in plan.index})
    rows = yield from lock_rows(tx, plan, [id_])
    require(plan, id_, rows)
    yield from _assign(tx, plan, rows, assign)


def _assigner(tx: Transaction, plan: RecordPlan, values: Mapping[str, Any]) -> Callable[[list[Any]], None]:
    if plan.model.kind in ("globals", "event"):
        refuse_owned(plan, "updated")
    plain, computed = expression_values(tx, plan, values)
    assigned = writable_values(plan, plain)

    def assign(draft: list[Any]) -> None:
        # All expressions see the row as it was, whatever order they are given in.
        found = [(position, compute(draft)) for position, compute in computed]
        for position, value in assigned.items():
            draft[position] = value
        for position, value in found:
            draft[position] = value

    return assign


def _assign(tx: Transaction, plan: RecordPlan, rows: list[Row], assign: Callable[[list[Any]], None]) -> Work[None]:
    pairs = yield from assign_rows(tx, plan, rows, assign)
    if "update" in plan.triggers and pairs:
        yield from run_machines(tx, [Event(plan, old, new) for old, new in pairs])


def update_where(tx: Transaction, plan: RecordPlan, where: Any, values: Mapping[str, Any]) -> Work[int]:
    """Update every record that satisfies a condition; returns how many."""
    assign = _assigner(tx, plan, values)
    ids = yield from condition_ids(tx, plan, where)
    if not ids:
        return 0
    rows = yield from lock_rows(tx, plan, ids)
    yield from _assign(tx, plan, rows, assign)
    return len(rows)


def delete_record(tx: Transaction, plan: RecordPlan, id_: int) -> Work[None]:
    """Delete one record. Raises NotFound."""
    deleted = yield from delete_ids(tx, plan, [id_])
    if not deleted:
        raise NotFound(f"There is no {plan.name} with id {id_}.")


def delete_where(tx: Transaction, plan: RecordPlan, where: Any) -> Work[int]:
    """Delete every record that satisfies a condition; returns how many."""
    refuse_owned(plan, "deleted")
    ids = yield from condition_ids(tx, plan, where)
    return (yield from delete_ids(tx, plan, ids)) if ids else 0


def delete_ids(tx: Transaction, plan: RecordPlan, ids: Sequence[int]) -> Work[int]:
    """Delete records by id, with their events; returns how many there were."""
    refuse_owned(plan, "deleted")
    if tx.plan.delete_reach[plan.name]:
        # Somebody will see the image of what goes: it must be up to date, derived columns included.
        yield from propagate(tx)
    before = {name: set(tx.pending.get(name, ())) for name in tx.plan.delete_reach[plan.name]}
    rows = yield from delete_rows(tx, plan, ids)
    yield from run_machines(tx, _delete_events(tx, before))
    return len(rows)


def _delete_events(tx: Transaction, before: Mapping[str, set[int]]) -> list[Event]:
    """The events of the records that went, were detached or went with them, of types that a machine listens to."""
    events: list[Event] = []
    for name, known in before.items():
        plan = tx.plan.records[name]
        if not plan.triggers:
            continue
        events.extend(
            Event(plan, old, new)
            for id_, (old, new) in tx.pending.get(name, {}).items()
            if id_ not in known and old != new
        )
    return events


# --- Links of an n:n --------------------------------------------------------------------------------------------------


def link_sides(plan: RecordPlan, collection: CollectionModel) -> tuple[str, str, str]:
    """(relation, its link to the host, its link to the item) of an n:n collection."""
    if len(collection.hops) == 2:
        first, second = collection.hops
        if isinstance(first, Children) and isinstance(second, Follow):
            return first.record, first.link, second.link
    (hop, *more) = collection.hops
    name = hop.link if isinstance(hop, Children) and not more else "…"
    raise UsageError(
        f"{plan.name}.{collection.name} is no n:n collection; link and unlink take one. For a 1:n relation set the other side's "
        f"reference: `await store.update({collection.target}, id, {name}={plan.name}.ref(…))`."
    )


def link_records(tx: Transaction, relation: RecordPlan, values: Mapping[str, int]) -> Work[Row | None]:
    """Create the link row, unless there is one."""
    ids = yield from condition_ids(tx, relation, values)
    if ids:
        return None
    refuse_owned(relation, "created")
    unique = next((names for names in unique_sets(relation.model) if set(names) == set(values)), ())
    rows = yield from create_drafts(tx, relation, [relation.admit(values, tx.now)], unless=unique)
    return rows[0] if rows else None


def unlink_records(tx: Transaction, relation: RecordPlan, values: Mapping[str, int]) -> Work[None]:
    """Delete the link row. Raises NotFound if there is none."""
    ids = yield from condition_ids(tx, relation, values)
    if not ids:
        ends = " and ".join(f"{name} {id_}" for name, id_ in values.items())
        raise NotFound(f"There is no {relation.name} between {ends}.")
    yield from delete_ids(tx, relation, ids)
