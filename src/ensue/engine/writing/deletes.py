"""Delete records with what `on_delete` says of those that refer to them.

Decides what goes together and in which order; what follows from it is `propagate`'s. All that goes is found and locked first, so
that a circle of references can go at once, and a reference only restricts what is not going with it. Invariant: every row that
goes or is detached is noted once, with its image before.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ensue.engine.propagation.changes import note
from ensue.engine.propagation.locking import lock_in_order
from ensue.engine.propagation.view import id_list
from ensue.engine.read.reads import select_fields
from ensue.engine.transaction import Transaction
from ensue.engine.writing.apply import lock_rows, write_columns, write_pairs
from ensue.errors import Rejected
from ensue.plan.plan import RecordPlan, Referrer, Row
from ensue.store.statement import Run, Work


@dataclass(slots=True)
class _Removal:
    """Rows to delete by record type, and the rows that refer to some of them by links that restrict or detach."""

    rows: dict[str, dict[int, Row]] = field(default_factory=dict[str, dict[int, Row]])
    referring: list[tuple[RecordPlan, Referrer, list[Row]]] = field(
        default_factory=list[tuple[RecordPlan, Referrer, list[Row]]]
    )

    def staying(self) -> Iterator[tuple[RecordPlan, Referrer, list[Row]]]:
        """What refers to a row that goes and does not go itself."""
        for plan, referrer, rows in self.referring:
            going = self.rows.get(referrer.record, {})
            if rows_left := [row for row in rows if row[0] not in going]:
                yield plan, referrer, rows_left


def delete_rows(tx: Transaction, plan: RecordPlan, ids: Sequence[int]) -> Work[list[Row]]:
    """Delete records with what `on_delete` says of those that point at them; returns the rows that were asked for."""
    rows = yield from lock_rows(tx, plan, ids, "delete")
    if not rows:
        return []
    removal = yield from _removal(tx, plan, rows)
    _refuse_restricted(removal)
    for name, table in removal.rows.items():
        yield from lock_in_order(tx, tx.plan.records[name], list(table.values()))
    for name, table in removal.rows.items():
        yield from _capture(tx, tx.plan.records[name], list(table))
    yield from _detach(tx, removal)
    remaining = dict(removal.rows)
    while remaining:
        name = _next(tx, remaining)
        table = remaining.pop(name)
        yield from _loosen(tx, name, table, remaining)
        yield from _delete(tx, tx.plan.records[name], list(table.values()))
    return rows


def _removal(tx: Transaction, plan: RecordPlan, rows: list[Row]) -> Work[_Removal]:
    """Everything that goes with some rows, found and locked."""
    removal = _Removal({plan.name: {row[0]: row for row in rows}})
    found_last = [(plan, rows)]
    while found_last:
        target, gone = found_last.pop(0)
        for referrer in target.referrers:
            other = tx.plan.records[referrer.record]
            found: list[Any] = yield Run(referrer.select, (id_list(tx, [row[0] for row in gone]),))
            going = removal.rows.get(other.name, {})
            refer = [
                row for row in (found if other.decode is None else map(other.decode, found)) if row[0] not in going
            ]
            if not refer:
                continue
            goes = refer if referrer.on_delete == "cascade" else _derived(removal, other, refer)
            if goes:
                removal.rows.setdefault(other.name, {}).update((row[0], row) for row in goes)
                found_last.append((other, goes))
            if len(goes) < len(refer):
                removal.referring.append((target, referrer, refer))
    return removal


def _derived(removal: _Removal, plan: RecordPlan, rows: list[Row]) -> list[Row]:
    """Those that derive from a record that goes: they would go in the propagation, too late for the reference."""
    transform, position = plan.model.transform, plan.source_position
    if transform is None or position is None:
        return []
    sources = removal.rows.get(transform.source, {})
    return [row for row in rows if row[position] in sources]


def _refuse_restricted(removal: _Removal) -> None:
    for plan, referrer, rows in removal.staying():
        if referrer.on_delete == "restrict":
            ids = sorted({row[referrer.position] for row in rows})
            raise Rejected(
                "restricted",
                f"{plan.name} {ids[0] if len(ids) == 1 else ids} can't be deleted: {len(rows)} {referrer.record} record(s) "
                f"refer to it by {referrer.record}.{referrer.link}, first {rows[0][0]}. Delete or re-link them first, or declare "
                f'on_delete="cascade" on that link.',
            )


def _capture(tx: Transaction, plan: RecordPlan, ids: Sequence[int]) -> Work[None]:
    """Read what side effects on the deletion of these records asked for, while it is still there."""
    for effect in plan.effects:
        if "delete" in effect.model.on and effect.model.fields:
            found = yield from select_fields(tx.reader, plan.name, ids, effect.model.fields, own=True)
            for id_, item in found.items():
                tx.frame.captured[effect.model.name, id_] = item


def _detach(tx: Transaction, removal: _Removal) -> Work[None]:
    before: dict[str, dict[int, Row]] = {}
    after: dict[str, dict[int, list[Any]]] = {}
    for _, referrer, rows in removal.staying():
        for row in rows:
            before.setdefault(referrer.record, {}).setdefault(row[0], row)
            draft = after.setdefault(referrer.record, {}).setdefault(row[0], list(row))
            draft[referrer.position] = None
    for name, drafts in after.items():
        plan = tx.plan.records[name]
        if plan.local is not None:
            for draft in drafts.values():
                plan.local(draft)
        yield from write_pairs(tx, plan, [(before[name][id_], tuple(draft)) for id_, draft in sorted(drafts.items())])


def _next(tx: Transaction, remaining: dict[str, dict[int, Row]]) -> str:
    """The record type to delete first: one that no other refers to, or in a circle one that no other has to refer to."""
    for optional_too in (True, False):
        for name in remaining:
            links = _links_between(tx, name, remaining)
            if not any(optional_too or not optional for _, _, optional in links):
                return name
    return next(iter(remaining))


def _links_between(tx: Transaction, target: str, others: dict[str, dict[int, Row]]) -> Iterator[tuple[str, int, bool]]:
    """(record type, position, optional) of the links by which other record types refer to `target`."""
    for referrer in tx.plan.records[target].referrers:
        if referrer.record in others and referrer.record != target:
            other = tx.plan.records[referrer.record]
            yield referrer.record, referrer.position, other.model.links[referrer.link].optional


def _loosen(tx: Transaction, name: str, going: dict[int, Row], remaining: dict[str, dict[int, Row]]) -> Work[None]:
    """Empty the links of rows that go later to rows that go now. Nobody sees it: they are noted as they were before."""
    for other, position, optional in _links_between(tx, name, remaining):
        if optional and (rows := [row for row in remaining[other].values() if row[position] in going]):
            loosened = [(*row[:position], None, *row[position + 1 :]) for row in rows]
            yield from write_columns(tx, tx.plan.records[other], (position,), loosened)


def _delete(tx: Transaction, plan: RecordPlan, rows: list[Row]) -> Work[None]:
    yield Run(plan.statements.delete_many, (id_list(tx, sorted(row[0] for row in rows)),))
    cached = tx.rows.get(plan.name)
    for row in rows:
        note(tx.pending, plan.name, row, None)
        if cached:
            cached.pop(row[0], None)
