"""ADD COLUMN, on both databases: what a new column of an existing table starts as, or why it can't be added.

Decides the value that existing rows get; leaves the right value of derived columns to the recompute that follows. Invariant: a
column that is added has the type, nullability and references that a fresh table's would have.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ensue.clock import SystemClock
from ensue.expression.sql import literal, sqlalchemy_dialect
from ensue.plan.plan import ColumnPlan, Plan, RecordPlan
from ensue.plan.statements import Text
from ensue.plan.values import normaliser, placeholder
from ensue.schema.model import NO_DEFAULT, NOW, Aggregate, FieldModel, Machine
from ensue.store.statement import Statement


@dataclass(frozen=True, slots=True)
class Fill:
    """A default that is called: one value for each existing row."""

    record: RecordPlan
    column: ColumnPlan
    value: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Addition:
    """How one column is added. `refused` says why it can't be."""

    statements: tuple[Statement, ...] = ()
    fill: Fill | None = None
    refused: str = ""


def add_column(plan: Plan, table: sa.Table, name: str) -> Addition:
    """The addition of column `name` to an existing table."""
    record = next((item for item in plan.records.values() if item.table is table), None)
    if record is None:
        return _system_column(plan, table.c[name])
    column = next(item for item in record.columns if item.column == name)
    start, fill = _start(record, column)
    if start is None and not column.optional:
        return Addition(
            refused=f"Column {table.name}.{name}: it is required, and nothing says what the existing rows hold. Give it a "
            "default= or make it optional, migrate, and change it afterwards by hand."
        )
    parts = [_definition(plan, table, column), *_references(plan, table, name)]
    default = "" if start is None else str(_literal(plan, start, column))
    if default:
        parts.append(f"DEFAULT {default}")
    if not column.optional:
        parts.append("NOT NULL")
    text = Text(plan.dialect)
    target, quoted = text.quote(table.name), text.quote(name)
    statements = [Statement(f"{table.name}.add_column", f"ALTER TABLE {target} ADD COLUMN {' '.join(parts)}")]
    if default and plan.dialect == "postgresql":
        # A fresh table has no default: the engine always gives every column.
        sql = f"ALTER TABLE {target} ALTER COLUMN {quoted} DROP DEFAULT"
        statements.append(Statement(f"{table.name}.drop_default", sql))
    return Addition(tuple(statements), None if fill is None else Fill(record, column, fill))


def _system_column(plan: Plan, column: sa.Column[Any]) -> Addition:
    if not column.nullable and column.server_default is None:
        return Addition(
            refused=f"Column {column.table.name}.{column.name}: this version of ensue needs it and can't add it. Export "
            "the data, and start with a new database."
        )
    specification: Any = sa.schema.CreateColumn(column)
    text = str(specification.compile(dialect=sqlalchemy_dialect(plan.dialect))).strip()
    target = Text(plan.dialect).quote(column.table.name)
    return Addition((Statement(f"{column.table.name}.add_column", f"ALTER TABLE {target} ADD COLUMN {text}"),))


def _literal(plan: Plan, value: Any, column: ColumnPlan) -> Any:
    return literal(value, column.type, plan.dialect).compile(dialect=sqlalchemy_dialect(plan.dialect))


def _definition(plan: Plan, table: sa.Table, column: ColumnPlan) -> str:
    type_ = table.c[column.column].type.compile(dialect=sqlalchemy_dialect(plan.dialect))
    return f"{Text(plan.dialect).quote(column.column)} {type_}"


def _references(plan: Plan, table: sa.Table, name: str) -> list[str]:
    """Constraints written with the column: its foreign key, and on SQLite its checks, which can't be added later."""
    text = Text(plan.dialect)
    parts = [
        f"CONSTRAINT {text.quote(str(key.constraint.name))} REFERENCES {text.quote(key.column.table.name)} (id)"
        for key in table.c[name].foreign_keys
        if key.constraint is not None
    ]
    if plan.dialect == "sqlite":
        for constraint in checks_of(plan, table, name):
            named = "" if constraint.name is None else f"CONSTRAINT {text.quote(str(constraint.name))} "
            condition = constraint.sqltext.compile(dialect=sqlalchemy_dialect("sqlite"))
            parts.append(f"{named}CHECK ({condition})")
    return parts


def checks_of(plan: Plan, table: sa.Table, name: str) -> list[sa.CheckConstraint]:
    """The CHECK constraints of one column: the declared one by its name, and that of a bool on SQLite."""
    found: list[sa.CheckConstraint] = []
    for constraint in table.constraints:
        if isinstance(constraint, sa.CheckConstraint):
            by_name = constraint.name is not None and str(constraint.name) == f"ck_{table.name}_{name}"
            text = str(constraint.sqltext.compile(dialect=sqlalchemy_dialect(plan.dialect)))
            if by_name or (constraint.name is None and text.split(" IN ")[0].strip('"') == name):
                found.append(constraint)
    return found


def _start(record: RecordPlan, column: ColumnPlan) -> tuple[Any, Callable[[], Any] | None]:
    """What existing rows hold until it is computed or filled, and the default to call for each, if there is one."""
    if column.role == "link":
        return None, None
    field = record.model.fields.get(column.name)
    if field is None or isinstance(field.computation, Aggregate):
        return column.initial, None
    if field.default is not NO_DEFAULT:
        return _default(field)
    if isinstance(field.computation, Machine):
        return _first_value(field, field.computation), None
    transform = record.model.transform
    mapped = transform is not None and not transform.event and field.name in (transform.mapping or {})
    computed = field.computation is not None or mapped
    return (placeholder(field.type) if computed and not field.optional else None), None


def _default(field: FieldModel) -> tuple[Any, Callable[[], Any] | None]:
    check = normaliser(field.type, optional=field.optional)
    default = field.default
    if default is NOW:
        return check(SystemClock().now()), None
    if callable(default):
        return (None if field.optional else placeholder(field.type)), lambda: check(default())
    return (None if default is None else check(default)), None


def _first_value(field: FieldModel, machine: Machine) -> Any:
    function = machine.values.get(machine.initial)
    value = machine.initial if function is None else function(None, None)
    return normaliser(field.type, optional=True)(value)
