"""Run `Custom` computations: the initial value of new records, and the function on the records whose inputs changed.

Inputs are read in one query for all affected records. Each call is made once per change; a function may be async and may read.
"""

import inspect
from collections.abc import Sequence
from typing import Any

from ensue.engine.callbacks import invoke
from ensue.engine.events import Event
from ensue.engine.propagation.changes import Changes
from ensue.engine.read.reads import select_fields
from ensue.engine.transaction import Transaction
from ensue.engine.writing.apply import lock_rows, write_pairs
from ensue.errors import InvalidValue
from ensue.plan.plan import CustomStep, RecordPlan, Row
from ensue.plan.values import normaliser
from ensue.schema.computations.custom import SKIP
from ensue.schema.model import CustomModel
from ensue.store.statement import Work


def fill_initial(tx: Transaction, plan: RecordPlan, drafts: list[list[Any]]) -> Work[None]:
    """Set the columns of Customs with an `initial` function in admitted rows; it sees the record with its id."""
    unnamed = [draft for draft in drafts if draft[0] is None]
    if unnamed:
        ids = yield from tx.ids.take(plan.id_family, len(unnamed), tx.frame.families)
        for draft, id_ in zip(unnamed, ids, strict=True):
            draft[0] = id_
            tx.allotted.add((plan.name, id_))
    for position, custom in plan.customs:
        if custom.initial is None:
            continue
        for draft in drafts:
            key = (plan.name, position, draft[0])
            if key not in tx.prepared and inspect.iscoroutinefunction(custom.initial):
                # It may wait for an outside system, and no transaction waits for one: the default stands until an effect has run.
                tx.frame.deferred.append(key)
                continue
            if key not in tx.prepared:
                value = yield from invoke(tx, custom.initial, plan.snapshot(tuple(draft)))
                tx.prepared[key] = checked(plan, position, value)
            draft[position] = tx.prepared[key]


def checked(plan: RecordPlan, position: int, value: Any) -> Any:
    """What a Custom's function gave, as the column holds it."""
    field = plan.model.fields[plan.columns[position].name]
    try:
        return normaliser(field.type, optional=field.optional)(value)
    except (ValueError, TypeError) as error:
        where = f"{plan.name}.{field.name} ({field.origin})"
        raise InvalidValue(
            f"The Custom {where} gave a wrong value: {error}.", fields={field.name: str(error)}
        ) from error


def run_custom(tx: Transaction, step: CustomStep, hosts: Sequence[int], work: Changes) -> Work[None]:
    """Compute the column anew for `hosts`, and write what differs."""
    plan = tx.plan.records[step.record]
    if not hosts or (step.model.compute is None and step.model.incremental is None):
        return
    rows = yield from lock_rows(tx, plan, hosts)
    inputs = yield from select_fields(tx.reader, step.record, [row[0] for row in rows], step.model.fields)
    pairs: list[tuple[Row, Row]] = []
    for row in rows:
        value = yield from _value(tx, step, row, inputs=inputs.get(row[0]), work=work)
        if value is SKIP:
            continue
        draft = list(row)
        draft[step.column] = checked(plan, step.column, value)
        if tuple(draft) != row:
            pairs.append((row, tuple(draft)))
    yield from write_pairs(tx, plan, pairs)


def _value(tx: Transaction, step: CustomStep, row: Row, *, inputs: Any, work: Changes) -> Work[Any]:
    plan = tx.plan.records[step.record]
    custom: CustomModel = step.model
    old, new = work.get(step.record, {}).get(row[0], (row, row))
    created = old is None
    if created and custom.initial is not None:
        return SKIP
    if custom.incremental is not None and not created:
        event = Event(plan, old, new if new is not None else row).mutation
        value = yield from invoke(tx, custom.incremental, row[step.column], event, plan.snapshot(row))
        if value is not SKIP or custom.compute is None:
            return value
        return SKIP
    if custom.compute is None:
        return SKIP
    return (yield from invoke(tx, custom.compute, plan.snapshot(row), inputs))
