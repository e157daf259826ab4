"""What a user writes, recorded as it is written: `Post.author.name == "bob"` becomes a small tree.

A trace knows no schema: a path is a root and a list of names, and whether they exist is found out when a plan resolves
it. So one class can serve several apps, each with its own injected properties. Invariant: building a trace never
evaluates anything.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Generic, Never, TypeVar, cast, overload

from ensue.errors import ExpressionError

T = TypeVar("T")
V = TypeVar("V")
N = TypeVar("N", int, float, Decimal)

_tokens = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Root:
    """Where a path starts: a record type by name, or (with a `token`) the parameter of one traced lambda."""

    record: str | None
    token: int = 0

    @staticmethod
    def parameter(record: str | None = None) -> Root:
        """A fresh root for the parameter of a lambda; distinct from every other."""
        return Root(record, next(_tokens))


class Expr(Generic[T]):
    """An expression of type T. Operators build bigger ones; nothing is computed.

    Booleans combine with `&`, `|`, `~`; membership is `.in_()`. A comparison with null is false and `~` is the
    complement.
    """

    __slots__ = ()

    def __eq__(self, other: T | Expr[T] | Expr[T | None] | None) -> Expr[bool]:  # type: ignore[override]  # builds an expression
        return Operation("is_null", (self,)) if other is None else Operation("eq", (self, operand(other)))

    def __ne__(self, other: T | Expr[T] | Expr[T | None] | None) -> Expr[bool]:  # type: ignore[override]  # builds an expression
        return ~Operation("is_null", (self,)) if other is None else Operation("ne", (self, operand(other)))

    def __hash__(self) -> int:
        return object.__hash__(self)

    def __bool__(self) -> Never:
        raise ExpressionError(
            "An expression has no truth value in Python: `and`, `or`, `not`, `if`, `in` and chained comparisons don't "
            "work on it. Write `&` for and, `|` for or, `~` for not (with parentheses around comparisons), and "
            "`.in_(values)` for in."
        )

    def __contains__(self, item: object) -> Never:
        raise ExpressionError("`in` does not work on an expression. Write `expression.in_(values)`.")

    def __iter__(self) -> Never:
        raise ExpressionError("An expression can't be iterated over. For membership write `expression.in_(values)`.")

    @overload
    def __lt__(self: Expr[int], other: float | Expr[float]) -> Expr[bool]: ...
    @overload
    def __lt__(self, other: T | Expr[T] | Expr[T | None]) -> Expr[bool]: ...
    def __lt__(self, other: Any) -> Expr[bool]:
        return Operation("lt", (self, operand(other)))

    @overload
    def __le__(self: Expr[int], other: float | Expr[float]) -> Expr[bool]: ...
    @overload
    def __le__(self, other: T | Expr[T] | Expr[T | None]) -> Expr[bool]: ...
    def __le__(self, other: Any) -> Expr[bool]:
        return Operation("le", (self, operand(other)))

    @overload
    def __gt__(self: Expr[int], other: float | Expr[float]) -> Expr[bool]: ...
    @overload
    def __gt__(self, other: T | Expr[T] | Expr[T | None]) -> Expr[bool]: ...
    def __gt__(self, other: Any) -> Expr[bool]:
        return Operation("gt", (self, operand(other)))

    @overload
    def __ge__(self: Expr[int], other: float | Expr[float]) -> Expr[bool]: ...
    @overload
    def __ge__(self, other: T | Expr[T] | Expr[T | None]) -> Expr[bool]: ...
    def __ge__(self, other: Any) -> Expr[bool]:
        return Operation("ge", (self, operand(other)))

    @overload
    def __add__(self: Expr[datetime], other: timedelta) -> Expr[datetime]: ...
    @overload
    def __add__(self, other: T | Expr[T]) -> Expr[T]: ...
    def __add__(self, other: Any) -> Expr[Any]:
        return Operation("add", (self, operand(other)))

    @overload
    def __sub__(self: Expr[datetime], other: timedelta) -> Expr[datetime]: ...
    @overload
    def __sub__(self, other: T | Expr[T]) -> Expr[T]: ...
    def __sub__(self, other: Any) -> Expr[Any]:
        return Operation("sub", (self, operand(other)))

    def __mul__(self, other: T | Expr[T]) -> Expr[T]:
        return Operation("mul", (self, operand(other)))

    def __truediv__(self, other: float | Expr[Any]) -> Expr[float]:
        return Operation("div", (self, operand(other)))

    def __radd__(self, other: T) -> Expr[T]:
        return Operation("add", (operand(other), self))

    def __rsub__(self, other: T) -> Expr[T]:
        return Operation("sub", (operand(other), self))

    def __rmul__(self, other: T) -> Expr[T]:
        return Operation("mul", (operand(other), self))

    def __rtruediv__(self, other: float) -> Expr[float]:
        return Operation("div", (operand(other), self))

    def __neg__(self) -> Expr[T]:
        return Operation("neg", (self,))

    def __and__(self: Expr[bool], other: Expr[bool]) -> Expr[bool]:
        return Operation("and", (self, operand(other)))

    def __or__(self: Expr[bool], other: Expr[bool]) -> Expr[bool]:
        return Operation("or", (self, operand(other)))

    def __invert__(self: Expr[bool]) -> Expr[bool]:
        return Operation("not", (self,))

    def in_(self, values: Iterable[T]) -> Expr[bool]:
        """Whether the value is one of `values` (a null never is)."""
        if isinstance(values, str | bytes):
            raise ExpressionError(
                f"{self!r}.in_({values!r}) was given one text, whose characters nobody means. "
                f"Write .in_([{values!r}]), or == {values!r}."
            )
        if not isinstance(cast("Any", values), Iterable):
            raise ExpressionError(f"{self!r}.in_({values!r}) was given no list. Write .in_([…]), or == for one value.")
        return Operation("in", (self, Literal(tuple(values))))

    def is_null(self) -> Expr[bool]:
        """Whether there is no value."""
        return Operation("is_null", (self,))

    def or_else(self: Expr[V | None], value: V) -> Expr[V]:
        """The value, or `value` where there is none."""
        return Operation("or_else", (self, operand(value)))

    def upper(self: Expr[str]) -> Expr[str]:
        """The text in upper case, as Python's `str.upper`."""
        return Operation("upper", (self,))

    def lower(self: Expr[str]) -> Expr[str]:
        """The text in lower case, as Python's `str.lower`."""
        return Operation("lower", (self,))

    def desc(self) -> Order:
        """Order by this, largest first; nulls last."""
        return Order(self, descending=True)

    def asc(self) -> Order:
        """Order by this, smallest first; nulls last."""
        return Order(self, descending=False)


class Literal(Expr[Any]):
    """A plain Python value in an expression: a scalar, a record (then its id is meant), or for `in` a tuple of them."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __repr__(self) -> str:
        if hasattr(type(self.value), "__ensue_id__"):
            return f"{type(self.value).__name__}.ref({getattr(self.value, 'id', None)})"
        return repr(self.value)


class Operation(Expr[Any]):
    """An operator and its operands. `op` is one of `nodes.Operator` or `"now"`."""

    __slots__ = ("args", "op")

    def __init__(self, op: str, args: tuple[Expr[Any], ...]) -> None:
        self.op = op
        self.args = args

    def __repr__(self) -> str:
        first, *rest = [f"({item!r})" if _binds_less(item) else repr(item) for item in self.args] or ["now"]
        if self.op in _INFIX:
            return f"{first} {_INFIX[self.op]} {rest[0]}"
        if self.op in _PREFIX:
            return f"{_PREFIX[self.op]}{first}"
        if self.op == "in":
            values = cast("tuple[object, ...]", cast("Literal", self.args[1]).value)
            return f"{first}.in_({list(values)!r})"
        return first if self.op == "now" else f"{first}.{self.op}({', '.join(rest)})"


_INFIX = dict(
    eq="==", ne="!=", lt="<", le="<=", gt=">", ge=">=", add="+", sub="-", mul="*", div="/", **{"and": "&", "or": "|"}
)
_PREFIX = {"not": "~", "neg": "-"}


def _binds_less(item: Expr[Any]) -> bool:
    return isinstance(item, Operation) and (item.op in _INFIX or item.op in _PREFIX)


class Path(Expr[Any]):
    """Names followed from a root: `Post.author.name` is `Path(Root("Post"), ("author", "name"))`.

    Attribute access goes one step further. Whether it ends at a property, a to-one link or a collection is not known
    here.
    """

    __slots__ = ("root", "steps")

    def __init__(self, root: Root, steps: tuple[str, ...] = ()) -> None:
        self.root = root
        self.steps = steps

    def __getattr__(self, name: str) -> Path:
        if name.startswith("__"):
            raise AttributeError(name)
        return Path(self.root, (*self.steps, name))

    def __repr__(self) -> str:
        return ".".join((self.root.record or "_", *self.steps))

    def any(self, where: Callable[[Any], Expr[bool]] | None = None) -> Expr[bool]:
        """Whether the collection at this path has a member that satisfies `where`."""
        root = Root.parameter()
        condition = None if where is None else operand(where(Path(root)))
        return Quantified(self, root, condition)

    def fields(
        self,
        *fields: Any,
        where: Expr[bool] | None = None,
        order_by: Sequence[Expr[Any] | Order] = (),
        limit: int | None = None,
    ) -> Shape:
        """A nested selection of what this path leads to; `where`, `order_by` and `limit` apply per parent."""
        return Shape(self, fields, where=where, order_by=terms(order_by), limit=limit)


class Quantified(Expr[Any]):
    """`collection.any(condition)`; `root` is the condition's own root."""

    __slots__ = ("collection", "condition", "root")

    def __init__(self, collection: Path, root: Root, condition: Expr[Any] | None) -> None:
        self.collection = collection
        self.root = root
        self.condition = condition

    def __repr__(self) -> str:
        return f"{self.collection!r}.any({'' if self.condition is None else self.condition!r})"


@dataclass(frozen=True, slots=True)
class Order:
    """One term of an `order_by`."""

    value: Expr[Any]
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """A nested selection: `Post.comments.fields(Comment.text, order_by=[Comment.at.desc()], limit=3)`.

    `path` is None for the root record's own (`Post.fields(...)`).
    """

    path: Path | None
    fields: tuple[Any, ...]
    where: Expr[bool] | None = None
    order_by: tuple[Expr[Any] | Order, ...] = ()
    limit: int | None = None


now: Final[Expr[datetime]] = Operation("now", ())
"""The instant of the current transaction. As a default: `at: Property[datetime] = Property(default=now)`."""


def operand(value: object) -> Expr[Any]:
    """The expression itself, or a plain value as one."""
    return cast("Expr[Any]", value) if isinstance(value, Expr) else Literal(value)


def terms(order_by: Sequence[Any]) -> tuple[Any, ...]:
    """The terms of an `order_by=`, which are a list also where there is one."""
    given: Any = order_by
    if isinstance(given, str | Expr | Order):
        shown = cast("Any", given.value if isinstance(given, Order) else given)
        raise ExpressionError(f"`order_by` got {shown!r}; expected a list, such as `order_by=[Post.at.desc()]`.")
    return tuple(order_by)


def match(path: str, operator: str, value: object) -> Expr[bool]:
    """A condition by name, for generic code: `match("source.id", "=", 7)`.

    `operator` is one of `=`, `!=`, `<`, `<=`, `>`, `>=`, `in`, `is null`, `is not null`.
    """
    if not isinstance(cast("Any", path), str):
        raise ExpressionError(f'match() got the path {path!r}; expected names, such as "author.name".')
    subject = Path(Root(None), tuple(path.split(".")))
    build = _MATCHES.get(operator.lower()) if isinstance(cast("Any", operator), str) else None
    if build is None:
        raise ExpressionError(f"match() got the operator {operator!r}; expected one of {', '.join(_MATCHES)}.")
    return build(subject, value)


_MATCHES: dict[str, Callable[[Expr[Any], Any], Expr[bool]]] = {
    "=": lambda subject, value: subject == value,
    "!=": lambda subject, value: subject != value,
    "<": lambda subject, value: subject < value,
    "<=": lambda subject, value: subject <= value,
    ">": lambda subject, value: subject > value,
    ">=": lambda subject, value: subject >= value,
    "in": lambda subject, value: subject.in_(value),
    "is null": lambda subject, _: subject.is_null(),
    "is not null": lambda subject, _: ~subject.is_null(),
}


def total(value: Expr[N]) -> Expr[N]:
    """The sum of a value in `store.select(...)`; planned."""
    return cast("Expr[N]", Operation("total", (value,)))
