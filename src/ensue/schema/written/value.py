"""From the type in an annotation to the value type of the language.

Decides which Python types a property or a payload may have. How they are stored is decided elsewhere. Invariant: a
type that is not listed is refused with what is supported, never guessed.
"""

from __future__ import annotations

import enum
import types
import typing
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgspec

from ensue.errors import DeclarationError
from ensue.expression.types import Kind, ValueType

_SCALARS: Final[dict[Any, Kind]] = {
    str: "str",
    int: "int",
    float: "float",
    bool: "bool",
    datetime: "datetime",
    date: "date",
    UUID: "uuid",
    bytes: "bytes",
}

STR: Final = ValueType("str", str)
INT: Final = ValueType("int", int)
FLOAT: Final = ValueType("float", float)
BOOL: Final = ValueType("bool", bool)
DATETIME: Final = ValueType("datetime", datetime)

SUPPORTED = (
    "str, int, float, Decimal, bool, datetime, date, UUID, bytes, an Enum, a Literal, dict, list, or a msgspec Struct"
)


def value_type(annotation: Any, *, scale: int | None = None) -> tuple[ValueType, bool]:
    """The value type of a property's annotation, and whether it may be None.

    Raises DeclarationError if it is not supported.
    """
    inner, optional = without_none(annotation)
    found = _value_type(inner, scale)
    if found is None:
        raise DeclarationError(
            f"the type {_shown(annotation)} is not supported; expected {SUPPORTED}, or one of them with `| None`"
        )
    if scale is not None and found.kind != "decimal":
        raise DeclarationError(
            f"scale= belongs to Decimal properties, and this one is {_shown(annotation)}. Leave it out."
        )
    return found, optional


def payload_type(annotation: Any) -> tuple[ValueType, bool]:
    """The value type of an interaction's payload field: a property's type, or JSON for whatever else msgspec can
    validate.
    """
    inner, optional = without_none(annotation)
    found = None if inner is Decimal else _value_type(inner, None)
    if found is None:
        _refuse_unknown(inner)
        found = ValueType("json", inner)
    return found, optional


def value_type_of(value: object) -> ValueType | None:
    """The type that a default value speaks for, if it is a plain scalar."""
    kind = _SCALARS.get(type(value))
    if kind is not None:
        return ValueType(kind, type(value))
    return _enum(type(value)) if isinstance(value, enum.Enum) else None


def accepts(type_: ValueType, value: object) -> bool:
    """Whether `value` is one that a column of this type holds; JSON is not looked into."""
    if type_.kind == "json":
        return True
    if type_.kind == "literal":
        return value in type_.values
    if type_.kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if type_.kind == "decimal":
        return isinstance(value, Decimal | int) and not isinstance(value, bool)
    if type_.kind == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if type_.kind == "date":
        return isinstance(value, date) and not isinstance(value, datetime)
    return isinstance(value, type_.python)


def without_none(annotation: Any) -> tuple[Any, bool]:
    """`X` of `X | None`, and whether None was among the alternatives (a Literal's too)."""
    if annotation is None or annotation is type(None):
        return annotation, True
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        arguments = typing.get_args(annotation)
        rest = [item for item in arguments if item is not type(None)]
        if len(rest) < len(arguments):
            return (rest[0] if len(rest) == 1 else typing.Union[tuple(rest)]), True  # noqa: UP007  # made from a list
    if typing.get_origin(annotation) is typing.Literal and None in typing.get_args(annotation):
        values = tuple(item for item in typing.get_args(annotation) if item is not None)
        return typing.Literal[values], True  # made from a list
    return annotation, False


def _value_type(annotation: Any, scale: int | None) -> ValueType | None:
    try:
        scalar = _SCALARS.get(annotation)
    except TypeError:  # unhashable: no type at all
        return None
    if scalar is not None:
        return ValueType(scalar, annotation)
    if annotation is Decimal:
        if scale is None:
            raise DeclarationError("a Decimal says how many decimals it has: write Property(scale=2)")
        if not 0 <= scale <= 18:
            raise DeclarationError(f"scale={scale} is out of range; expected 0 to 18")
        return ValueType("decimal", Decimal, scale=scale)
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return _literal(typing.get_args(annotation))
    if annotation in (dict, list) or origin in (dict, list):
        return ValueType("json", annotation)
    if isinstance(annotation, type):
        if issubclass(annotation, enum.Enum):
            return _enum(annotation)
        if issubclass(annotation, msgspec.Struct):
            return ValueType("json", annotation)
    return None


def _literal(values: tuple[Any, ...]) -> ValueType | None:
    kind = _one_kind(values)
    return None if kind is None else ValueType("literal", kind, values=values)


def _enum(cls: type[enum.Enum]) -> ValueType | None:
    values = tuple(member.value for member in cls)
    if _one_kind(values) is None:
        raise DeclarationError(f"the members of {cls.__name__} have values {values!r}; expected all str or all int")
    return ValueType("enum", cls, values=values)


def _one_kind(values: tuple[Any, ...]) -> type[str] | type[int] | None:
    if values and all(type(value) is str for value in values):
        return str
    if values and all(type(value) is int for value in values):
        return int
    return None


def _refuse_unknown(annotation: Any) -> None:
    try:
        information = msgspec.inspect.type_info(annotation)
    except TypeError as error:
        raise DeclarationError(f"the payload type {_shown(annotation)} can't be validated: {error}") from error
    if isinstance(information, msgspec.inspect.CustomType):
        raise DeclarationError(
            f"the payload type {_shown(annotation)} is not known; expected {SUPPORTED}, or what msgspec validates "
            "(dataclass, TypedDict, tuple, set)"
        )


def _shown(annotation: Any) -> str:
    return (
        annotation.__name__
        if isinstance(annotation, type) and typing.get_origin(annotation) is None
        else repr(annotation)
    )
