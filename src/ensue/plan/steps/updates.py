"""The UPDATE that moves all derived columns of a host type in one stratum, for one host and for many.

Each rule says how its columns follow from the stored ones and the slots' values; here they become one statement. For one host the
slots are parameters, for many they are the cells of one JSON parameter (SQLite) or of arrays (PostgreSQL).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from ensue.expression.sql import SqlTypes, compile_statement, encoder, raw_type
from ensue.expression.types import ValueType
from ensue.plan.plan import UpdatePlan
from ensue.plan.rules.rule import SlotValue
from ensue.plan.statements import Text, ids_lock, row_function
from ensue.plan.steps.groups import GroupBuilder
from ensue.plan.views import Layout
from ensue.plan.writes import json_rows
from ensue.schema.model import ID_TYPE
from ensue.store.statement import Run, Shared, Statement

TYPES = SqlTypes()
GIVEN = "ensue_given"
"""The alias of what an UPDATE is given: a name that no record's table has."""


def host_updates(layout: Layout, record: str, builders: Sequence[GroupBuilder]) -> tuple[UpdatePlan, UpdatePlan]:
    """The update of one host and of many."""
    cells = _cells(builders)
    one, many = _one(layout, record, builders, cells), _many(layout, record, builders, cells)
    return _shared(layout, record, builders, (one, many)) if layout.dialect == "postgresql" else (one, many)


def _shared(
    layout: Layout, record: str, builders: Sequence[GroupBuilder], plans: tuple[UpdatePlan, UpdatePlan]
) -> tuple[UpdatePlan, UpdatePlan]:
    """The updates such that those of several can be made at once. Nobody sees the one row of a Globals class move."""
    one, many = plans
    table = layout.table(record).name
    lock = ids_lock(table, layout.dialect)

    def shared(to: Statement | None) -> Shared:
        return Shared(
            "write",
            table,
            exclusive=True,
            ids=lambda run: [vector[0] for vector in _vectors(run)],
            lock=lock,
            many=to,
            join=lambda runs: many.bind([vector for run in runs for vector in _vectors(run)]),
        )

    all_of = UpdatePlan(
        replace(many.quiet, shared=shared(None)), replace(many.returning, shared=shared(None)), many.bind
    )
    quiet = shared(all_of.quiet)
    if layout.model.records[record].kind == "globals":
        sums = all(slot.kind == "delta" and slot.type.base == "int" for builder in builders for slot in builder.slots)
        quiet = Shared("add", join=(lambda runs: one.bind(_summed([run.given for run in runs]))) if sums else None)
    returning = shared(all_of.returning)
    return UpdatePlan(replace(one.quiet, shared=quiet), replace(one.returning, shared=returning), one.bind), all_of


def _vectors(run: Run) -> Sequence[Sequence[Any]]:
    shared = run.statement.shared
    return run.given if shared is not None and shared.many is None else (run.given,)


def _summed(vectors: Sequence[Sequence[Any]]) -> Sequence[Any]:
    return [vectors[0][0], *map(sum, zip(*(vector[1:] for vector in vectors), strict=True))]


def _cells(builders: Sequence[GroupBuilder]) -> list[ValueType]:
    """The type of each cell of a vector after the id."""
    cells: list[ValueType] = []
    for builder in builders:
        for slot in builder.slots:
            cells.append(slot.type)
            if slot.kind != "delta":
                cells.append(ID_TYPE)
    return cells


def _assignments(
    layout: Layout, record: str, builders: Sequence[GroupBuilder], cell: Callable[[int], sa.ColumnElement[Any]]
) -> dict[str, sa.ColumnElement[Any]]:
    """Database column -> its new value. `cell(i)` is the SQL of the vector's cell i (from 1)."""
    table = layout.table(record)
    assigned: dict[str, sa.ColumnElement[Any]] = {}
    at = 1
    for builder in builders:
        values: list[SlotValue] = []
        for slot in builder.slots:
            replaced = slot.kind != "delta"
            values.append(SlotValue(cell(at), cell(at + 1) if replaced else None))
            at += 2 if replaced else 1
        for plan in builder.aggregates:
            column = layout.model.records[record].fields[plan.name].column
            state = {item.suffix: table.c[column + item.suffix] for item in plan.rule.columns}
            slots = values[plan.first_slot : plan.first_slot + len(plan.rule.slots)]
            for suffix, value in plan.rule.assign(state, slots).items():
                assigned[column + suffix] = value
    return assigned


def _plan(layout: Layout, table: sa.Table, statement: sa.Update, order: Sequence[str], *, name: str) -> UpdatePlan:
    quiet = compile_statement(statement, layout.dialect, name, order=order, rows=False)
    # Appended rather than compiled again: half of what it takes to start.
    returning = Statement(name, f"{quiet.statement.text} RETURNING {_returned(layout, table)}", rows=True)
    return UpdatePlan(quiet.statement, returning, quiet.bind_row)


def _returned(layout: Layout, table: sa.Table) -> str:
    """The columns of the updated table; on PostgreSQL those of `d` can be returned too, so they are told apart."""
    text = Text(layout.dialect)
    prefix = f"{text.quote(table.name)}." if layout.dialect == "postgresql" else ""
    return ", ".join(f"{prefix}{text.quote(column.name)}" for column in table.columns)


def _one(layout: Layout, record: str, builders: Sequence[GroupBuilder], cells: Sequence[ValueType]) -> UpdatePlan:
    table = layout.table(record)

    def cell(i: int) -> sa.ColumnElement[Any]:
        return sa.bindparam(f"s{i}", type_=TYPES.column(cells[i - 1]), required=True)

    values = _assignments(layout, record, builders, cell)
    statement = (
        sa.update(table)
        .values(values)
        .where(table.c.id == sa.bindparam("s0", type_=TYPES.column(ID_TYPE), required=True))
    )
    return _plan(layout, table, statement, [f"s{i}" for i in range(len(cells) + 1)], name=f"{table.name}.derive")


def _many(layout: Layout, record: str, builders: Sequence[GroupBuilder], cells: Sequence[ValueType]) -> UpdatePlan:
    table = layout.table(record)
    source = _json_source(cells) if layout.dialect == "sqlite" else _array_source(layout, cells)
    values = _assignments(layout, record, builders, lambda i: source.c[f"s{i}"])
    statement = sa.update(table).values(values).where(table.c.id == source.c.s0)
    order = ["rows"] if layout.dialect == "sqlite" else [f"a{i}" for i in range(len(cells) + 1)]
    plan = _plan(layout, table, statement, order, name=f"{table.name}.derive_many")
    encode = row_function([None, *(_cell_encoder(layout, type_) for type_ in cells)])
    bind_encoded = plan.bind

    def bind(vectors: Sequence[Any]) -> Sequence[Any]:
        encoded = vectors if encode is None else [encode(vector) for vector in vectors]
        return bind_encoded((json_rows(encoded),) if layout.dialect == "sqlite" else list(zip(*encoded, strict=True)))

    return UpdatePlan(plan.quiet, plan.returning, bind)


def _cell_encoder(layout: Layout, type_: ValueType) -> Any:
    return bytes.hex if layout.dialect == "sqlite" and type_.base == "bytes" else encoder(type_, layout.dialect)


def _json_source(cells: Sequence[ValueType]) -> sa.Subquery:
    rows = sa.func.json_each(sa.bindparam("rows", type_=sa.Text(), required=True)).table_valued("value", name="j")
    selected: list[sa.ColumnElement[Any]] = []
    for i, type_ in enumerate([ID_TYPE, *cells]):
        text = f"j.value ->> {i}"
        element = sa.literal_column(f"unhex({text})" if type_.base == "bytes" else f"({text})", TYPES.column(type_))
        selected.append(element.label(f"s{i}"))
    return sa.select(*selected).select_from(rows).subquery(GIVEN)


def _array_source(layout: Layout, cells: Sequence[ValueType]) -> sa.TableValuedAlias:
    types = [ID_TYPE, *cells]
    arrays = [
        sa.bindparam(f"a{i}", type_=ARRAY(raw_type(type_, layout.dialect)), required=True)
        for i, type_ in enumerate(types)
    ]
    columns = [sa.column(f"s{i}", TYPES.column(type_)) for i, type_ in enumerate(types)]
    return sa.func.unnest(*arrays).table_valued(*columns, name=GIVEN).render_derived()
