"""One record type's rows inside a statement, with the to-one links that were followed from them.

Decides aliases and joins. Every link is a LEFT JOIN on a primary key or a unique column, so that following it never
adds or drops a row. Invariant: a path is joined once, whoever asks for it first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import sqlalchemy as sa

from ensue.expression.nodes import Children, Hop
from ensue.schema.model import Model, RecordModel
from ensue.store.driver import Dialect

Column = sa.ColumnElement[Any]


class Tables(Protocol):
    """The physical tables of an app."""

    def record(self, name: str, /) -> sa.Table: ...


@dataclass(slots=True)
class Naming:
    """What all sources of one statement share. Aliases are short: PostgreSQL cuts names at 63 bytes."""

    model: Model
    tables: Tables
    dialect: Dialect
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def alias(self, record: str) -> sa.FromClause:
        return self.tables.record(record).alias(f"t{next(self.numbers)}")


class Source:
    """An alias of a record's table; `start` is what it is joined to already, by way of the aliases `before`."""

    def __init__(
        self,
        naming: Naming,
        record: RecordModel,
        table: sa.FromClause,
        *,
        start: sa.FromClause | None = None,
        before: Iterable[sa.FromClause] = (),
    ) -> None:
        self.record = record
        self.table = table
        self._naming = naming
        self._from: sa.FromClause = table if start is None else start
        self._tables = [table, *before]
        self._joined: dict[tuple[str, ...], tuple[sa.FromClause, RecordModel]] = {(): (table, record)}

    @property
    def from_clause(self) -> sa.FromClause:
        return self._from

    @property
    def tables(self) -> list[sa.FromClause]:
        """Every alias that stands in FROM."""
        return self._tables

    @property
    def id(self) -> Column:
        return self.table.c.id

    def column(self, path: tuple[str, ...], name: str) -> Column:
        """The column of a property, of a to-one link (the id) or of `id`, at the end of a path of to-one names."""
        table, record = self.at(path)
        return table.c[column_name(record, name)]

    def at(self, path: tuple[str, ...]) -> tuple[sa.FromClause, RecordModel]:
        """The alias and type of what a path of to-one links (and single collections) leads to, joined at first use."""
        found = self._joined.get(path)
        if found is None:
            table, record = self.at(path[:-1])
            found = self._joined[path] = self._follow(table, record, path[-1])
        return found

    def _follow(self, table: sa.FromClause, record: RecordModel, name: str) -> tuple[sa.FromClause, RecordModel]:
        naming = self._naming
        if (link := record.links.get(name)) is not None:
            target = naming.model.records[link.target]
            alias = naming.alias(link.target)
            condition = alias.c.id == table.c[link.column]
        else:
            single = record.collections[name]
            (hop,) = single.hops
            if not isinstance(hop, Children):
                raise TypeError(hop)
            target = naming.model.records[hop.record]
            alias = naming.alias(hop.record)
            condition = alias.c[target.links[hop.link].column] == table.c.id
        self._from = self._from.outerjoin(alias, condition)
        self._tables.append(alias)
        return alias, target


def column_name(record: RecordModel, name: str) -> str:
    """The database's name for a property, a to-one link or `id`."""
    if name == "id":
        return "id"
    if (field_ := record.fields.get(name)) is not None:
        return field_.column
    return record.links[name].column


def reached(naming: Naming, parent: tuple[sa.FromClause, RecordModel], hops: tuple[Hop, ...]) -> tuple[Source, Column]:
    """The rows that `hops` lead to from a row of `parent`, and the condition that ties them to it (to be correlated).

    Joined from the far end, so that a row appears once for each way to it: a collection through others is a bag.
    """
    records = naming.model.records
    target = naming.alias(hops[-1].record)
    start: sa.FromClause = target
    right = target
    between: list[sa.FromClause] = []
    for index in range(len(hops) - 1, 0, -1):
        record = records[hops[index - 1].record]
        left = naming.alias(record.name)
        start = start.join(left, _tied(naming, (left, record), hops[index], right))
        right = left
        between.append(left)
    return Source(naming, records[hops[-1].record], target, start=start, before=between), _tied(
        naming, parent, hops[0], right
    )


def _tied(naming: Naming, left: tuple[sa.FromClause, RecordModel], hop: Hop, right: sa.FromClause) -> Column:
    table, record = left
    if isinstance(hop, Children):
        return right.c[naming.model.records[hop.record].links[hop.link].column] == table.c.id
    return table.c[record.links[hop.link].column] == right.c.id
