"""Count, AnyOf, EveryOf: numbers of edges, all or matching. Deltas are exact; nothing is ever re-read."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement

from ensue.expression.types import ValueType
from ensue.plan.rules.rule import Slot, SlotValue, StateColumn, plus

INT = ValueType("int", int)
BOOL = ValueType("bool", bool)


def count_if(where: ColumnElement[bool] | None) -> ColumnElement[Any]:
    """How many edges satisfy `where`."""
    return sa.func.count() if where is None else sa.func.count().filter(where)


class CountRule:
    """The number of edges that satisfy `where`."""

    columns = (StateColumn("", INT, optional=False, initial=0),)
    slots = (Slot("delta", INT),)

    def contributions(self, where: str, value: str) -> Sequence[str]:
        return (f"(1 if {where} else 0)",)

    def assign(
        self, state: Mapping[str, ColumnElement[Any]], slots: Sequence[SlotValue]
    ) -> Mapping[str, ColumnElement[Any]]:
        return {"": plus(state[""], slots[0].amount)}

    def reread(self, where: ColumnElement[bool] | None, value: ColumnElement[Any] | None) -> Sequence[None]:
        return (None,)

    def recompute(
        self, where: ColumnElement[bool] | None, value: ColumnElement[Any] | None
    ) -> Mapping[str, ColumnElement[Any]]:
        return {"": count_if(where)}


class QuantifierRule:
    """AnyOf and EveryOf: the number of edges and of matching ones, and the verdict over both."""

    slots = (Slot("delta", INT), Slot("delta", INT))

    def __init__(self, *, every: bool) -> None:
        self._every = every
        self.columns = (
            StateColumn("", BOOL, optional=False, initial=every),
            StateColumn("__matching", INT, optional=False, initial=0),
            StateColumn("__n", INT, optional=False, initial=0),
        )

    def contributions(self, where: str, value: str) -> Sequence[str]:
        return (f"(1 if {where} and {value} else 0)", f"(1 if {where} else 0)")

    def _verdict(self, matching: ColumnElement[Any], n: ColumnElement[Any]) -> ColumnElement[Any]:
        return matching == n if self._every else matching > 0

    def assign(
        self, state: Mapping[str, ColumnElement[Any]], slots: Sequence[SlotValue]
    ) -> Mapping[str, ColumnElement[Any]]:
        matching = plus(state["__matching"], slots[0].amount)
        n = plus(state["__n"], slots[1].amount)
        return {"": self._verdict(matching, n), "__matching": matching, "__n": n}

    def reread(self, where: ColumnElement[bool] | None, value: ColumnElement[Any] | None) -> Sequence[None]:
        return (None, None)

    def recompute(
        self, where: ColumnElement[bool] | None, value: ColumnElement[Any] | None
    ) -> Mapping[str, ColumnElement[Any]]:
        assert value is not None
        matching = count_if(value if where is None else sa.and_(where, value))
        n = count_if(where)
        return {"": self._verdict(matching, n), "__matching": matching, "__n": n}
