"""A read as a value, and its compiled form: one statement with how its values are bound and its rows decoded.

Decides when a compiled read fits the values of a later one. Invariant: a value is bound only as the type that the
statement was made for; one that needs another type makes another statement.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

import sqlalchemy as sa

from ensue.engine.read.build import LIMIT, OFFSET, Builder, Select, Window
from ensue.engine.read.conditions import Conditions, Slot
from ensue.engine.read.key import Keys
from ensue.engine.read.layout import Decode, compile_decode
from ensue.engine.read.selection import select
from ensue.engine.read.source import Column, Naming, Source, Tables
from ensue.expression.literals import LiteralError, constant, constants
from ensue.expression.sql import compile_statement
from ensue.expression.trace import Expr, Literal
from ensue.schema.model import Model, RecordModel
from ensue.schema.record import make_record
from ensue.store.driver import Dialect
from ensue.store.statement import Statement


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """What to read. `fields` None is the default selection; `counted` reads the number of records instead of them."""

    record: RecordModel
    where: Expr[bool] | None = None
    fields: Sequence[Any] | None = None
    order_by: Sequence[Any] = ()
    limit: int | None = None
    offset: int = 0
    counted: bool = False

    def key(self, keys: Keys) -> Hashable:
        """The structure of the read; its literals are gathered in `keys`."""
        return (
            self.record.name,
            None if self.where is None else keys.key(self.where),
            None if self.fields is None else keys.key(self.fields),
            keys.keys(self.order_by) if self.order_by else None,
            self.limit is None,
            not self.offset,
            self.counted,
        )


@dataclass(frozen=True, slots=True, eq=False)
class CompiledQuery:
    """A statement, and how to use it for every read of the same structure."""

    statement: Statement
    decode: Decode
    reusable: bool
    slots: tuple[Slot, ...]
    bind_row: Callable[[Sequence[Any]], tuple[Any, ...]]

    def bind(self, literals: Sequence[Literal], limit: int | None, offset: int) -> tuple[Any, ...] | None:
        """The parameters for these literals; None if one does not fit the type that the statement was made for."""
        values: list[Any] = []
        for slot in self.slots:
            if slot.literal is None:
                values.append(slot.fixed)
                continue
            found = _fit(literals[slot.literal].value, slot)
            if found is None:
                return None
            values.append(found)
        values.append(limit)
        values.append(offset)
        return self.bind_row(values)


def _fit(value: Any, slot: Slot) -> Any:
    """The value in the one form that the slot's type has; None if it needs another, or resolving will refuse it."""
    try:
        if value.__class__ is tuple:
            found = constants(cast("tuple[Any, ...]", value), slot.type)
            return list(found.value) if found.type == slot.type else None
        found = constant(value, slot.type)
    except LiteralError:
        return None
    return found.value if found.type == slot.type else None


@dataclass(frozen=True, slots=True)
class Compiler:
    """What reads are compiled for."""

    model: Model
    tables: Tables
    dialect: Dialect

    def compile(
        self, query: Query, literals: Sequence[Literal], now: datetime | None = None
    ) -> tuple[CompiledQuery, tuple[Any, ...]]:
        """The compiled read, and the parameters of this one. Raises DeclarationError for what can't be read."""
        naming = Naming(self.model, self.tables, self.dialect)
        conditions = Conditions(naming, literals, now)
        source = Source(naming, query.record, naming.alias(query.record.name))
        where = [] if query.where is None else [conditions.condition(query.where, source)]
        if query.counted:
            statement: Select = sa.select(sa.func.count()).select_from(source.from_clause).where(*where)
            decode: Decode = _only
        else:
            statement, decode = self._records(query, source, where, conditions)
        names = [f"p{index}" for index in range(len(conditions.slots))]
        name = f"{query.record.table}.{'count' if query.counted else 'find'}"
        compiled = compile_statement(statement, self.dialect, name, order=[*names, LIMIT, OFFSET], rows=True)
        made = CompiledQuery(
            compiled.statement, decode, conditions.reusable, tuple(conditions.slots), compiled.bind_row
        )
        return made, compiled.bind_row([*conditions.values, query.limit, query.offset])

    def _records(
        self, query: Query, source: Source, where: list[Column], conditions: Conditions
    ) -> tuple[Select, Decode]:
        selection = select(self.model, query.record, query.fields)
        window = Window(
            where,
            conditions.ordering(query.order_by, source),
            None if query.limit is None else sa.bindparam(LIMIT, type_=sa.BigInteger()),
            sa.bindparam(OFFSET, type_=sa.BigInteger()) if query.offset else None,
        )
        statement, rows = Builder(conditions.naming, conditions).root(selection, source, window)
        return statement, compile_decode(rows, self.model, make_record)


def compile_query(
    model: Model, tables: Tables, dialect: Dialect, query: Query
) -> tuple[CompiledQuery, tuple[Any, ...]]:
    """Compile a read on its own: the compiled form, and the parameters of this read."""
    keys = Keys()
    query.key(keys)
    return Compiler(model, tables, dialect).compile(query, keys.literals)


def _only(rows: Sequence[Any]) -> list[Any]:
    return [rows[0][0]]
