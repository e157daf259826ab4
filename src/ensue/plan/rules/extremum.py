"""Min and Max. A better candidate is taken in place; when the extremum may be gone, the host re-reads its edges."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import ColumnElement

from ensue.expression.types import ValueType
from ensue.plan.rules.rule import Slot, SlotValue, StateColumn


class ExtremumRule:
    """The largest (or smallest) value over the edges that satisfy `where`; None for none; nulls don't take part."""

    def __init__(self, kind: Literal["max", "min"], value_type: ValueType) -> None:
        self._kind = kind
        self.columns = (StateColumn("", value_type, optional=True, initial=None),)
        self.slots = (Slot(kind, value_type),)

    def contributions(self, where: str, value: str) -> Sequence[str]:
        return (f"({value} if {where} else None)",)

    def assign(
        self, state: Mapping[str, ColumnElement[Any]], slots: Sequence[SlotValue]
    ) -> Mapping[str, ColumnElement[Any]]:
        best, candidate, replace = state[""], slots[0].amount, slots[0].replace
        assert replace is not None
        better = candidate > best if self._kind == "max" else candidate < best
        return {
            "": sa.case(
                (replace == 1, candidate),
                (candidate.is_(None), best),
                (sa.or_(best.is_(None), better), candidate),
                else_=best,
            )
        }

    def _extremum(self, where: ColumnElement[bool] | None, value: ColumnElement[Any]) -> ColumnElement[Any]:
        function = sa.func.max if self._kind == "max" else sa.func.min
        extremum = function(value, type_=value.type)
        return extremum if where is None else extremum.filter(where)

    def reread(
        self, where: ColumnElement[bool] | None, value: ColumnElement[Any] | None
    ) -> Sequence[ColumnElement[Any]]:
        assert value is not None
        return (self._extremum(where, value),)

    def recompute(
        self, where: ColumnElement[bool] | None, value: ColumnElement[Any] | None
    ) -> Mapping[str, ColumnElement[Any]]:
        assert value is not None
        return {"": self._extremum(where, value)}
