"""Where the columns of expressions stand in rows: the row itself, and the rows that their paths cross to.

A `ViewBuilder` collects what several expressions over one record type read, gives the Python source of each column in terms of
the parameters `e, x0, x1, …`, and makes the `View` that the engine loads by.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from ensue.expression.nodes import Column, Node
from ensue.expression.python import compile_function, predicate_source, source
from ensue.plan.plan import ColumnPlan, Crossing, View
from ensue.plan.statements import Text
from ensue.plan.tables import link_of, member_column
from ensue.schema.model import Model
from ensue.store.driver import Dialect
from ensue.store.statement import Statement


@dataclass(frozen=True, slots=True)
class Layout:
    """What is known of all record types before steps are compiled: columns, positions and tables."""

    model: Model
    dialect: Dialect
    metadata: sa.MetaData
    columns: Mapping[str, tuple[ColumnPlan, ...]]
    index: Mapping[str, Mapping[str, int]]

    def table(self, record: str) -> sa.Table:
        return self.metadata.tables[self.model.records[record].table]

    def position(self, record: str, name: str) -> int:
        """The position of a member's column in rows of `record`; `source` and `target` stand for a relation's links."""
        index = self.index[record]
        return index[name] if name in index else index[link_of(self.model.records[record], name)]


@dataclass(slots=True)
class _Cross:
    path: tuple[str, ...]
    record: str
    parent: int
    fk: int
    positions: set[int] = field(default_factory=set[int])


class ViewBuilder:
    """Collects what expressions rooted at `record` read."""

    def __init__(self, layout: Layout, record: str) -> None:
        self._layout = layout
        self._record = record
        self._own: set[int] = set()
        self._crossings: list[_Cross] = []

    def source(self, column: Column) -> str:
        """The Python source of a column's value."""
        return self.value(column.path, column.field)

    def value(self, path: tuple[str, ...], name: str) -> str:
        """The Python source of column `name` at the end of `path`."""
        if not path:
            position = self._layout.position(self._record, name)
            self._own.add(position)
            return f"e[{position}]"
        number = self._cross(path)
        crossing = self._crossings[number]
        position = self._layout.position(crossing.record, name)
        crossing.positions.add(position)
        return f"(None if x{number} is None else x{number}[{position}])"

    def _cross(self, path: tuple[str, ...]) -> int:
        for number, crossing in enumerate(self._crossings):
            if crossing.path == path:
                return number
        *before, step = path
        parent = self._cross(tuple(before)) if before else -1
        at = self._record if parent < 0 else self._crossings[parent].record
        link = self._layout.model.records[at].links[link_of(self._layout.model.records[at], step)]
        fk = self._layout.position(at, link.name)
        (self._own if parent < 0 else self._crossings[parent].positions).add(fk)
        self._crossings.append(_Cross(path, link.target, parent, fk))
        return len(self._crossings) - 1

    @property
    def parameters(self) -> tuple[str, ...]:
        """The parameters of a function whose body uses the sources given so far."""
        return ("e", *(f"x{number}" for number in range(len(self._crossings))))

    @property
    def sources(self) -> frozenset[str]:
        """The record types whose changes can change what is read."""
        return frozenset({self._record, *(crossing.record for crossing in self._crossings)})

    def reads(self) -> list[tuple[str, int]]:
        """The (record type, position) pairs that are read."""
        own = [(self._record, position) for position in self._own]
        return own + [(crossing.record, position) for crossing in self._crossings for position in crossing.positions]

    def build(self, *, exclusive: frozenset[str], locking: bool = False) -> View:
        """The finished view. `exclusive`: record types to lock exclusively when crossed to; `locking`: so are found edge rows."""
        crossings = tuple(
            Crossing(
                path=item.path,
                record=item.record,
                parent=item.parent,
                fk=item.fk,
                positions=tuple(sorted(item.positions)),
                lookup=self._lookup(item.path, locking=locking),
                exclusive=item.record in exclusive,
            )
            for item in self._crossings
        )
        return View(self._record, tuple(sorted(self._own)), crossings)

    def _lookup(self, path: tuple[str, ...], *, locking: bool) -> Statement:
        """The rows from which `path` leads to given ids."""
        layout, text = self._layout, Text(self._layout.dialect)
        table = layout.table(self._record)
        listed = ", ".join(f"e.{text.quote(column.column)}" for column in layout.columns[self._record])
        joins: list[str] = []
        at, alias = layout.model.records[self._record], "e"
        for number, step in enumerate(path[:-1]):
            link = at.links[link_of(at, step)]
            joins.append(
                f"JOIN {text.quote(layout.table(link.target).name)} x{number} ON x{number}.id = {alias}.{text.quote(link.column)}"
            )
            at, alias = layout.model.records[link.target], f"x{number}"
        last = text.quote(member_column(at, link_of(at, path[-1])))
        lock = f"{text.lock('update')} OF e" if locking and layout.dialect == "postgresql" else ""
        sql = " ".join(
            [
                f"SELECT {listed} FROM {text.quote(table.name)} e",
                *joins,
                f"WHERE {text.in_ids(f'{alias}.{last}')} ORDER BY e.id{lock}",
            ]
        )
        return Statement(f"{table.name}.across_{'_'.join(path)}", sql, rows=True)


def empty_view(record: str) -> View:
    """A view that reads nothing."""
    return View(record, (), ())


def function_of(layout: Layout, record: str, node: Node, *, predicate: bool = False) -> tuple[View, Any]:
    """A function of a row (and crossing rows) for one expression, with its view."""
    builder = ViewBuilder(layout, record)
    constants: dict[str, Any] = {}
    text = (predicate_source if predicate else source)(node, builder.source, constants)
    function = compile_function("evaluate", builder.parameters, text, constants)
    return builder.build(exclusive=frozenset()), function
