"""The fixed statements of each record type, as text: insert, select under a lock, delete, and the look-ups by link.

Lists of ids travel as one parameter (an array on PostgreSQL, JSON text on SQLite), so the text never depends on their number.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import sqlalchemy as sa

from ensue.expression.python import compile_function
from ensue.expression.sql import encoder, raw_type, sqlalchemy_dialect
from ensue.plan.plan import ColumnPlan, LockMode, RecordStatements
from ensue.store.driver import Dialect
from ensue.store.statement import Run, Shared, Statement

VARIABLES_MAX = 32_766
POSTGRES_ROWS_MAX = 50_000

_LOCKS: dict[LockMode, str] = {
    "none": "",
    "share": " FOR SHARE",
    "update": " FOR NO KEY UPDATE",
    "delete": " FOR UPDATE",
}


class Text:
    """Small pieces of SQL text in one dialect."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect: Dialect = dialect
        self._sa = sqlalchemy_dialect(dialect)

    def quote(self, name: str) -> str:
        """An identifier, quoted if it needs to be."""
        return self._sa.identifier_preparer.quote(name)

    def type_name(self, column: ColumnPlan) -> str:
        """The database's name of a column's type."""
        return raw_type(column.type, self.dialect).compile(dialect=self._sa).split(" COLLATE ")[0]

    def in_ids(self, operand: str) -> str:
        """`operand` is one of the ids in the first parameter."""
        if self.dialect == "postgresql":
            return f"{operand} = ANY($1::bigint[])"
        return f"{operand} IN (SELECT value FROM json_each(?1))"

    def lock(self, mode: LockMode) -> str:
        """The locking clause; SQLite has one writer and needs none."""
        return _LOCKS[mode] if self.dialect == "postgresql" else ""

    def parameter(self, n: int, column: ColumnPlan) -> str:
        """The nth parameter (from 1), typed as the column."""
        return f"${n}::{self.type_name(column)}" if self.dialect == "postgresql" else f"?{n}"


def record_statements(table: sa.Table, columns: Sequence[ColumnPlan], dialect: Dialect) -> RecordStatements:
    """The fixed statements of one record type."""
    text = Text(dialect)
    quoted, listed = text.quote(table.name), ", ".join(text.quote(column.column) for column in columns)
    by_id = "$1" if dialect == "postgresql" else "?1"

    def select(mode: LockMode, many: Statement | None = None) -> Statement:
        condition = f"id = {by_id}" if many is not None else text.in_ids("id") + " ORDER BY id"
        suffix = "one" if many is not None else "many"
        return Statement(
            f"{table.name}.read_{suffix}",
            f"SELECT {listed} FROM {quoted} WHERE {condition}{text.lock(mode)}",
            rows=True,
            shared=_shared_read(table.name, mode, many) if dialect == "postgresql" else None,
        )

    select_many: dict[LockMode, Statement] = {mode: select(mode) for mode in _LOCKS}
    values = ", ".join(text.parameter(n, column) for n, column in enumerate(columns, start=1))
    insert = f"INSERT INTO {quoted} ({listed})"
    insert_many = _insert_many(table.name, insert, columns, text)
    shared = _shared_insert(table.name, insert_many) if isinstance(insert_many, Statement) else None
    return RecordStatements(
        insert_one=Statement(f"{table.name}.insert", f"{insert} VALUES ({values})", shared=shared),
        insert_many=insert_many,
        insert_rows_max=VARIABLES_MAX // len(columns) if dialect == "sqlite" else POSTGRES_ROWS_MAX,
        select={mode: select(mode, select_many[mode]) for mode in _LOCKS},
        select_many=select_many,
        delete_many=Statement(f"{table.name}.delete", f"DELETE FROM {quoted} WHERE {text.in_ids('id')}"),
    )


def ids_lock(table: str, dialect: Dialect) -> Statement:
    """Lock rows for writing, in order of ids."""
    text = Text(dialect)
    sql = f"SELECT id FROM {text.quote(table)} WHERE {text.in_ids('id')} ORDER BY id{text.lock('update')}"
    return Statement(f"{table}.lock_many", sql, rows=True)


def _shared_read(table: str, mode: LockMode, many: Statement | None) -> Shared:
    """`many` is the statement that reads several rows; None for that itself."""
    return Shared(
        "read",
        table,
        exclusive=mode in ("update", "delete"),
        ids=(lambda run: run.params[0]) if many is None else (lambda run: run.params),
        many=many,
        join=lambda runs: (sorted({id_ for run in runs for id_ in _ids_of(run)}),),
    )


def _shared_insert(table: str, many: Statement | None) -> Shared:
    """`many` is the statement that inserts several rows; None for that itself."""
    return Shared(
        "write",
        table,
        exclusive=True,
        ids=(lambda run: run.params[0]) if many is None else (lambda run: run.params[:1]),
        many=many,
        join=lambda runs: list(zip(*chain.from_iterable(map(_rows_of, runs)), strict=True)),
    )


def _ids_of(run: Run) -> Sequence[int]:
    shared = run.statement.shared
    assert shared is not None
    assert shared.ids is not None
    return shared.ids(run)


def _rows_of(run: Run) -> Iterable[Sequence[Any]]:
    shared = run.statement.shared
    assert shared is not None
    return (run.params,) if shared.many is not None else zip(*run.params, strict=True)


def _insert_many(
    name: str, insert: str, columns: Sequence[ColumnPlan], text: Text
) -> Callable[[int], Statement] | Statement:
    if text.dialect == "postgresql":
        arrays = ", ".join(f"${n}::{text.type_name(column)}[]" for n, column in enumerate(columns, start=1))
        sql = f"{insert} SELECT * FROM unnest({arrays})"
        return Statement(f"{name}.insert_many", sql, shared=_shared_insert(name, None))
    one = f"({', '.join('?' * len(columns))})"
    cache: dict[int, Statement] = {}

    def by_count(count: int) -> Statement:
        found = cache.get(count)
        if found is None:
            found = Statement(f"{name}.insert_many", f"{insert} VALUES {', '.join([one] * count)}")
            if len(cache) < 64:
                cache[count] = found
        return found

    return by_count


def select_by_link(table: sa.Table, columns: Sequence[ColumnPlan], link: ColumnPlan, dialect: Dialect) -> Statement:
    """The rows whose link is among given ids, locked as for deletion."""
    text = Text(dialect)
    listed = ", ".join(text.quote(column.column) for column in columns)
    where = text.in_ids(text.quote(link.column))
    sql = f"SELECT {listed} FROM {text.quote(table.name)} WHERE {where} ORDER BY id{text.lock('delete')}"
    return Statement(f"{table.name}.by_{link.name}", sql, rows=True)


def row_function(codecs: Sequence[Any]) -> Callable[[Sequence[Any]], tuple[Any, ...]] | None:
    """A fused function that applies a codec to each cell that is not null; None if no cell has one."""
    if not any(codecs):
        return None
    constants = {f"_f{i}": codec for i, codec in enumerate(codecs) if codec is not None}
    cells = [f"r{i}" if codec is None else f"None if r{i} is None else _f{i}(r{i})" for i, codec in enumerate(codecs)]
    names = ", ".join(f"r{i}" for i in range(len(codecs)))
    return compile_function("encode_row", ("row",), [f"{names}, = row", f"return ({', '.join(cells)},)"], constants)


def row_encoder(columns: Sequence[ColumnPlan], dialect: Dialect) -> Callable[[Sequence[Any]], tuple[Any, ...]] | None:
    """From a row of Python values to what the driver takes."""
    return row_function([encoder(column.type, dialect) for column in columns])
