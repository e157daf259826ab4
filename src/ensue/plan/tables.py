"""One table per record type: columns, constraints and indexes, as SQLAlchemy metadata that serves both databases.

Decides the physical layout and nothing else: a property's column has its name, a to-one link's is indexed and a foreign key,
derived columns are ordinary columns, and the hidden state of a computation stands beside it. Invariant: every link column has an
index, because propagation and deletes look rows up by it.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from ensue.expression.nodes import Column
from ensue.expression.sql import SqlTypes, decoder, encoder, lower, sqlalchemy_dialect
from ensue.expression.types import ValueType
from ensue.plan.plan import ColumnPlan
from ensue.plan.rules.registry import rule_for
from ensue.schema.model import ID_TYPE, Aggregate, FieldModel, LinkModel, Machine, Model, RecordModel
from ensue.store.driver import Dialect

NAME_MAX = 63
STATE_TYPE = ValueType("str", str)
SOURCE_COLUMN = "ensue_source"
SLOT_COLUMN = "ensue_slot"


def column_plans(record: RecordModel, dialect: Dialect) -> tuple[ColumnPlan, ...]:
    """The columns of a record's table in the order of its rows: id, properties and links as declared, then hidden state."""
    hidden: list[ColumnPlan] = []
    visible: list[ColumnPlan] = []
    for field in record.fields.values():
        column, states = _field_columns(field, dialect)
        visible.append(column)
        hidden.extend(states)
    links = [_link_column(link, dialect) for link in record.links.values()]
    if record.transform is not None and not record.transform.event:
        hidden.append(_plan(SOURCE_COLUMN, SOURCE_COLUMN, ID_TYPE, dialect, role="hidden"))
        hidden.append(_plan(SLOT_COLUMN, SLOT_COLUMN, ID_TYPE, dialect, role="hidden"))
    return (_plan("id", "id", ID_TYPE, dialect, role="id"), *visible, *links, *hidden)


def _plan(name: str, column: str, type_: ValueType, dialect: Dialect, *, role: Any, **more: Any) -> ColumnPlan:
    optional: bool = more.pop("optional", False)
    codecs = {"encode": encoder(type_, dialect), "decode": decoder(type_, dialect)}
    return ColumnPlan(name, column, type_, optional, role, **codecs, **more)


def _link_column(link: LinkModel, dialect: Dialect) -> ColumnPlan:
    return _plan(link.name, link.column, ID_TYPE, dialect, role="link", optional=link.optional, target=link.target)


def _field_columns(field: FieldModel, dialect: Dialect) -> tuple[ColumnPlan, list[ColumnPlan]]:
    computation = field.computation
    if computation is None:
        return _plan(field.name, field.column, field.type, dialect, role="given", optional=field.optional), []
    if isinstance(computation, Aggregate):
        states = rule_for(computation, dialect).columns
        first = _plan(
            field.name,
            field.column,
            field.type,
            dialect,
            role="derived",
            optional=states[0].optional,
            initial=states[0].initial,
        )
        rest = [
            _plan(
                field.name + s.suffix,
                field.column + s.suffix,
                s.type,
                dialect,
                role="hidden",
                optional=s.optional,
                initial=s.initial,
            )
            for s in states[1:]
        ]
        return first, rest
    visible = _plan(field.name, field.column, field.type, dialect, role="derived", optional=field.optional)
    if isinstance(computation, Machine):
        name = f"{field.name}__state"
        state = _plan(name, f"{field.column}__state", STATE_TYPE, dialect, role="hidden", initial=computation.initial)
        return visible, [state]
    return visible, []


def build_tables(
    model: Model, columns: Mapping[str, tuple[ColumnPlan, ...]], metadata: sa.MetaData, dialect: Dialect
) -> None:
    """Add a table for each record type to `metadata`."""
    for record in model.records.values():
        _table(model, record, columns[record.name], metadata=metadata, dialect=dialect)


def _table(
    model: Model, record: RecordModel, columns: tuple[ColumnPlan, ...], *, metadata: sa.MetaData, dialect: Dialect
) -> sa.Table:
    types = SqlTypes()
    table = sa.Table(record.table, metadata, sqlite_strict=True)
    for column in columns:
        if column.role == "id":
            table.append_column(sa.Column("id", types.column(ID_TYPE), primary_key=True, autoincrement=False))
            continue
        foreign = _foreign_key(model, record, column)
        table.append_column(sa.Column(column.column, types.column(column.type), *foreign, nullable=column.optional))
    for constraint in _constraints(record, table, dialect):
        table.append_constraint(constraint)
    _indexes(record, table)
    return table


def _foreign_key(model: Model, record: RecordModel, column: ColumnPlan) -> tuple[sa.ForeignKey, ...]:
    if column.role != "link" or column.target is None or record.links[column.name].on_delete is None:
        return ()
    name = short_name(f"fk_{record.table}_{column.column}")
    return (sa.ForeignKey(f"{model.records[column.target].table}.id", name=name),)


def _constraints(record: RecordModel, table: sa.Table, dialect: Dialect) -> Iterator[sa.Constraint]:
    for names in unique_sets(record):
        columns = [member_column(record, name) for name in names]
        yield sa.UniqueConstraint(*columns, name=short_name(f"uq_{record.table}_{'_'.join(columns)}"))
    for field in record.fields.values():
        if field.check is not None:
            condition = lower(field.check, lambda column: table.c[member_column(record, column.field)], dialect)
            text = condition.compile(dialect=sqlalchemy_dialect(dialect), compile_kwargs={"literal_binds": True})
            yield sa.CheckConstraint(
                sa.text(str(text).replace(f"{table.name}.", "")), name=short_name(f"ck_{record.table}_{field.column}")
            )
        if field.type.kind == "bool" and dialect == "sqlite":
            yield sa.CheckConstraint(sa.column(field.column).in_([sa.literal_column("0"), sa.literal_column("1")]))
    if record.transform is not None and not record.transform.event:
        yield sa.UniqueConstraint(SOURCE_COLUMN, SLOT_COLUMN, name=short_name(f"uq_{record.table}_{SOURCE_COLUMN}"))


def unique_sets(record: RecordModel) -> tuple[tuple[str, ...], ...]:
    """Every unique constraint of a record type, as sets of member names, without repeats."""
    single = [(item.name,) for item in (*record.fields.values(), *record.links.values()) if item.unique]
    return tuple(dict.fromkeys([*single, *record.unique]))


def _indexes(record: RecordModel, table: sa.Table) -> None:
    leading = {names[0] for names in unique_sets(record)}
    for link in record.links.values():
        if link.name not in leading:
            sa.Index(short_name(f"ix_{record.table}_{link.column}"), table.c[link.column])
    for field in record.fields.values():
        if field.index and field.name not in leading:
            sa.Index(short_name(f"ix_{record.table}_{field.column}"), table.c[field.column])


def member_column(record: RecordModel, name: str) -> str:
    """The database column of a property or link."""
    if name == "id":
        return name
    if name in record.fields:
        return record.fields[name].column
    if name in ("source", "target") and name not in record.links:
        name = (record.source if name == "source" else record.target) or name
    return record.links[name].column


def short_name(name: str) -> str:
    """A name that fits PostgreSQL's 63 bytes; a longer one is cut and told apart by a hash."""
    encoded = name.encode()
    if len(encoded) <= NAME_MAX:
        return name
    return f"{encoded[: NAME_MAX - 9].decode(errors='ignore')}_{hashlib.sha256(encoded).hexdigest()[:8]}"


class Located:
    """Where the columns of an expression stand in SQL: the root table, joined along to-one paths as they are asked for."""

    def __init__(self, model: Model, metadata: sa.MetaData, record: str, *, alias: str | None = None) -> None:
        self._model = model
        self._metadata = metadata
        self.record = record
        table = metadata.tables[model.records[record].table]
        self.root: sa.FromClause = table if alias is None else table.alias(alias)
        self._at: dict[tuple[str, ...], tuple[sa.FromClause, str]] = {(): (self.root, record)}
        self.source: sa.FromClause = self.root

    def at(self, path: tuple[str, ...]) -> tuple[sa.FromClause, RecordModel]:
        """The (aliased) table at the end of `path`, left-joined, and its record type."""
        if path not in self._at:
            parent, model = self.at(path[:-1])
            link = model.links[link_of(model, path[-1])]
            table = self._metadata.tables[self._model.records[link.target].table].alias(
                f"at_{'_'.join(path)}"[:NAME_MAX]
            )
            self.source = self.source.outerjoin(table, table.c.id == parent.c[link.column])
            self._at[path] = (table, link.target)
        found, record = self._at[path]
        return found, self._model.records[record]

    def column(self, column: Column) -> sa.ColumnElement[Any]:
        """The element of a column node."""
        table, record = self.at(column.path)
        return table.c[member_column(record, column.field)]


def link_of(record: RecordModel, name: str) -> str:
    """The link that `name` means: `source` and `target` of a relation stand for its two."""
    if name not in record.links:
        if name == "source" and record.source is not None:
            return record.source
        if name == "target" and record.target is not None:
            return record.target
    return name
