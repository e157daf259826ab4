"""Statements whose columns depend on the write: set these columns of one row, or of many from one parameter.

Texts are made once per set of columns and kept with the plan.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import msgspec

from ensue.expression.sql import encoder
from ensue.plan.plan import ColumnPlan, Plan, RecordPlan, Row
from ensue.plan.statements import Text, ids_lock, row_function
from ensue.store.driver import Dialect
from ensue.store.statement import Run, Shared, Statement

Bind = Callable[[Sequence[Row]], Sequence[Any]]


def encode_rows(dialect: Dialect, rows: Sequence[Row]) -> Sequence[Any]:
    """Encoded rows as the parameters of an `insert_many`: flat on SQLite, an array per column on PostgreSQL."""
    if dialect == "postgresql":
        return list(zip(*rows, strict=True))
    return tuple(chain.from_iterable(rows))


def json_rows(rows: Sequence[Sequence[Any]]) -> str:
    """Rows as the one JSON parameter of a SQLite statement; bytes must be hex already."""
    return msgspec.json.encode(rows).decode()


def json_cell(index: int, column: ColumnPlan) -> str:
    """The cell of a JSON row in SQLite, as the column holds it."""
    cell = f"ensue_given.value ->> {index}"
    return f"unhex({cell})" if column.type.base == "bytes" else cell


def json_encoder(column: ColumnPlan) -> Callable[[Any], Any] | None:
    """From a Python value to a cell of a JSON row for SQLite."""
    return bytes.hex if column.type.base == "bytes" else encoder(column.type, "sqlite")


def assign_statement(
    plan: Plan, record: RecordPlan, positions: tuple[int, ...], *, many: bool
) -> tuple[Statement, Bind]:
    """The UPDATE that sets the columns at `positions` of one row or of many, and how to bind full rows to it."""
    key = (record.name, positions, many)
    found = plan.assigns.get(key)
    if found is None:
        columns = [record.columns[p] for p in positions]
        build = _assign_many if many else _assign_one
        statement, bind = build(plan.dialect, record, columns, positions)
        if plan.dialect == "postgresql":
            shared = _shared_assign(
                record.table.name, None if many else assign_statement(plan, record, positions, many=True)[0]
            )
            statement = replace(statement, shared=shared)
        found = plan.assigns[key] = (statement, bind)
    return found


def _shared_assign(table: str, many: Statement | None) -> Shared:
    """`many` is the statement that sets several rows, ids first; None for that itself."""

    def rows(run: Run) -> Iterable[Sequence[Any]]:
        shared = run.statement.shared
        one = shared is not None and shared.many is not None
        return ((run.params[-1], *run.params[:-1]),) if one else zip(*run.params, strict=True)

    return Shared(
        "write",
        table,
        exclusive=True,
        ids=(lambda run: run.params[0]) if many is None else (lambda run: run.params[-1:]),
        lock=ids_lock(table, "postgresql"),
        many=many,
        join=lambda runs: list(zip(*chain.from_iterable(map(rows, runs)), strict=True)),
    )


def _assign_one(
    dialect: Dialect, record: RecordPlan, columns: list[ColumnPlan], positions: tuple[int, ...]
) -> tuple[Statement, Bind]:
    text = Text(dialect)
    sets = ", ".join(
        f"{text.quote(column.column)} = {text.parameter(n, column)}" for n, column in enumerate(columns, start=1)
    )
    last = f"${len(columns) + 1}" if dialect == "postgresql" else f"?{len(columns) + 1}"
    sql = f"UPDATE {text.quote(record.table.name)} SET {sets} WHERE id = {last}"
    encode = row_function([encoder(column.type, dialect) for column in columns])

    def bind(rows: Sequence[Row]) -> Sequence[Any]:
        (row,) = rows
        cells = tuple(row[p] for p in positions)
        return (*(cells if encode is None else encode(cells)), row[0])

    return Statement(f"{record.table.name}.update", sql), bind


def _assign_many(
    dialect: Dialect, record: RecordPlan, columns: list[ColumnPlan], positions: tuple[int, ...]
) -> tuple[Statement, Bind]:
    text = Text(dialect)
    table = text.quote(record.table.name)
    sets = ", ".join(f"{text.quote(column.column)} = ensue_given.c{n}" for n, column in enumerate(columns, start=1))
    if dialect == "postgresql":
        arrays = ", ".join(f"${n}::{text.type_name(column)}[]" for n, column in enumerate(columns, start=2))
        names = ", ".join(f"c{n}" for n in range(1, len(columns) + 1))
        source = f"unnest($1::bigint[], {arrays}) AS ensue_given(id, {names})"
        encode = row_function([None, *(encoder(column.type, dialect) for column in columns)])
    else:
        cells = ", ".join(f"{json_cell(n, column)} AS c{n}" for n, column in enumerate(columns, start=1))
        source = f"(SELECT ensue_given.value ->> 0 AS id, {cells} FROM json_each(?1) AS ensue_given) AS ensue_given"
        encode = row_function([None, *map(json_encoder, columns)])
    sql = f"UPDATE {table} SET {sets} FROM {source} WHERE {table}.id = ensue_given.id"

    def bind(rows: Sequence[Row]) -> Sequence[Any]:
        cells = [(row[0], *(row[p] for p in positions)) for row in rows]
        encoded = cells if encode is None else list(map(encode, cells))
        return list(zip(*encoded, strict=True)) if dialect == "postgresql" else (json_rows(encoded),)

    return Statement(f"{record.table.name}.update_many", sql), bind
