"""Run `Custom` computations: the initial value of new records, and the function on the records whose inputs changed.

Inputs are read in one query for all affected records. Each call is made once per change; a function may be async and may read.
"""

import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any

from ensue.engine.callbacks import invoke
from ensue.engine.events import Event
from ensue.engine.propagation.changes import Changes
from ensue.engine.read.reads import select_fields
from ensue.engine.transaction import Transaction
from ensue.engine.writing.apply import lock_rows, write_pairs
from ensue.errors import WrongResult
from ensue.plan.plan import CustomStep, RecordPlan, Row
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
    if plan.local is not None:
        for draft in drafts:
            plan.local(draft)
    for position, custom in plan.customs:
        if custom.initial is None:
            continue
        for draft in drafts:
            key = (plan.name, position, draft[0])
            if not inspect.iscoroutinefunction(custom.initial):
                draft[position] = yield from _initial(tx, plan, custom.initial, position=position, image=tuple(draft))
            elif key in tx.prepared:
                draft[position] = tx.prepared[key]
            else:
                # It may wait for an outside system, and no transaction waits for one: the default stands until an effect has run.
                tx.frame.deferred.append(key)


def _initial(
    tx: Transaction, plan: RecordPlan, function: Callable[..., Any], *, position: int, image: Row
) -> Work[Any]:
    """The function's value for a new record, from an earlier attempt if it saw the same record then.

    The id alone does not say so: after a rollback another record can get it.
    """
    key = (plan.name, position, image[0])
    seen, value = tx.prepared.get(key, (None, None))
    if seen != image:
        value = checked(plan, position, (yield from invoke(tx, function, plan.snapshot(image))))
        tx.prepared[key] = (image, value)
    return value


def checked(plan: RecordPlan, position: int, value: Any) -> Any:
    """What a Custom's function gave, as the column holds it."""
    name = plan.columns[position].name
    try:
        return plan.normalise_any[name](value)
    except (ValueError, TypeError) as error:
        field = plan.model.fields[name]
        where = f"{plan.name}.{field.name} ({field.origin})"
        raise WrongResult(f"The Custom {where} gave a wrong value: {error}.") from error


def run_custom(
    tx: Transaction, step: CustomStep, hosts: Sequence[int], work: Changes, *, reached: Collection[int]
) -> Work[None]:
    """Compute the column anew for `hosts`, and write what differs.

    `reached`: those whose inputs changed since they were created.
    """
    plan = tx.plan.records[step.record]
    if not hosts or (step.model.compute is None and step.model.incremental is None):
        return
    rows = yield from lock_rows(tx, plan, hosts)
    inputs = yield from select_fields(tx.reader, step.record, [row[0] for row in rows], step.model.fields)
    pairs: list[tuple[Row, Row]] = []
    for row in rows:
        value = yield from _value(tx, step, row, inputs=inputs.get(row[0]), work=work, reached=reached)
        if value is SKIP:
            continue
        draft = list(row)
        draft[step.column] = checked(plan, step.column, value)
        if tuple(draft) != row:
            pairs.append((row, tuple(draft)))
    yield from write_pairs(tx, plan, pairs)


def _value(
    tx: Transaction, step: CustomStep, row: Row, *, inputs: Any, work: Changes, reached: Collection[int]
) -> Work[Any]:
    plan = tx.plan.records[step.record]
    custom: CustomModel = step.model
    old, new = work.get(step.record, {}).get(row[0], (row, row))
    created = old is None
    if created and custom.initial is not None and row[0] not in reached:
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


def recomputed(tx: Transaction, step: CustomStep, rows: Sequence[Row]) -> Work[list[tuple[Row, Row]]]:
    """Rows whose column is not what the function gives now, each with what it should be; for audits and repairs."""
    plan = tx.plan.records[step.record]
    assert step.model.compute is not None
    inputs = yield from select_fields(tx.reader, step.record, [row[0] for row in rows], step.model.fields)
    pairs: list[tuple[Row, Row]] = []
    for row in rows:
        value = yield from invoke(tx, step.model.compute, plan.snapshot(row), inputs.get(row[0]))
        draft = list(row)
        draft[step.column] = checked(plan, step.column, value)
        pairs.append((row, tuple(draft)))
    return [(old, new) for old, new in pairs if old != new]
