"""The statements that make an empty database ready for a plan, and the fingerprint by which an older one is recognised."""

from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable

from ensue.expression.sql import literal, sqlalchemy_dialect
from ensue.plan.plan import ColumnPlan
from ensue.plan.statements import Text
from ensue.plan.views import Layout
from ensue.schema.model import Aggregate, Formula
from ensue.store.statement import Statement

ID_BLOCK = 64


def ddl_statements(layout: Layout) -> Iterator[Statement]:
    """CREATE statements for all tables, in the order of their references, with indexes, sequences and the globals' rows."""
    # Tables that refer to each other in a cycle get their foreign keys afterwards, where the database can do that.
    for table in layout.metadata.sorted_tables:
        yield from table_ddl(layout, table)
    yield from sequence_ddl(layout)
    for record in layout.model.records.values():
        if record.kind == "globals":
            yield globals_row(layout, record.name)


def table_ddl(layout: Layout, table: sa.Table) -> Iterator[Statement]:
    """CREATE TABLE and CREATE INDEX of one table."""
    dialect: Any = sqlalchemy_dialect(layout.dialect)
    create: Any = CreateTable(table)
    yield Statement(f"{table.name}.create_table", str(create.compile(dialect=dialect)).strip())
    for index in sorted(table.indexes, key=lambda item: str(item.name)):
        yield index_ddl(layout, index)


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
        name = text.quote(f"ensue_id_{record.table}")
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


def fingerprint(layout: Layout) -> Mapping[str, Any]:
    """What a database must have been made for: tables, columns with types, constraints, indexes, definitions of what derives."""
    dialect: Any = sqlalchemy_dialect(layout.dialect)
    found: dict[str, Any] = {}
    for record in layout.model.records.values():
        table = layout.table(record.name)
        found[table.name] = {
            "columns": {
                column.name: f"{column.type.compile(dialect=dialect)}{'' if column.nullable else ' NOT NULL'}"
                for column in table.columns
            },
            "constraints": sorted(str(item.name) for item in table.constraints if item.name is not None),
            "indexes": sorted(str(item.name) for item in table.indexes),
            "derived": {
                field.column: repr(field.computation)
                for field in record.fields.values()
                if isinstance(field.computation, Aggregate | Formula)
            },
        }
    return found
