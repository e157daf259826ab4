"""What a kind of aggregate must say to be maintained by deltas.

An aggregate keeps its *state columns* in the host's row; the first is the visible value. An edge contributes a tuple of *slot*
values. Sums of contributions (new side minus old side) reach the host as one relative UPDATE. Invariant: for every rule, the
columns after applying all deltas equal `recompute` over the host's edges.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from sqlalchemy import ColumnElement

from ensue.expression.types import ValueType

SlotKind = Literal["delta", "exact", "max", "min"]


@dataclass(frozen=True, slots=True)
class StateColumn:
    """A column that an aggregate keeps on its host. `suffix` is empty for the visible one; `initial` is its value for no edges."""

    suffix: str
    type: ValueType
    optional: bool
    initial: Any


@dataclass(frozen=True, slots=True)
class Slot:
    """One number (or candidate) that an edge contributes.

    `delta`: added to the host. `exact`: added too, but a retraction makes the host re-read it (floats: adding and then removing
    a number is not exact). `max`, `min`: a candidate; losing the extremum makes the host re-read it.
    `limit`: what the stored amount and one added can't exceed, for amounts of which the difference of two can.
    """

    kind: SlotKind
    type: ValueType
    limit: Any = None


@dataclass(frozen=True, slots=True)
class SlotValue:
    """What an UPDATE gives for a slot, as SQL: the amount or candidate, and whether it replaces the state (None: never)."""

    amount: ColumnElement[Any]
    replace: ColumnElement[Any] | None


def plus(state: ColumnElement[Any], amount: ColumnElement[Any]) -> ColumnElement[Any]:
    """Numeric addition. SQLAlchemy would read `+` on ensue's column types as concatenation, their carrier being text."""
    return state.op("+", return_type=state.type)(amount)


class Rule(Protocol):
    """One kind of aggregate, for one value type."""

    @property
    def columns(self) -> Sequence[StateColumn]: ...

    @property
    def slots(self) -> Sequence[Slot]: ...

    def contributions(self, where: str, value: str) -> Sequence[str]:
        """Python source of each slot's contribution. `where` and `value` name local variables; `where` is `"True"` if absent."""
        ...

    def assign(
        self, state: Mapping[str, ColumnElement[Any]], slots: Sequence[SlotValue]
    ) -> Mapping[str, ColumnElement[Any]]:
        """The new value of each state column (by suffix), relative to the stored ones and the slots' values."""
        ...

    def reread(
        self, where: ColumnElement[bool] | None, value: ColumnElement[Any] | None
    ) -> Sequence[ColumnElement[Any] | None]:
        """For each slot that can need it, the SQL aggregate over a host's edges that gives it anew; None for the others."""
        ...

    def recompute(
        self, where: ColumnElement[bool] | None, value: ColumnElement[Any] | None
    ) -> Mapping[str, ColumnElement[Any]]:
        """The SQL aggregate over a host's edges for each state column, null where there are no edges."""
        ...
