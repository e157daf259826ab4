"""The statements that make an empty database ready for a plan, and the fingerprint by which an older one is recognised."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy import schema as sa_schema
from sqlalchemy.schema import AddConstraint, CreateIndex, CreateTable

from ensue.expression.sql import literal, sqlalchemy_dialect
from ensue.expression.wording import wording
from ensue.plan.plan import ColumnPlan
from ensue.plan.statements import Text
from ensue.plan.views import Layout
from ensue.schema.model import Aggregate, Computation, CustomModel, Formula, Machine, RecordModel, TransformModel
from ensue.store.statement import Statement

ID_BLOCK = 64
"""How many ids a process takes at once; a sequence steps by as many."""


def sequence_name(table: str) -> str:
    """The PostgreSQL sequence that gives out blocks of ids for a table."""
    return f"ensue_id_{table}"


def ddl_statements(layout: Layout) -> Iterator[Statement]:
    """CREATE statements for all tables, in the order of their references, with indexes, sequences and the globals' rows."""
    yield from tables_ddl(layout, list(layout.metadata.tables.values()))
    yield from sequence_ddl(layout)
    for record in layout.model.records.values():
        if record.kind == "globals":
            yield globals_row(layout, record.name)


def tables_ddl(layout: Layout, chosen: Sequence[sa.Table]) -> Iterator[Statement]:
    """CREATE TABLE and CREATE INDEX of several tables, in the order of their references."""
    # On PostgreSQL, tables that refer to each other in a cycle get those foreign keys afterwards; SQLite resolves them late.
    tables: list[tuple[sa.Table | None, list[sa.ForeignKeyConstraint]]]
    tables = cast("Any", sa_schema).sort_tables_and_constraints(chosen)
    for table, keys in tables:
        if table is not None:
            yield from table_ddl(layout, table, keys if layout.dialect == "postgresql" else None)
        elif layout.dialect == "postgresql":
            for key in keys:
                yield constraint_ddl(layout, key)


def table_ddl(
    layout: Layout, table: sa.Table, keys: Iterable[sa.ForeignKeyConstraint] | None = None
) -> Iterator[Statement]:
    """CREATE TABLE and CREATE INDEX of one table. `keys`: the foreign keys to declare in it (None: all)."""
    dialect: Any = sqlalchemy_dialect(layout.dialect)
    create: Any = CreateTable(table, include_foreign_key_constraints=None if keys is None else list(keys))
    yield Statement(f"{table.name}.create_table", str(create.compile(dialect=dialect)).strip())
    for index in sorted(table.indexes, key=lambda item: str(item.name)):
        yield index_ddl(layout, index)


def constraint_ddl(layout: Layout, constraint: sa.Constraint) -> Statement:
    """ALTER TABLE … ADD CONSTRAINT, on PostgreSQL."""
    dialect: Any = sqlalchemy_dialect(layout.dialect)
    add: Any = AddConstraint(constraint)
    return Statement(f"{constraint.name}.add", str(add.compile(dialect=dialect)).strip())


def index_ddl(layout: Layout, index: sa.Index) -> Statement:
    """CREATE INDEX."""
    dialect: Any = sqlalchemy_dialect(layout.dialect)
    create: Any = CreateIndex(index)
    return Statement(f"{index.name}.create_index", str(create.compile(dialect=dialect)).strip())


def sequence_ddl(layout: Layout) -> Iterator[Statement]:
    """On PostgreSQL, the sequences that give out blocks of ids; SQLite keeps the marks in `ensue_id_block`."""
    if layout.dialect != "postgresql":
        return
    text = Text(layout.dialect)
    for record in layout.model.records.values():
        name = text.quote(sequence_name(record.table))
        yield Statement(
            f"{record.table}.create_sequence", f"CREATE SEQUENCE IF NOT EXISTS {name} INCREMENT BY {ID_BLOCK}"
        )


def globals_row(layout: Layout, record: str) -> Statement:
    """The one row of a Globals class, with its values over no records."""
    text = Text(layout.dialect)
    columns = layout.columns[record]
    names = ", ".join(text.quote(column.column) for column in columns)
    values = ", ".join(_initial(layout, column) for column in columns)
    table = layout.table(record).name
    sql = f"INSERT INTO {text.quote(table)} ({names}) VALUES ({values}) ON CONFLICT DO NOTHING"
    return Statement(f"{table}.create_row", sql)


def _initial(layout: Layout, column: ColumnPlan) -> str:
    if column.role == "id":
        return "1"
    if column.initial is None:
        return "NULL"
    element = literal(column.initial, column.type, layout.dialect)
    return str(element.compile(dialect=sqlalchemy_dialect(layout.dialect)))


FINGERPRINT_VERSION = 1
"""Of the form of a fingerprint; another one can't be compared."""


def fingerprint(layout: Layout) -> Mapping[str, Any]:
    """What a database must have been made for: tables, columns with types, constraints, indexes, definitions of what derives."""
    definitions = {record.table: dict(_definitions(record)) for record in layout.model.records.values()}
    return {
        "version": FINGERPRINT_VERSION,
        "tables": {
            table.name: {
                "columns": {column.name: column_text(layout, column) for column in table.columns},
                "constraints": dict(_constraints(layout, table)),
                "indexes": {str(index.name): _index_text(layout, index) for index in table.indexes},
                "definitions": definitions.get(table.name, {}),
            }
            for table in layout.metadata.tables.values()
        },
    }


def column_text(layout: Layout, column: sa.Column[Any]) -> str:
    """A column's type and whether it can be null, in the database's words."""
    return f"{column.type.compile(dialect=sqlalchemy_dialect(layout.dialect))}{'' if column.nullable else ' NOT NULL'}"


def _constraints(layout: Layout, table: sa.Table) -> Iterator[tuple[str, str]]:
    for constraint in table.constraints:
        if constraint.name is None or not isinstance(
            constraint, sa.UniqueConstraint | sa.CheckConstraint | sa.ForeignKeyConstraint
        ):
            continue
        text = f"({', '.join(column.name for column in constraint.columns)})"
        if isinstance(constraint, sa.UniqueConstraint):
            text = f"unique {text}"
        elif isinstance(constraint, sa.CheckConstraint):
            text = str(constraint.sqltext.compile(dialect=sqlalchemy_dialect(layout.dialect)))
        else:
            text = f"{text} refers to {constraint.referred_table.name}"
        yield str(constraint.name), text


def _index_text(layout: Layout, index: sa.Index) -> str:
    columns = ", ".join(column.name for column in index.columns)
    where: Any = index.dialect_options[layout.dialect].get("where")
    return f"({columns})" if where is None else f"({columns}) where {where}"


def _definitions(record: RecordModel) -> Iterator[tuple[str, str]]:
    for field in record.fields.values():
        if field.computation is not None:
            yield field.column, definition(field.computation)
    if record.transform is not None:
        yield "*", transform_definition(record.transform)


def definition(computation: Computation) -> str:
    """A computation in words; two that store different values have different words, but for what only Python code says."""
    match computation:
        case Aggregate():
            value = "" if computation.value is None else f" of {wording(computation.value)}"
            where = "" if computation.where is None else f" where {wording(computation.where)}"
            path = f" by {'.'.join(computation.host_path)}" if computation.host_path else ""
            return f"{computation.kind}{value} over {computation.edge}{path}{where}"
        case Formula():
            return f"formula {wording(computation.value)}"
        case Machine():
            return f"state machine of {', '.join(sorted(computation.states))}"
        case CustomModel():
            return "custom"


def transform_definition(transform: TransformModel) -> str:
    """A Transform in words."""
    if transform.mapping is None:
        return f"derived from {transform.source} by a function"
    mapped = ", ".join(f"{name} = {wording(node)}" for name, node in transform.mapping.items())
    return f"derived from {transform.source}: {mapped}"
