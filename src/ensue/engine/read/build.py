"""From a selection to one SQL statement, however deep, and the layout that its rows have.

Decides the shape of the SQL: the page of ids is found first where there is something below to be shaped, to-one links
are LEFT JOINs, and each collection is a correlated, ordered sub-select that arrives as one JSON array. Leaves
operators to `lower`. Invariants: one statement, hence one snapshot; the order is total (the id breaks ties) and puts
nulls last on every database.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from ensue.engine.read.conditions import Conditions, Ordering
from ensue.engine.read.json_columns import json_array, json_inside, json_rows, json_text
from ensue.engine.read.layout import Layout, Rows, Value
from ensue.engine.read.selection import Nested, Selection
from ensue.engine.read.source import Column, Naming, Source, reached
from ensue.expression.sql import decoder, json_decoder, json_expression
from ensue.expression.types import ValueType
from ensue.store.driver import Dialect

Select = sa.Select[*tuple[Any, ...]]
LIMIT = "limit"
OFFSET = "offset"


@dataclass(slots=True)
class Window:
    """Which of the rows of a level are wanted: already tied to the parent and filtered, then ordered and cut."""

    conditions: list[Column]
    ordering: tuple[Ordering, ...]
    limit: Column | int | None = None
    offset: Column | None = None


@dataclass(slots=True)
class Outputs:
    """The result columns of one level in the order of their positions. `types` is None for ids and nested JSON."""

    columns: list[Column] = field(default_factory=list[Column])
    types: list[ValueType | None] = field(default_factory=list["ValueType | None"])
    nested: list[bool] = field(default_factory=list[bool])

    def add(self, column: Column, type_: ValueType | None = None, *, nested: bool = False) -> int:
        self.columns.append(column)
        self.types.append(type_)
        self.nested.append(nested)
        return len(self.columns) - 1


class Builder:
    """Builds one statement."""

    def __init__(self, naming: Naming, conditions: Conditions) -> None:
        self.naming = naming
        self.conditions = conditions
        self.dialect: Dialect = naming.dialect

    def root(self, selection: Selection, source: Source, window: Window) -> tuple[Select, Rows]:
        """The statement of a read, and the layout of its rows."""
        statement, outputs, layout = self._level(selection, source, window, correlated=())
        texts = [
            json_text(column, self.dialect) if nested else column
            for column, nested in zip(outputs.columns, outputs.nested, strict=True)
        ]
        return statement.with_only_columns(*_labelled(texts), maintain_column_froms=True), Rows(layout, len(texts))

    def _level(
        self,
        selection: Selection,
        source: Source,
        window: Window,
        *,
        correlated: tuple[sa.FromClause, ...],
        nested: bool = False,
    ) -> tuple[Select, Outputs, Layout]:
        """The select of one record type's rows, without its columns; they are in the outputs."""
        terms = self._terms(source, window.ordering)
        cut = window.limit is not None or window.offset is not None
        if cut and selection.collections:
            source, window, terms = self._paged(source, window, terms, correlated)
        outputs = Outputs()
        layout = self._layout(selection, source, (), outputs, nested=nested)
        statement = sa.select(source.id).select_from(source.from_clause).where(*window.conditions).order_by(*terms)
        return _cut(statement, window).correlate(*correlated), outputs, layout

    def _paged(
        self, source: Source, window: Window, terms: list[Column], correlated: tuple[sa.FromClause, ...]
    ) -> tuple[Source, Window, list[Column]]:
        """The same rows, found by an inner select: else all below is computed for rows that the limit then drops."""
        keys = [term.label(f"k{index}") for index, (term, _) in enumerate(self._keys(source, window.ordering))]
        inner = (
            sa.select(source.id.label("id"), *keys)
            .select_from(source.from_clause)
            .where(*window.conditions)
            .order_by(*terms)
        )
        page = _cut(inner, window).correlate(*correlated).subquery(f"p{next(self.naming.numbers)}")
        table = self.naming.alias(source.record.name)
        outer = Source(self.naming, source.record, table, start=page.join(table, table.c.id == page.c.id))
        again = [_directed(page.c[f"k{index}"], order) for index, order in enumerate(window.ordering)]
        return outer, Window([], ()), [*again, page.c.id]

    # --- Order --------------------------------------------------------------------------------------------------------

    def _keys(self, source: Source, ordering: Sequence[Ordering]) -> list[tuple[Column, Ordering]]:
        return [(self.conditions.lower(order.node, source), order) for order in ordering]

    def _terms(self, source: Source, ordering: Sequence[Ordering]) -> list[Column]:
        terms = [_directed(key, order) for key, order in self._keys(source, ordering)]
        return terms if any(order.is_id for order in ordering) else [*terms, source.id]

    # --- Columns ------------------------------------------------------------------------------------------------------

    def _layout(
        self, selection: Selection, source: Source, path: tuple[str, ...], outputs: Outputs, *, nested: bool
    ) -> Layout:
        table, record = source.at(path)
        layout = Layout(record, outputs.add(table.c.id))
        decode = json_decoder if nested else decoder
        for name, model in selection.fields.items():
            position = outputs.add(table.c[model.column], model.type)
            layout.values.append(Value(name, position, decode(model.type, self.dialect), model.optional or bool(path)))
        for name, target in selection.links.items():
            if target.id_only:
                layout.references.append((name, outputs.add(table.c[record.links[name].column])))
            else:
                layout.links.append((name, self._layout(target, source, (*path, name), outputs, nested=nested)))
        for name, below in selection.collections.items():
            if below.single:
                layout.links.append(
                    (name, self._layout(below.selection, source, (*path, name), outputs, nested=nested))
                )
            else:
                column, rows = self._collection(below, table, layout.record)
                layout.collections.append((name, outputs.add(column, nested=True), rows))
        return layout

    def _collection(self, below: Nested, table: sa.FromClause, record: Any) -> tuple[Column, Rows]:
        """The collection of one parent row as a JSON array: the ordered rows in a sub-select, grouped around it."""
        source, tied = reached(self.naming, (table, record), below.hops)
        shape = below.limits
        where, ordering, limit = [tied], (), None
        if shape is not None:
            if shape.where is not None:
                where.append(self.conditions.condition(shape.where, source))
            ordering, limit = self.conditions.ordering(shape.order_by, source), shape.limit
        statement, outputs, layout = self._level(
            below.selection, source, Window(where, ordering, limit), correlated=(table,), nested=True
        )
        rows = statement.with_only_columns(*_labelled(outputs.columns), maintain_column_froms=True).subquery(
            f"s{next(self.naming.numbers)}"
        )
        cells = [self._cell(column, outputs, index) for index, column in enumerate(rows.c)]
        array = sa.select(json_rows(json_array(cells, self.dialect), self.dialect)).select_from(rows)
        return array.scalar_subquery(), Rows(layout, len(cells))

    def _cell(self, column: Column, outputs: Outputs, index: int) -> Column:
        if outputs.nested[index]:
            return json_inside(column, self.dialect)
        type_ = outputs.types[index]
        if type_ is None:
            return column
        cell = json_expression(column, type_, self.dialect)
        # SQLite's hex(NULL) is an empty text, which would come back as no bytes instead of None.
        return sa.case((column.is_not(None), cell)) if type_.kind == "bytes" else cell


def _labelled(columns: Sequence[Column]) -> list[Any]:
    return [column.label(f"c{index}") for index, column in enumerate(columns)]


def _cut(statement: Select, window: Window) -> Select:
    if window.limit is not None:
        statement = statement.limit(window.limit)
    return statement if window.offset is None else statement.offset(window.offset)


def _directed(key: Column, order: Ordering) -> Column:
    """Nulls last either way; said only where there can be nulls, so that an index still serves."""
    directed = key.desc() if order.descending else key.asc()
    return directed.nulls_last() if order.node.optional else directed
