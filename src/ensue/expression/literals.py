"""Plain Python values in expressions, typed from what they meet.

Decides which Python value may stand for which type, and how it is normalised (instants to UTC, decimals to the column's
scale, enum values to members). Invariant: a `Constant` holds a value that every database can hold, in its one Python
form.
"""

import difflib
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, cast
from uuid import UUID

from ensue.expression.arithmetic import INSTANT_MAX, INSTANT_MIN
from ensue.expression.nodes import Constant
from ensue.expression.semantics import BOOL, DATETIME, FLOAT, INT, INT_MAX, INT_MIN, SCALE_MAX, STR, decimal, plain
from ensue.expression.types import ValueType


class LiteralError(ValueError):
    """The value can't stand here; the message says what is wrong with it, without the place."""


def constant(value: object, hint: ValueType | None = None, *, target: str | None = None) -> Constant:
    """The value as a constant; `hint` is the type that it meets, `target` the record type whose id that is.

    Numbers may come out as another type than the hint (a float that meets an int): the caller casts. Raises
    `LiteralError`.
    """
    if hasattr(type(value), "__ensue_id__"):
        return Constant(_record_id(cast("Any", value), target), INT)
    if hint is not None and hint.kind in ("enum", "literal"):
        return _member(value, hint)
    return _number(_scalar(value), hint)


def constants(values: Iterable[object], hint: ValueType, *, target: str | None = None) -> Constant:
    """The values of an `in_`, as one constant that holds a tuple without repeats."""
    items: list[Constant] = []
    for value in values:
        if value is None:
            raise LiteralError("None among the values of .in_(), which no value equals; add `| x.is_null()` instead")
        items.append(constant(value, hint, target=target))
    kinds = {item.type.kind for item in items}
    if kinds <= {"int", "float"} and "float" in kinds:
        items = [Constant(float(item.value), FLOAT) for item in items]
    elif kinds <= {"int", "decimal"} and "decimal" in kinds:
        scale = max(item.type.scale or 0 for item in items)
        items = [Constant(Decimal(item.value).quantize(Decimal(1).scaleb(-scale)), decimal(scale)) for item in items]
    for item in items:
        if item.type != items[0].type:
            raise LiteralError(f"values of several types in .in_(): {items[0].type} and {item.type}")
    return Constant(tuple(dict.fromkeys(item.value for item in items)), items[0].type if items else hint)


def _record_id(record: Any, target: str | None) -> int:
    names = [cls.__name__ for cls in type(record).__mro__]
    if target is not None and target not in names:
        raise LiteralError(f"a record of {names[0]} where a record of {target} is due")
    key = record.__ensue_id__()
    if key is None:
        raise LiteralError(f"a record of {names[0]} that has no id yet: create it first")
    return cast("int", key)


def _member(value: object, hint: ValueType) -> Constant:
    found = value
    if hint.kind == "enum":
        if isinstance(value, hint.python):
            return Constant(value, hint)
        if not isinstance(value, Enum) and _listed(value, hint):
            return Constant(hint.python(value), hint)
    elif _listed(found := value.value if isinstance(value, Enum) else value, hint):
        return Constant(found, hint)
    close = difflib.get_close_matches(str(value), [item for item in hint.values if isinstance(item, str)], n=1)
    advice = f" (did you mean {close[0]!r}?)" if close else ""
    raise LiteralError(f"{value!r}, which is none of {', '.join(map(repr, hint.values))}{advice}")


def _listed(value: object, hint: ValueType) -> bool:
    return any(type(value) is type(item) and value == item for item in hint.values)


def _scalar(value: object) -> Constant:
    if isinstance(value, Enum) and isinstance(value, str | int):
        value = value.value
    for build in (_simple, _temporal, _textual):
        found = build(value)
        if found is not None:
            return found
    if value is None:
        raise LiteralError("None as an operand; test for it with `== None` or `.is_null()`")
    if isinstance(value, timedelta):
        raise LiteralError("a timedelta, which can only be added to or subtracted from a datetime")
    raise LiteralError(f"a value of {type(value).__name__}, which is no type of the expression language")


def _simple(value: object) -> Constant | None:
    if isinstance(value, bool):
        return Constant(value, BOOL)
    if isinstance(value, int):
        if not INT_MIN <= value <= INT_MAX:
            raise LiteralError(f"the integer {value}, which needs more than 64 bits")
        return Constant(int(value), INT)
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise LiteralError(f"the float {value}, which is not finite")
        # Adding zero turns -0.0 into 0.0, which is how SQLite reads it.
        return Constant(float(value) + 0.0, FLOAT)
    return _decimal(value) if isinstance(value, Decimal) else None


def _decimal(value: Decimal) -> Constant:
    if not value.is_finite():
        raise LiteralError(f"the decimal {value}, which is not finite")
    if not value:
        return Constant(Decimal(0), decimal(0))
    sign, digits, exponent = value.as_tuple()
    while digits[-1] == 0:
        digits, exponent = digits[:-1], cast("int", exponent) + 1
    scale = max(0, -cast("int", exponent))
    if scale > SCALE_MAX or value.adjusted() + 1 + scale > SCALE_MAX:
        raise LiteralError(f"the decimal {value}, which has more than {SCALE_MAX} digits")
    return Constant(Decimal((sign, digits, cast("int", exponent))).quantize(Decimal(1).scaleb(-scale)), decimal(scale))


def _temporal(value: object) -> Constant | None:
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise LiteralError(f"the naive datetime {value!r}; give it a time zone, as in datetime(..., tzinfo=UTC)")
        if not INSTANT_MIN <= value <= INSTANT_MAX:
            raise LiteralError(f"the datetime {value!r}, the very first or last; for never use None")
        return Constant(value.astimezone(UTC), DATETIME)
    return Constant(value, ValueType("date", date)) if isinstance(value, date) else None


def _textual(value: object) -> Constant | None:
    if isinstance(value, str):
        text = str(value)
        if "\0" in text:
            raise LiteralError("a str with a NUL character, which no database can hold as text")
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise LiteralError("a str with half of a surrogate pair, which is no text")
        return Constant(text, STR)
    if isinstance(value, UUID):
        return Constant(value, ValueType("uuid", UUID))
    return Constant(bytes(value), ValueType("bytes", bytes)) if isinstance(value, bytes | bytearray) else None


def _number(found: Constant, hint: ValueType | None) -> Constant:
    """Meet the hint without losing anything: 3 for a float is 3.0, 3.0 for an int is 3, a decimal gets the column's
    scale."""
    kind = None if hint is None else plain(hint).kind
    if found.type is INT and kind == "float" and abs(found.value) <= 2**53:
        return Constant(float(found.value), FLOAT)
    if found.type is FLOAT and kind == "int" and found.value.is_integer() and INT_MIN <= found.value <= INT_MAX - 1024:
        return Constant(int(found.value), INT)
    if hint is not None and kind == "decimal" and found.type.kind in ("int", "decimal"):
        number = Decimal(found.value)
        scale = hint.scale or 0
        if scale >= (found.type.scale or 0) and number.adjusted() + 1 + scale <= SCALE_MAX:
            return Constant(number.quantize(Decimal(1).scaleb(-scale)), hint)
    return found
