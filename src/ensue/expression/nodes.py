"""The typed form of an expression: what `resolve` produces and every evaluator consumes.

A node knows its type and whether it can be null, holds no schema objects, and compares by value, so it can be a cache
key and be printed in a golden file. Invariant: nodes are immutable and free of Python callables.

Roots: a node is evaluated against a row of one record type, the root. Inside `Exists` the innermost root has `depth` 0
and each enclosing one is one deeper.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from ensue.expression.types import ValueType

Operator = Literal[
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "and",
    "or",
    "not",
    "in",
    "is_null",
    "or_else",
    "add",
    "sub",
    "mul",
    "div",
    "neg",
    "concat",
    "upper",
    "lower",
    "shift",  # datetime plus or minus a timedelta, held as a constant number of microseconds
    "cast",  # int to float or decimal, decimal to float or to another scale; only `resolve` writes it
]


@dataclass(frozen=True, slots=True)
class Column:
    """A stored column of the root record, or of the record at the end of a path of to-one links.

    `field` is a property name, a to-one link's name (then the value is the linked record's id), or `"id"`.
    """

    path: tuple[str, ...]
    field: str
    type: ValueType
    optional: bool
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Constant:
    """A value known when the plan is made. `None` is written as `is_null`, never as a constant."""

    value: Any
    type: ValueType
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Parameter:
    """A value given at each execution, by position: what a query's literals become so that its statement can be cached.

    For `in` the value is a list.
    """

    index: int
    type: ValueType
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """An operator of the semantics table applied to its arguments."""

    op: Operator
    args: "tuple[Node, ...]"
    type: ValueType
    optional: bool


@dataclass(frozen=True, slots=True)
class Children:
    """Go to the rows of `record` whose to-one link `link` points at the row we are at."""

    record: str
    link: str


@dataclass(frozen=True, slots=True)
class Follow:
    """Go to the one row that the link `link` of the row we are at points at; `record` is its type."""

    link: str
    record: str


Hop = Children | Follow


@dataclass(frozen=True, slots=True)
class Exists:
    """Whether a row reached by `hops` from the root at `depth` satisfies `condition` (whose own root is that row)."""

    hops: tuple[Hop, ...]
    condition: "Node | None"
    type: ValueType
    depth: int = 0
    optional: bool = False


Node = Column | Constant | Parameter | Call | Exists


_TWO_VALUED: frozenset[Operator] = frozenset({"eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "in", "is_null"})


def with_arguments(call: Call, args: tuple[Node, ...]) -> Call:
    """The call on other arguments of the same types: if these may be null where the old ones could not, so may its value."""
    nulls = [argument.optional for argument in args]
    if call.op in _TWO_VALUED:
        optional = False
    elif call.op == "or_else":
        optional = all(nulls)
    else:
        optional = call.op == "div" or any(nulls)
    return replace(call, args=args, optional=optional)


def walk(node: Node) -> Iterator[Node]:
    """The node and all below it, parents first."""
    yield node
    if isinstance(node, Call):
        for argument in node.args:
            yield from walk(argument)
    elif isinstance(node, Exists) and node.condition is not None:
        yield from walk(node.condition)


def columns(node: Node) -> tuple[Column, ...]:
    """Every column that the node reads, in order of first appearance, without repeats."""
    return tuple(dict.fromkeys(item for item in walk(node) if isinstance(item, Column)))
