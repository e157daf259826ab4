"""Sum and Average. Over int and Decimal by pure deltas; over float a retraction re-reads the host, so that nothing drifts."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement

from ensue.expression.types import ValueType
from ensue.plan.rules.counting import INT, count_if
from ensue.plan.rules.rule import Slot, SlotValue, StateColumn, plus
from ensue.plan.values import INT_MAX
from ensue.store.driver import Dialect

FLOAT = ValueType("float", float)
DOUBLE: sa.Double[float] = sa.Double()


def _sum_slot(value_type: ValueType) -> Slot:
    if value_type.kind == "float":
        return Slot("exact", value_type)
    limit = INT_MAX if value_type.kind == "int" else Decimal(INT_MAX).scaleb(-(value_type.scale or 0))
    return Slot("delta", value_type, limit)


def _add(state: ColumnElement[Any], slot: SlotValue, *, fitted: bool) -> ColumnElement[Any]:
    added = plus(state, slot.amount)
    if fitted:
        added = sa.func.ensue_float_fit(added, type_=state.type)
    return added if slot.replace is None else sa.case((slot.replace == 1, slot.amount), else_=added)


def _unguarded(value_type: ValueType, dialect: Dialect) -> bool:
    """Whether the database adds two floats to infinity without a word."""
    return dialect == "sqlite" and value_type.kind == "float"


def _sum_of(where: ColumnElement[bool] | None, value: ColumnElement[Any]) -> ColumnElement[Any]:
    total = sa.func.sum(value, type_=value.type)
    return total if where is None else total.filter(where)


class SumRule:
    """The sum of a value over the edges that satisfy `where`; 0 for none; nulls add nothing."""

    def __init__(self, value_type: ValueType, dialect: Dialect) -> None:
        self._fitted = _unguarded(value_type, dialect)
        self._zero: Any = value_type.python(0)
        self.columns = (StateColumn("", value_type, optional=False, initial=self._zero),)
        self.slots = (_sum_slot(value_type),)

    def contributions(self, where: str, value: str) -> Sequence[str]:
        return (f"({value} if {where} and {value} is not None else 0)",)

    def assign(
        self, state: Mapping[str, ColumnElement[Any]], slots: Sequence[SlotValue]
    ) -> Mapping[str, ColumnElement[Any]]:
        return {"": _add(state[""], slots[0], fitted=self._fitted)}

    def reread(
        self, where: ColumnElement[bool] | None, value: ColumnElement[Any] | None
    ) -> Sequence[ColumnElement[Any] | None]:
        assert value is not None
        return (
            sa.func.coalesce(_sum_of(where, value), sa.literal_column("0.0", DOUBLE))
            if self.slots[0].kind == "exact"
            else None,
        )

    def recompute(
        self, where: ColumnElement[bool] | None, value: ColumnElement[Any] | None
    ) -> Mapping[str, ColumnElement[Any]]:
        assert value is not None
        return {"": _sum_of(where, value)}


class AverageRule:
    """The mean of a value over the edges that satisfy `where` and have one; None for none. Kept as sum and count."""

    def __init__(self, value_type: ValueType, dialect: Dialect) -> None:
        scaled = value_type.kind == "decimal" and dialect == "sqlite"
        self._fitted = _unguarded(value_type, dialect)
        self._divisor = 10.0 ** (value_type.scale or 0) if scaled else 1.0
        self.columns = (
            StateColumn("", FLOAT, optional=True, initial=None),
            StateColumn("__sum", value_type, optional=False, initial=value_type.python(0)),
            StateColumn("__n", INT, optional=False, initial=0),
        )
        self.slots = (_sum_slot(value_type), Slot("delta", INT))

    def contributions(self, where: str, value: str) -> Sequence[str]:
        counted = f"{where} and {value} is not None"
        return (f"({value} if {counted} else 0)", f"(1 if {counted} else 0)")

    def _mean(self, total: ColumnElement[Any], n: ColumnElement[Any]) -> ColumnElement[Any]:
        divisor = sa.cast(n, DOUBLE) * sa.literal_column(repr(self._divisor), DOUBLE)
        return sa.cast(total, DOUBLE) / sa.func.nullif(divisor, sa.literal_column("0.0", DOUBLE))

    def assign(
        self, state: Mapping[str, ColumnElement[Any]], slots: Sequence[SlotValue]
    ) -> Mapping[str, ColumnElement[Any]]:
        total = _add(state["__sum"], slots[0], fitted=self._fitted)
        n = plus(state["__n"], slots[1].amount)
        return {"": self._mean(total, n), "__sum": total, "__n": n}

    def reread(
        self, where: ColumnElement[bool] | None, value: ColumnElement[Any] | None
    ) -> Sequence[ColumnElement[Any] | None]:
        assert value is not None
        exact = self.slots[0].kind == "exact"
        return (sa.func.coalesce(_sum_of(where, value), sa.literal_column("0.0", DOUBLE)) if exact else None, None)

    def recompute(
        self, where: ColumnElement[bool] | None, value: ColumnElement[Any] | None
    ) -> Mapping[str, ColumnElement[Any]]:
        assert value is not None
        present = value.is_not(None)
        total = _sum_of(where, value)
        n = count_if(present if where is None else sa.and_(where, present))
        return {"": self._mean(total, n), "__sum": total, "__n": n}
