"""The conditions and orders of one statement: resolved, their constants lifted to parameters, lowered onto its sources.

Decides how a collection's `any` correlates, and which literal of the read each parameter takes its value from. Leaves
operators to `lower`. Invariant: a parameter that can't be traced to one literal makes the statement one that is not
used again, never a wrong value.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.sql.elements import Grouping

from ensue.engine.read.key import Keys
from ensue.engine.read.selection import problem
from ensue.engine.read.source import Column, Naming, Source, reached
from ensue.expression import nodes
from ensue.expression.nodes import Exists, Node
from ensue.expression.resolve import lift, resolve
from ensue.expression.semantics import BOOL
from ensue.expression.sql import lower
from ensue.expression.trace import Expr, Literal, Order, Path, Root
from ensue.expression.types import ValueType

_ONE: Column = sa.literal_column("1")


@dataclass(frozen=True, slots=True)
class Ordering:
    """One term of an order."""

    node: Node
    descending: bool

    @property
    def is_id(self) -> bool:
        return self.node == nodes.Column((), "id", self.node.type, optional=False)


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a parameter's value comes from: the literal of that index, fitted to `type`, or `fixed`."""

    type: ValueType
    literal: int | None
    fixed: Any = None


class Conditions:
    """Makes the SQL of expressions. `literals` are those of the whole read, in the order of its key."""

    def __init__(self, naming: Naming, literals: Sequence[Literal], now: datetime | None) -> None:
        self.slots: list[Slot] = []
        self.values: list[Any] = []
        self.reusable = True
        self.naming = naming
        self._now = now
        self._index = {id(literal): index for index, literal in enumerate(literals)}
        self._enclosing: list[Source] = []

    def condition(self, expr: Expr[Any], source: Source) -> Column:
        """`expr` as a filter on the rows of `source`."""
        node = self._resolve(expr, source, expected=BOOL)
        return self._lower(self._lifted(node, expr), source, filter=True)

    def ordering(self, order_by: Iterable[Any], source: Source) -> tuple[Ordering, ...]:
        """The terms of an `order_by=`: expressions, `.desc()`, or names such as "-at" and "author.name"."""
        return tuple([self._term(item, source) for item in order_by])

    def lower(self, node: Node, source: Source) -> Column:
        """A resolved node as a value of the rows of `source`."""
        return self._lower(node, source, filter=False)

    def _term(self, item: Any, source: Source) -> Ordering:
        if isinstance(item, str):
            item = Order(Path(Root(None), tuple(item.removeprefix("-").split("."))), descending=item.startswith("-"))
        order = item if isinstance(item, Order) else Order(item)
        if not isinstance(cast("Any", order.value), Expr):
            raise problem(
                f'`order_by` got {item!r}; expected expressions such as `Post.at.desc()`, or names such as "-at".'
            )
        node = self._resolve(order.value, source)
        if node.type.kind == "json":
            raise problem(
                f"`order_by` got {order.value!r}, which is json and has no order. Order by a value of the record."
            )
        return Ordering(self._lifted(node, order.value), order.descending)

    def _resolve(self, expr: Expr[Any], source: Source, *, expected: ValueType | None = None) -> Node:
        record = source.record
        return resolve(
            expr,
            record.name,
            self.naming.model,
            expected=expected,
            now=self._now,
            aliases=record.abstract,
            inverses=True,
        )

    # --- Parameters ---------------------------------------------------------------------------------------------------

    def _lifted(self, node: Node, expr: Expr[Any]) -> Node:
        """The node with parameters for its constants, each tied to the literal that it came from.

        Resolving keeps the order of operands, so the n-th constant is the n-th literal; a different number of them
        means that this expression breaks the rule.
        """
        lifted, values = lift(node, start=len(self.slots))
        if not values:
            return lifted
        types = {item.index: item.type for item in nodes.walk(lifted) if isinstance(item, nodes.Parameter)}
        keys = Keys()
        keys.key(expr)
        if len(keys.literals) != len(values):
            self.reusable = False
        for offset, value in enumerate(values):
            literal = keys.literals[offset] if self.reusable else None
            type_ = types[len(self.slots)]
            if literal is None or isinstance(literal.value, timedelta):
                self.slots.append(Slot(type_, None, value))
            else:
                self.slots.append(Slot(type_, self._index[id(literal)]))
            self.values.append(value)
        return lifted

    # --- Lowering -----------------------------------------------------------------------------------------------------

    def _lower(self, node: Node, source: Source, *, filter: bool) -> Column:
        self._enclosing.append(source)
        try:
            # In parentheses: SQLAlchemy does not know how loosely the operators in it bind.
            return Grouping(lower(node, self._column, self.naming.dialect, self._exists, filter=filter))
        finally:
            self._enclosing.pop()

    def _column(self, column: nodes.Column) -> Column:
        return self._enclosing[-1 - column.depth].column(column.path, column.field)

    def _exists(self, node: Exists) -> Column:
        parent = self._enclosing[-1 - node.depth]
        source, tied = reached(self.naming, parent.at(()), node.hops)
        conditions = [tied] if node.condition is None else [tied, self._lower(node.condition, source, filter=True)]
        # Everything else that a condition names belongs to an enclosing record, at whatever depth.
        return (
            sa.select(_ONE).select_from(source.from_clause).where(*conditions).correlate_except(*source.tables).exists()
        )
