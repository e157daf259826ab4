"""Lock what a change leads to before it is written, in the plan's order, where several ways of following references meet.

Leaves to the plan which record types need that; the others' rows are locked as they are come to. Invariant: of one table, rows are
locked by one statement, in order of ids; what the transaction has locked or written already is not asked for again.
"""

from collections.abc import Container, Iterable, Sequence
from typing import Any

from ensue.engine.propagation.view import remember_rows
from ensue.engine.transaction import Transaction
from ensue.plan.plan import LockMode, RecordPlan
from ensue.store.statement import Run, Work


def lock_in_order(tx: Transaction, plan: RecordPlan, rows: Sequence[Sequence[Any]]) -> Work[None]:
    """Lock the rows that the given (old and new) rows of `plan` lead to, if there is an order to keep."""
    order = tx.plan.lock_orders.get(plan.name)
    if order is None:
        return
    reach = tx.plan.reach[plan.name]
    found: dict[int, set[int]] = {}
    for table in order.tables:
        for number, item in enumerate(order.reached):
            if item.record == table:
                parents = rows if item.parent < 0 else _rows(tx, order.reached[item.parent].record, found[item.parent])
                found[number] = {row[item.fk] for row in parents} - {None}
        ids = {id_ for number, some in found.items() if order.reached[number].record == table for id_ in some}
        mode: LockMode = "update" if table in reach else "share"
        missing = _not_locked(tx, table, ids, mode)
        if missing:
            yield from remember_rows(tx, tx.plan.records[table], missing, mode)


def lock_below(tx: Transaction, plan: RecordPlan, ids: Sequence[int], positions: Container[int]) -> Work[None]:
    """Lock what reads the given columns of rows about to be locked, and what that leads to: upwards, as its own writers do.

    What comes to refer to them after this is found by the propagation; that may deadlock, and is then run again.
    """
    for below in tx.plan.locked_below.get(plan.name, ()):
        if any(position in positions for position in below.positions):
            other = tx.plan.records[below.record]
            found: list[Any] = yield Run(below.lookup, (sorted(ids),))
            yield from lock_in_order(tx, other, found if other.decode is None else list(map(other.decode, found)))


def _not_locked(tx: Transaction, record: str, ids: Iterable[int], mode: LockMode) -> list[int]:
    written = tx.pending.get(record, {})
    locked = tx.exclusive.get(record, set()) if mode == "update" else tx.rows.get(record, {}).keys()
    return sorted(id_ for id_ in ids if id_ not in written and id_ not in locked)


def _rows(tx: Transaction, record: str, ids: Iterable[int]) -> list[Sequence[Any]]:
    """The rows as they were and as they are, of those that exist."""
    found: list[Sequence[Any]] = []
    written, known = tx.pending.get(record, {}), tx.rows.get(record, {})
    for id_ in ids:
        sides = written.get(id_) or (known.get(id_),)
        found.extend(side for side in sides if side is not None)
    return found
