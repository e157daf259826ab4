"""`Count`, `Sum`, `Average`, `Min`, `Max`, `AnyOf`, `EveryOf`: one value from many records.

Decides what may be aggregated and the type of the result. How it is kept true is a rule of the plan. Invariant:
`where` and `value` of the model are rooted at the edge row, whatever way leads from it to the member that the user's
lambda speaks of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar, overload

from ensue.errors import DeclarationError
from ensue.expression.nodes import Call, Column, Node
from ensue.expression.records import LinkType
from ensue.expression.trace import Expr
from ensue.expression.types import ValueType
from ensue.schema.computations.contract import Built, Computation, Edges, Scope, agree
from ensue.schema.computations.rebase import present, rebase
from ensue.schema.entity import Entity
from ensue.schema.model import Aggregate, AggregateKind
from ensue.schema.relation import Many
from ensue.schema.written.value import BOOL, FLOAT, INT

T = TypeVar("T")
V = TypeVar("V")
E = TypeVar("E", bound=Entity)
E_co = TypeVar("E_co", bound=Entity, covariant=True)
N = TypeVar("N", int, float, Decimal)
Where: TypeAlias = Callable[[type[E]], Expr[bool]] | None
Number: TypeAlias = (
    Expr[int] | Expr[float] | Expr[Decimal] | Expr[int | None] | Expr[float | None] | Expr[Decimal | None]
)


class Source(Protocol[E_co]):
    """`lambda: Comment`. A protocol, as mypy gives up on the value's type where two parameters are Callable[…]."""

    def __call__(self) -> type[E_co]: ...


_NUMBERS = frozenset({"int", "float", "decimal"})
_ORDERED = frozenset({"int", "float", "decimal", "str", "datetime", "date"})


class AggregateComputation(Computation[T]):
    """An aggregate over a collection of the record, or in a Globals class over an entity."""

    kind: ClassVar[AggregateKind]

    def __init__(
        self, over: Any, value: Callable[..., Any] | None = None, *, where: Callable[..., Any] | None = None
    ) -> None:
        super().__init__()
        self.over = over
        self.of = value
        self.where = where

    def references(self) -> Iterable[Any]:
        return () if isinstance(self.over, Many) else (self.over,)

    def build(self, scope: Scope) -> Built:
        problems: list[DeclarationError] = []
        edges = _attempt(problems, lambda: scope.over(self.over))
        # Without edges the expressions are traced all the same: one run should tell everything that is wrong.
        member = scope.member_of(self.over) if edges is None else edges.member
        value = where = None
        if self.of is not None and member is not None:
            value = _attempt(problems, lambda: self._value(scope, member))
        if self.where is not None and member is not None:
            where = _attempt(problems, lambda: self._where(scope, member))
        if edges is None or problems:
            raise DeclarationError([problem for error in problems for problem in error.problems])
        type_, optional = self.result(value)
        type_, optional = agree(scope.declared, type_, optional=optional)
        return Built(_over_edges(self.kind, edges, where, value), type_, optional)

    def _value(self, scope: Scope, member: str) -> Node:
        assert self.of is not None
        node = scope.expression(self.of, member, f"the value of {type(self).__name__}")
        if isinstance(node, Column) and _is_link(scope, member, node):
            raise DeclarationError(
                f"the value of {type(self).__name__} is a record ({'.'.join((*node.path, node.field))}); expected a value of "
                "it, such as its `.id`."
            )
        self.result(node)
        return node

    def _where(self, scope: Scope, member: str) -> Node:
        assert self.where is not None
        return _predicate(scope.expression(self.where, member, "where="), "where=")

    def result(self, value: Node | None) -> tuple[ValueType, bool]:
        """The type of the aggregate of `value`. Raises DeclarationError if such values can't be aggregated so."""
        raise NotImplementedError


class Count(AggregateComputation[int]):
    """How many: `Count(comments)`, `Count(comments, where=lambda c: c.approved)`; in a Globals class `Count(lambda: Post)`."""

    kind = "count"

    @overload
    def __init__(self, over: Many[E], *, where: Where[E] = ...) -> None: ...
    @overload
    def __init__(self, over: Source[E], *, where: Where[E] = ...) -> None: ...
    def __init__(self, over: Any, *, where: Any = None) -> None:
        super().__init__(over, where=where)

    def result(self, value: Node | None) -> tuple[ValueType, bool]:
        return INT, False


class Sum(AggregateComputation[N]):
    """The sum of a number, 0 over nothing: `Sum(comments, lambda c: c.score, where=lambda c: c.approved)`.

    Of the number's own type. A value that may be None says what it is then: `lambda c: c.score.or_else(0)`.
    """

    kind = "sum"

    @overload
    def __init__(self, over: Many[E], value: Callable[[type[E]], Expr[N]], *, where: Where[E] = ...) -> None: ...
    @overload
    def __init__(self, over: Source[E], value: Callable[[type[E]], Expr[N]], *, where: Where[E] = ...) -> None: ...
    def __init__(self, over: Any, value: Any, *, where: Any = None) -> None:
        super().__init__(over, value, where=where)

    def result(self, value: Node | None) -> tuple[ValueType, bool]:
        value = _required(value)
        _expect(value, _NUMBERS, "Sum takes an int, float or Decimal")
        if value.optional:
            raise DeclarationError("Sum takes no value that can be None. Write `.or_else(0)` after it.")
        return value.type, False


class Average(AggregateComputation[float | None]):
    """The mean of a number as a float, None over nothing; values that are None don't count.

    `mean_score = Average(comments, lambda c: c.score, where=lambda c: c.approved)`
    """

    kind = "average"

    @overload
    def __init__(self, over: Many[E], value: Callable[[type[E]], Number], *, where: Where[E] = ...) -> None: ...
    @overload
    def __init__(self, over: Source[E], value: Callable[[type[E]], Number], *, where: Where[E] = ...) -> None: ...
    def __init__(self, over: Any, value: Any, *, where: Any = None) -> None:
        super().__init__(over, value, where=where)

    def result(self, value: Node | None) -> tuple[ValueType, bool]:
        _expect(_required(value), _NUMBERS, "Average takes an int, float or Decimal")
        return FLOAT, True


class Extremum(AggregateComputation[V | None]):
    """`Min` or `Max`."""

    @overload
    def __init__(self, over: Many[E], value: Callable[[type[E]], Expr[V]], *, where: Where[E] = ...) -> None: ...
    @overload
    def __init__(self, over: Source[E], value: Callable[[type[E]], Expr[V]], *, where: Where[E] = ...) -> None: ...
    def __init__(self, over: Any, value: Any, *, where: Any = None) -> None:
        super().__init__(over, value, where=where)

    def result(self, value: Node | None) -> tuple[ValueType, bool]:
        value = _required(value)
        _expect(
            value, _ORDERED, f"{type(self).__name__} takes a value that has an order: a number, str, datetime or date"
        )
        return value.type, True


class Min(Extremum[V]):
    """The smallest number, text or instant, None over nothing; values that are None don't count.

    `first_at = Min(comments, lambda c: c.at)`
    """

    kind = "min"


class Max(Extremum[V]):
    """The largest number, text or instant, None over nothing; values that are None don't count.

    `best = Max(comments, lambda c: c.score, where=lambda c: c.approved)`
    """

    kind = "max"


class Quantifier(AggregateComputation[bool]):
    """`AnyOf` or `EveryOf`."""

    @overload
    def __init__(self, over: Many[E], match: Callable[[type[E]], Expr[bool]]) -> None: ...
    @overload
    def __init__(self, over: Source[E], match: Callable[[type[E]], Expr[bool]]) -> None: ...
    def __init__(self, over: Any, match: Any) -> None:
        super().__init__(over, match)

    def result(self, value: Node | None) -> tuple[ValueType, bool]:
        _predicate(_required(value), f"the condition of {type(self).__name__}")
        return BOOL, False


class AnyOf(Quantifier):
    """Whether one satisfies a condition; false over nothing: `flagged = AnyOf(comments, lambda c: c.flagged)`."""

    kind = "any"


class EveryOf(Quantifier):
    """Whether all satisfy a condition; true over nothing, and a null counts as false.

    `clean = EveryOf(comments, lambda c: ~c.flagged)`
    """

    kind = "every"


def _is_link(scope: Scope, record: str, column: Column) -> bool:
    """Whether the column holds the id of another record."""
    for step in column.path:
        link = scope.types.member(record, step)
        if not isinstance(link, LinkType):
            return False
        record = link.target
    return isinstance(scope.types.member(record, column.field), LinkType)


def _attempt(problems: list[DeclarationError], make: Callable[[], V]) -> V | None:
    """What `make` gives; None if it raised, and then its error is among `problems`."""
    try:
        return make()
    except DeclarationError as error:
        problems.append(error)
        return None


def _over_edges(kind: AggregateKind, edges: Edges, where: Node | None, value: Node | None) -> Aggregate:
    where = None if where is None else rebase(where, edges)
    value = None if value is None else rebase(value, edges)
    if edges.partial:
        there = present(edges)
        where = there if where is None else Call("and", (there, where), BOOL, optional=False)
    return Aggregate(kind, edges.edge, edges.host_path, edges.hops, where, value)


def _required(value: Node | None) -> Node:
    if value is None:
        raise DeclarationError("the value is missing. Give it as the second argument: `lambda c: c.score`.")
    return value


def _expect(value: Node, bases: frozenset[str], message: str) -> None:
    if value.type.base not in bases:
        raise DeclarationError(f"{message}; the expression gives {value.type}.")


def _predicate(node: Node, what: str) -> Node:
    if node.type.base != "bool":
        raise DeclarationError(f"{what} must be a condition (bool); the expression gives {node.type}.")
    return node
