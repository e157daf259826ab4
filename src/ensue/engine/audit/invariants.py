"""What must hold of stored rows whatever they derive from: counters, states, references, one derived row per source and slot.

Decides these checks; leaves comparing with definitions to `audit`. Invariant: every statement gives the rows that break its rule,
and none on a right database.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ensue.engine.audit.report import Finding
from ensue.expression.sql import encoder, literal, sqlalchemy_dialect
from ensue.plan.plan import ColumnPlan, MachinePlan, Plan, RecordPlan
from ensue.plan.statements import Text
from ensue.plan.tables import SLOT_COLUMN, SOURCE_COLUMN
from ensue.schema.model import Aggregate
from ensue.store.statement import Run, Statement, Work


@dataclass(frozen=True, slots=True)
class Invariant:
    """A rule over one column: `select` gives `(id, stored)` of rows that break it, `right` what they should hold, if known."""

    record: str
    column: ColumnPlan
    select: Statement
    right: Any = None
    repair: Statement | None = None


def check_invariants(plan: Plan, *, repair: bool) -> Work[list[Finding]]:
    """Run every rule of a plan; those that know what is right repair it, if asked to."""
    found: list[Finding] = []
    for rule in _invariants(plan):
        rows: list[tuple[int, Any]] = yield Run(rule.select)
        decode = rule.column.decode
        mends = repair and rule.repair is not None
        for id_, stored in rows:
            value = stored if decode is None or stored is None or rule.right is None else decode(stored)
            found.append(Finding(rule.record, id_, rule.column.name, value, rule.right, repaired=mends))
        if rows and mends and rule.repair is not None:
            yield Run(rule.repair)
    return found


def missing_globals(plan: Plan) -> Work[list[str]]:
    """Globals classes whose one row is not there."""
    missing: list[str] = []
    text = Text(plan.dialect)
    for record in plan.records.values():
        if record.model.kind == "globals":
            name = record.table.name
            rows: list[Any] = yield Run(Statement(f"{name}.exists", f"SELECT id FROM {text.quote(name)}", rows=True))
            if not rows:
                missing.append(record.name)
    return missing


def _invariants(plan: Plan) -> Iterator[Invariant]:
    for record in plan.records.values():
        yield from _invariants_of(plan, record)


def _invariants_of(plan: Plan, record: RecordPlan) -> Iterator[Invariant]:
    for field in record.model.fields.values():
        if isinstance(field.computation, Aggregate):
            yield from _counters(plan, record, field.name, field.computation)
    for machine in record.machines:
        yield from _machine(plan, record, machine)
    for link in record.model.links.values():
        if link.on_delete is not None:
            yield _reference(plan, record, record.columns[record.index[link.name]], plan.records[link.target])
    if record.source_position is not None:
        yield _once(plan, record)


def _select(plan: Plan, record: RecordPlan, column: ColumnPlan, where: str) -> Statement:
    text = Text(plan.dialect)
    table = text.quote(record.table.name)
    return Statement(
        f"{record.table.name}.invariant",
        f"SELECT id, {text.quote(column.column)} FROM {table} WHERE {where} ORDER BY id",
        rows=True,
    )


def _counters(plan: Plan, record: RecordPlan, name: str, aggregate: Aggregate) -> Iterator[Invariant]:
    suffixes = {"count": ("",), "average": ("__n",), "any": ("__matching", "__n"), "every": ("__matching", "__n")}
    text = Text(plan.dialect)
    for suffix in suffixes.get(aggregate.kind, ()):
        column = record.columns[record.index[name + suffix]]
        yield Invariant(record.name, column, _select(plan, record, column, f"{text.quote(column.column)} < 0"))
    if aggregate.kind in ("any", "every"):
        column = record.columns[record.index[f"{name}__matching"]]
        n = record.columns[record.index[f"{name}__n"]]
        where = f"{text.quote(column.column)} > {text.quote(n.column)}"
        yield Invariant(record.name, column, _select(plan, record, column, where))


def _machine(plan: Plan, record: RecordPlan, machine: MachinePlan) -> Iterator[Invariant]:
    text = Text(plan.dialect)
    state, value = record.columns[machine.state], record.columns[machine.value]
    named = text.quote(state.column)
    states = ", ".join(_literal(plan, name, state) for name in machine.model.states)
    yield Invariant(record.name, state, _select(plan, record, state, f"{named} NOT IN ({states})"))
    for name in machine.model.states:
        # The initial state may hold an inherited default; others without a function of their own hold their name.
        if name == machine.model.initial or name in machine.model.values:
            continue
        right = machine.check(name)
        wanted, held = _literal(plan, right, value), text.quote(value.column)
        where = f"{named} = {_literal(plan, name, state)} AND ({held} IS NULL OR {held} <> {wanted})"
        table = text.quote(record.table.name)
        repair = Statement(f"{record.table.name}.repair", f"UPDATE {table} SET {held} = {wanted} WHERE {where}")
        yield Invariant(record.name, value, _select(plan, record, value, where), right, repair)


def _literal(plan: Plan, value: Any, column: ColumnPlan) -> str:
    assert encoder(column.type, plan.dialect) is not None or value is not None
    return str(literal(value, column.type, plan.dialect).compile(dialect=sqlalchemy_dialect(plan.dialect)))


def _reference(plan: Plan, record: RecordPlan, column: ColumnPlan, target: RecordPlan) -> Invariant:
    """Rows whose link leads nowhere. The databases see to it, but not for what was loaded with their checks off."""
    text = Text(plan.dialect)
    link = text.quote(column.column)
    exists = f"SELECT 1 FROM {text.quote(target.table.name)} t WHERE t.id = h.{link}"
    table = text.quote(record.table.name)
    sql = f"SELECT h.id, h.{link} FROM {table} h WHERE h.{link} IS NOT NULL AND NOT EXISTS ({exists}) ORDER BY h.id"
    return Invariant(record.name, column, Statement(f"{record.table.name}.references", sql, rows=True))


def _once(plan: Plan, record: RecordPlan) -> Invariant:
    text = Text(plan.dialect)
    table = text.quote(record.table.name)
    same = f"o.{SOURCE_COLUMN} = h.{SOURCE_COLUMN} AND o.{SLOT_COLUMN} = h.{SLOT_COLUMN} AND o.id < h.id"
    sql = f"SELECT h.id, h.{SOURCE_COLUMN} FROM {table} h WHERE EXISTS (SELECT 1 FROM {table} o WHERE {same}) ORDER BY h.id"
    column = record.columns[record.index[SOURCE_COLUMN]]
    return Invariant(record.name, column, Statement(f"{record.table.name}.once", sql, rows=True))
