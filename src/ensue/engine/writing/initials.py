"""Async `Custom(initial=…)`: awaited before the transaction of a call that names the record, else by an effect after the commit.

Ids come first (from a block), because the function sees the record with its id; the values are kept for every attempt. Invariant:
no transaction is open while such a function waits.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from ensue.engine.callbacks import running
from ensue.engine.engine import Engine
from ensue.engine.events import Event
from ensue.engine.propagation.customs import checked
from ensue.engine.propagation.machines import run_machines
from ensue.engine.transaction import Prepared, Transaction
from ensue.engine.writing.apply import assign_rows, lock_rows
from ensue.engine.writing.writes import refuse_owned
from ensue.errors import Conflict
from ensue.plan.plan import RecordPlan, Row
from ensue.store.statement import Run, Work


async def prepare_initials(
    engine: Engine, plan: RecordPlan, values: Sequence[Mapping[str, Any]]
) -> tuple[Prepared, list[list[Any]]]:
    """Admitted rows with their ids, and the awaited initial values by (record, column, id)."""
    refuse_owned(plan, "created")
    now = engine.clock.now()
    drafts = [plan.admit(item, now) for item in values]
    prepared: dict[Any, Any] = {}
    allotted: set[tuple[str, int]] = set()
    unnamed = [draft for draft in drafts if draft[0] is None]
    if unnamed and running() is None:
        ids = await engine.driver.write(engine.ids.take(plan.id_family, len(unnamed), []))
        for draft, id_ in zip(unnamed, ids, strict=True):
            draft[0] = id_
            allotted.add((plan.name, id_))
    elif unnamed:
        return Prepared(prepared, allotted), drafts  # inside a transaction: the call happens there
    for position, custom in plan.customs:
        if custom.initial is not None and inspect.iscoroutinefunction(custom.initial):
            for draft in drafts:
                if plan.local is not None:
                    plan.local(draft)
                value = await custom.initial(plan.snapshot(tuple(draft)))
                prepared[plan.name, position, draft[0]] = checked(plan, position, value)
    return Prepared(prepared, allotted), drafts


ATTEMPTS = 5


async def compute_initial(engine: Engine, record: str, id_: int, field: str) -> None:
    """Await the function for a record that has been committed, and write the value unless the record changed meanwhile."""
    plan = engine.plan.records[record]
    position = plan.index[field]
    custom = next(custom for at, custom in plan.customs if at == position)
    assert custom.initial is not None
    for _ in range(ATTEMPTS):
        row = await engine.driver.read(_row(plan, id_))
        if row is None:
            return
        value = checked(plan, position, await custom.initial(plan.snapshot(row)))
        if await engine.write(lambda tx, row=row, value=value: _write(tx, plan, row, position=position, value=value)):
            return
    raise Conflict(f"{record} {id_} changed each time while its {field} was computed.")


def _row(plan: RecordPlan, id_: int) -> Work[Row | None]:
    found: list[Any] = yield Run(plan.statements.select["none"], (id_,))
    return None if not found else found[0] if plan.decode is None else plan.decode(found[0])


def _write(tx: Transaction, plan: RecordPlan, row: Row, *, position: int, value: Any) -> Work[bool]:
    """Whether it is done: written, or the record is gone. False if what the function saw is no longer so."""
    current_rows = yield from lock_rows(tx, plan, [row[0]])
    if not current_rows:
        return True
    given = [n for n, column in enumerate(plan.columns) if column.role in ("given", "link") or n == position]
    if any(current_rows[0][n] != row[n] for n in given):
        return False

    def assign(draft: list[Any]) -> None:
        draft[position] = value

    pairs = yield from assign_rows(tx, plan, current_rows, assign)
    if "update" in plan.triggers and pairs:
        yield from run_machines(tx, [Event(plan, old, new) for old, new in pairs])
    return True
