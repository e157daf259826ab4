"""What an expression and an aggregate mean, said as plainly as Python allows.

Decides the value of a node for one row, and of an aggregate for the contributions of its edges, from the table of
semantics alone. Leaves to `slow_derive` where rows come from. Invariant: no code is shared with the engine's
evaluators, so an error there is not repeated here.
"""

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from enum import Enum
from typing import Any, Protocol

from ensue.errors import InternalError
from ensue.expression.nodes import Call, Children, Column, Constant, Exists, Hop, Node
from ensue.expression.types import ValueType
from ensue.schema.model import AggregateKind

RELATIVE_TOLERANCE = 1e-9
Place = tuple[str, int]
"""A row: its record type and its id."""


class Rows(Protocol):
    """What the interpreter asks about rows."""

    def member(self, record: str, row: int, name: str) -> Any:
        """The value of a field, or the id that a to-one link holds, or None."""
        ...

    def target(self, record: str, link: str) -> str:
        """The record type that the link leads to."""
        ...

    def children(self, record: str, link: str, row: int) -> Sequence[int]:
        """The rows of `record` whose `link` holds `row`."""
        ...


def plain(value: Any) -> Any:
    """An Enum member as its value, anything else as it is: how values are kept and compared here."""
    return value.value if isinstance(value, Enum) else value


def follow(rows: Rows, place: Place, path: Iterable[str]) -> Place | None:
    """The row at the end of a path of to-one links, or None where a link on the way is empty."""
    record, row = place
    for link in path:
        linked = rows.member(record, row, link)
        if linked is None:
            return None
        record, row = rows.target(record, link), linked
    return record, row


def evaluate(node: Node, rows: Rows, *places: Place) -> Any:
    """The value of `node`; `places` are its roots, the innermost first."""
    match node:
        case Constant():
            return plain(node.value)
        case Column():
            end = follow(rows, places[node.depth], node.path)
            return None if end is None else end[1] if node.field == "id" else rows.member(*end, node.field)
        case Call():
            return fitted(_call(node, rows, places), node.type)
        case Exists():
            reached = _reached(rows, [places[node.depth]], node.hops)
            condition = node.condition
            return any(condition is None or evaluate(condition, rows, place, *places) is True for place in reached)
        case _:
            raise InternalError(
                f"The slow model met {node!r}. A declaration holds columns, constants and operators only."
            )


def _reached(rows: Rows, places: Iterable[Place], hops: Sequence[Hop]) -> list[Place]:
    found = list(places)
    for hop in hops:
        if isinstance(hop, Children):
            found = [(hop.record, child) for _, row in found for child in rows.children(hop.record, hop.link, row)]
        else:
            ends = [follow(rows, place, (hop.link,)) for place in found]
            found = [end for end in ends if end is not None]
    return found


def fitted(value: Any, type_: ValueType) -> Any:
    """`value` in the form that its type has: a decimal rounded half-even to its scale, a float as float."""
    if value is None:
        return None
    if type_.kind == "decimal" and type_.scale is not None:
        return Decimal(value).quantize(Decimal(1).scaleb(-type_.scale), rounding=ROUND_HALF_EVEN)
    return float(value) if type_.kind == "float" else value


# --- Operators --------------------------------------------------------------------------------------------------------


def _call(node: Call, rows: Rows, places: tuple[Place, ...]) -> Any:
    given = [evaluate(argument, rows, *places) for argument in node.args]
    if node.op == "or_else":
        return given[1] if given[0] is None else given[0]
    if node.op == "in":
        return given[0] is not None and given[0] in [plain(choice) for choice in given[1]]
    if node.op in _PREDICATES_OF_ONE:
        return _PREDICATES_OF_ONE[node.op](given[0])
    if node.op in _PREDICATES_OF_TWO:
        return _PREDICATES_OF_TWO[node.op](given[0], given[1])
    if any(argument is None for argument in given):
        return None
    if any(isinstance(argument, float) for argument in given):
        given = [float(argument) if isinstance(argument, Decimal) else argument for argument in given]
    return _OF_ONE[node.op](given[0]) if len(given) == 1 else _OF_TWO[node.op](given[0], given[1])


One = Callable[[Any], Any]
Two = Callable[[Any, Any], Any]


def _known(compare: Two) -> Two:
    """A comparison that is false where either side is null."""
    return lambda left, right: left is not None and right is not None and compare(left, right)


_PREDICATES_OF_ONE: Mapping[str, One] = {
    # The value in another type, which `fitted` gives every result.
    "cast": lambda value: value,
    "not": lambda value: value is not True,
    "is_null": lambda value: value is None,
}

_PREDICATES_OF_TWO: Mapping[str, Two] = {
    "eq": _known(operator.eq),
    # A null equals nothing, not even a null; `!=` is the complement.
    "ne": lambda left, right: left is None or right is None or left != right,
    "lt": _known(operator.lt),
    "le": _known(operator.le),
    "gt": _known(operator.gt),
    "ge": _known(operator.ge),
    "and": lambda left, right: left is True and right is True,
    "or": lambda left, right: left is True or right is True,
}

_OF_ONE: Mapping[str, One] = {
    # The value in another type, which `fitted` gives every result.
    "cast": lambda value: value,
    "neg": operator.neg,
    "upper": str.upper,
    "lower": str.lower,
}

_OF_TWO: Mapping[str, Two] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": lambda left, right: None if right == 0 else left / right,
    "concat": operator.add,
    "shift": lambda instant, micros: instant + timedelta(microseconds=micros),
}


# --- Aggregates -------------------------------------------------------------------------------------------------------


def aggregate(kind: AggregateKind, values: Sequence[Any], type_: ValueType) -> Any:
    """The aggregate of the values that the matching edges of one host contribute (for a count their number is all)."""
    if kind == "count":
        return len(values)
    if kind == "any":
        return any(value is True for value in values)
    if kind == "every":
        return all(value is True for value in values)
    known = [value for value in values if value is not None]
    if kind == "sum":
        return fitted(sum(known, start=0), type_)
    if not known:
        return None
    if kind == "average":
        return fitted(sum(known) / len(known), type_)
    return min(known) if kind == "min" else max(known)


def agree(left: Any, right: Any) -> bool:
    """Whether two values are the same; floats within a relative tolerance of 1e-9, as sums of them depend on order."""
    left, right = plain(left), plain(right)
    if isinstance(left, bool) or isinstance(right, bool) or left is None or right is None:
        return left is right
    if isinstance(left, float) or isinstance(right, float):
        return math.isclose(left, right, rel_tol=RELATIVE_TOLERANCE, abs_tol=RELATIVE_TOLERANCE)
    return left == right
