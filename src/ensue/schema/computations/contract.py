"""What a computation is to the schema, and what the schema offers it when it is built.

Decides the one interface between the kinds and `freeze`. Invariant: `build` reads declarations through its `Scope`
only, so that the same computation object can serve several apps.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Never, Protocol, TypeVar, cast, overload

from ensue.errors import DeclarationError
from ensue.expression.nodes import Hop, Node
from ensue.expression.records import RecordTypes
from ensue.expression.trace import Expr
from ensue.expression.types import ValueType
from ensue.schema.member import Member
from ensue.schema.model import NO_DEFAULT
from ensue.schema.model import Computation as ComputationModel
from ensue.schema.record import Record
from ensue.schema.written.value import value_type, without_none

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Edges:
    """What an aggregate runs over: rows of `edge`, their host at `host_path`, the member they stand for at `prefix`.

    `partial` is true if a link of `prefix` may be None: then the edge counts only where there is a member.
    """

    edge: str
    host_path: tuple[str, ...]
    hops: tuple[Hop, ...]
    prefix: tuple[str, ...]
    partial: bool
    member: str


@dataclass(frozen=True, slots=True)
class Declared:
    """The type a derived property was declared with: of the property it replaces, or the `str` of `Computed[str]`."""

    type: ValueType
    optional: bool
    default: Any = NO_DEFAULT


@dataclass(frozen=True, slots=True)
class Built:
    """A computation in the model, with the type of its value.

    `default` is the initial value where it doesn't follow.
    """

    computation: ComputationModel
    type: ValueType
    optional: bool
    default: Any = NO_DEFAULT


class Scope(Protocol):
    """What a computation may ask while it is built; every method raises DeclarationError with what is wrong."""

    @property
    def host(self) -> str:
        """The name of the record type that has the computation."""
        ...

    @property
    def name(self) -> str:
        """The name of the property."""
        ...

    @property
    def is_global(self) -> bool:
        """Whether the host is a Globals class."""
        ...

    @property
    def types(self) -> RecordTypes: ...

    @property
    def declared(self) -> Declared | None: ...

    def over(self, source: Any) -> Edges:
        """The edges of a collection, or in a Globals class of an entity."""
        ...

    def member_of(self, source: Any) -> str | None:
        """The record type at the end of what `over` refused; None if that is not known either."""
        ...

    def record(self, reference: Any) -> str:
        """The name of the record type that a class, a name, a lambda or `Post.tags.relation` stands for."""
        ...

    def kind(self, record: str) -> str:
        """The kind of a record type."""
        ...

    def expression(self, function: Callable[..., Any], record: str, what: str, *, steps: int = ...) -> Node:
        """The typed expression that `function` builds for a row of `record`; `what` names the argument in messages."""
        ...

    def resolved(self, expression: Expr[Any], record: str, *, expected: ValueType | None = ...) -> Node:
        """The typed form of an expression whose root is `record`."""
        ...


class Computation(Member, Expr[T]):
    """A derived value. It can't be given or assigned; it follows from what it is declared over."""

    accepted = False

    @overload
    def __get__(self, obj: None, owner: type[Any]) -> Computation[T]: ...
    @overload
    def __get__(self, obj: object, owner: type[Any]) -> T: ...
    def __get__(self, obj: object, owner: type[Any]) -> Computation[T] | T:
        if obj is None:
            return cast("Computation[T]", self.path(owner))
        return cast("T", self.value(cast("Record", obj)))

    def __set__(self, obj: object, value: Never) -> None:
        raise AttributeError(f"{self.name} is derived: it can't be assigned. It follows from what it is declared over.")

    def references(self) -> Iterable[Any]:
        """The record types it names: classes, names, or functions that give one; so that they are found."""
        return ()

    def build(self, scope: Scope) -> Built:
        """Its part of the model. Raises DeclarationError."""
        raise NotImplementedError

    def subscript(self) -> Declared | None:
        """The type in `Computed[str](…)`, if one was written."""
        alias = getattr(self, "__orig_class__", None)
        if alias is None:
            return None
        arguments = typing.get_args(alias)
        if not arguments or arguments[0] is Any:
            return None
        return declared_type(arguments[0])


def declared_type(annotation: Any) -> Declared:
    """What an annotation says of a derived value. The scale of a Decimal is left open: its expression says it."""
    inner, optional = without_none(annotation)
    if inner is Decimal:
        return Declared(ValueType("decimal", Decimal), optional)
    return Declared(value_type(inner)[0], optional)


def require_scale(declared: Declared) -> None:
    """Refuse a Decimal whose number of decimals nothing says, as the value of a Python function."""
    if declared.type.kind == "decimal" and declared.type.scale is None:
        raise DeclarationError(
            "a Decimal that a function computes needs a number of decimals, which can't be written here. Declare "
            "`Property[Decimal] = Property(scale=2)` and give it this computation in an integration's configure(): "
            '`schema.property(Order, "price").computation = …`.'
        )


def agree(declared: Declared | None, type_: ValueType, *, optional: bool) -> tuple[ValueType, bool]:
    """The type of a value that an expression gives, as declared if it was.

    Raises DeclarationError where they differ.
    """
    if declared is None:
        return type_, optional
    widened = declared.type.kind == "float" and type_.base == "int"
    if declared.type.base != type_.base and not widened:
        raise DeclarationError(f"the expression gives {type_}, but {declared.type} was declared. Change one of them.")
    if optional and not declared.optional:
        raise DeclarationError(
            "the expression can be None, but the declared type can't. Add `| None` to the type, or `.or_else(…)` to "
            "the expression."
        )
    if declared.type.kind == "decimal" and declared.type.scale is None:
        return type_, declared.optional
    if declared.type.kind in ("enum", "literal") and type_ != declared.type:
        raise DeclarationError(
            f"the expression gives any {type_}, but only {', '.join(map(repr, declared.type.values))} were declared. Declare it "
            f"as {type_.base}."
        )
    return declared.type, declared.optional
