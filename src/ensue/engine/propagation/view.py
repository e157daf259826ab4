"""Bring together what an expression reads: a row, and the rows at the ends of the links that it crosses, on the old or new side.

On PostgreSQL a crossed row is locked before it is read (FOR SHARE, or exclusively if this transaction may update it later), so
that no contribution is computed from a value that another transaction is changing. Rows are remembered for the transaction.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ensue.engine.propagation.changes import Changes
from ensue.engine.transaction import Transaction
from ensue.plan.plan import Crossing, LockMode, RecordPlan, Row, View
from ensue.store.statement import Run, Work

OLD, NEW = 0, 1
Resolve = Callable[[Sequence[Any], int], list[Row | None]]
"""(row, side) -> the crossing rows of a view, in order."""


def load_crossings(
    tx: Transaction, view: View, work: Changes, rows: Iterable[tuple[Sequence[Any] | None, Sequence[Any] | None]]
) -> Work[Resolve]:
    """Load and lock every row that `view` crosses to from the given (old, new) rows; returns how to look them up."""
    resolve = _resolver(tx, view, work)
    pairs = list(rows)
    for depth, crossing in enumerate(view.crossings):
        wanted = _wanted(tx, crossing, work, _parents(view, depth, pairs, resolve))
        if wanted:
            mode = "update" if crossing.exclusive else "share"
            yield from remember_rows(tx, tx.plan.records[crossing.record], sorted(wanted), mode)
    return resolve


def _parents(view: View, depth: int, pairs: list[Any], resolve: Resolve) -> Iterable[Sequence[Any] | None]:
    parent = view.crossings[depth].parent
    for pair in pairs:
        for side in (OLD, NEW):
            row = pair[side]
            if row is not None:
                yield row if parent < 0 else resolve(row, side)[parent]


def _wanted(tx: Transaction, crossing: Crossing, work: Changes, parents: Iterable[Sequence[Any] | None]) -> set[int]:
    changed = work.get(crossing.record, {})
    known = tx.rows.setdefault(crossing.record, {})
    fk = crossing.fk
    ids = {parent[fk] for parent in parents if parent is not None}
    return {id_ for id_ in ids if id_ is not None and id_ not in changed and id_ not in known}


def id_list(tx: Transaction, ids: Iterable[int]) -> Any:
    """Ids as the one parameter that a `…_many` statement takes."""
    return list(ids) if tx.plan.dialect == "postgresql" else f"[{','.join(map(str, ids))}]"


def remember_rows(tx: Transaction, plan: RecordPlan, ids: list[int], mode: LockMode) -> Work[None]:
    """Read rows under a lock and remember them; those locked exclusively need no second look before they are updated."""
    if len(ids) == 1:
        found: list[Any] = yield Run(plan.statements.select[mode], (ids[0],))
    else:
        found = yield Run(plan.statements.select_many[mode], (id_list(tx, ids),))
    known = tx.rows.setdefault(plan.name, {})
    exclusive = mode == "update" or tx.plan.dialect == "sqlite"
    locked = tx.exclusive.setdefault(plan.name, set()) if exclusive else None
    for row in found if plan.decode is None else map(plan.decode, found):
        known[row[0]] = row
        if locked is not None:
            locked.add(row[0])


def _resolver(tx: Transaction, view: View, work: Changes) -> Resolve:
    crossings = view.crossings
    known = tx.rows

    def resolve(row: Sequence[Any], side: int) -> list[Row | None]:
        found: list[Row | None] = []
        for crossing in crossings:
            if crossing.parent >= len(found):
                break
            parent = row if crossing.parent < 0 else found[crossing.parent]
            id_ = None if parent is None else parent[crossing.fk]
            if id_ is None:
                found.append(None)
                continue
            images = work.get(crossing.record, _NONE).get(id_)
            image = None if images is None else images[side]
            found.append(image if image is not None else known.get(crossing.record, _NONE).get(id_))
        return found

    return resolve


_NONE: dict[Any, Any] = {}


def evaluate_rows(
    tx: Transaction, view: View, rows: Sequence[Sequence[Any]], evaluate: Callable[..., Any]
) -> Work[list[Any]]:
    """`evaluate(row, *crossing rows)` for each row as it is now."""
    if not view.crossings:
        return [evaluate(row) for row in rows]
    resolve = yield from load_crossings(tx, view, tx.pending, [(None, row) for row in rows])
    return [evaluate(row, *resolve(row, NEW)) for row in rows]
