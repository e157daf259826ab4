"""`Property`: a stored value of a record.

Decides what can be said about a column that is given. Its type is in the annotation and is resolved when the schema is
frozen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar, cast, overload

from ensue.expression.trace import Expr
from ensue.schema.member import Member, RecordsAreSnapshots
from ensue.schema.record import Record, not_loaded, record_values

T = TypeVar("T")


class Missing:
    """The mark of an argument that was not given."""


MISSING: Final = Missing()


class Property(Member, Expr[T]):
    """A stored value: `title: Property[str]`, `score: Property[int] = Property(default=0)`.

    `default` is a value, a zero-argument callable, or `now`; with one, the value may be left out. Optional is said by
    the annotation: `Property[str | None]`. `unique` and `index` are of this column alone. `check` gives a condition on
    the value: `Property(check=lambda v: v >= 0)`. `scale` is the number of decimals, and is required for Decimal.
    """

    @overload
    def __init__(
        self,
        *,
        default: T | Callable[[], T] | Expr[T],
        unique: bool = ...,
        index: bool = ...,
        check: Callable[[Expr[T]], Expr[bool]] | None = ...,
        scale: int | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self,
        *,
        unique: bool = ...,
        index: bool = ...,
        check: Callable[[Expr[Any]], Expr[bool]] | None = ...,
        scale: int | None = ...,
    ) -> None: ...
    def __init__(
        self,
        *,
        default: Any = MISSING,
        unique: bool = False,
        index: bool = False,
        check: Callable[[Expr[Any]], Expr[bool]] | None = None,
        scale: int | None = None,
    ) -> None:
        super().__init__()
        self.default: Any = default
        self.unique = unique
        self.index = index
        self.check = check
        self.scale = scale

    @overload
    def __get__(self, obj: None, owner: type[Any]) -> Property[T]: ...
    @overload
    def __get__(self, obj: object, owner: type[Any]) -> T: ...
    def __get__(self, obj: object, owner: type[Any]) -> Property[T] | T:
        if obj is None:
            return cast("Property[T]", self.path(owner))
        record = cast("Record", obj)
        try:
            return cast("T", record_values(record)[self.name])
        except KeyError:
            raise not_loaded(record, self.name) from None

    def __set__(self, obj: RecordsAreSnapshots, value: T) -> None:
        raise AttributeError(f"{self.name} can't be assigned: records are snapshots.")


class PayloadField(Property[Any]):
    """A plain annotation of an interaction: `text: str`. Any type that can be validated."""
