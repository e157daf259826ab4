"""Check and normalise one value for a column: what a user gives becomes what a row holds.

Exactness over convenience: a bool is no int, a naive datetime is refused, a Decimal is rounded half-even to its scale. The
functions raise ValueError with a phrase that fits after the member's name. Invariant: a normalised value normalises to itself.
"""

import math
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from enum import Enum
from typing import Any, cast
from uuid import UUID

import msgspec

from ensue.clock import EPOCH
from ensue.expression.types import ValueType

INT_MAX = 2**63 - 1
ID_MAX = 2**63 - 2**32
"""The highest id that may be given by hand: what is allotted from then on comes above it, and finds room."""
INT_MIN = -(2**63)

Normalise = Callable[[Any], Any]


def normaliser(type_: ValueType, *, optional: bool) -> Normalise:
    """The function that checks a value of `type_`; with `optional`, None passes."""
    check = _SIMPLE.get(type_.kind) or _BUILT[type_.kind](type_)
    if optional:
        return lambda value: None if value is None else check(value)

    def required(value: Any) -> Any:
        if value is None:
            raise ValueError(f"must not be None; expected {_shown(type_)}")
        return check(value)

    return required


def link_normaliser(target: str, target_names: frozenset[str], *, optional: bool) -> Normalise:
    """The function that turns a record, or an id, into the id of a record of `target`."""

    accepted: set[type[Any]] = set()  # looking a class up is cheaper than asking what it is

    def check(value: Any) -> Any:
        if type(value) is int:
            return value
        if type(value) in accepted:
            return value.__ensue_id__()
        if value is None:
            if optional:
                return None
            raise ValueError(f"must not be None; expected a {target} or its id")
        if not hasattr(value, "__ensue_id__"):
            raise ValueError(f"got {type(value).__name__}; expected a {target} or its id")
        if type(value).__name__ not in target_names:
            raise ValueError(f"got a {type(value).__name__}; expected a {target} or its id")
        accepted.add(cast("type[Any]", type(value)))
        return value.__ensue_id__()

    return check


def placeholder(type_: ValueType) -> Any:
    """A value of the type, for a column that is computed right after its row is inserted."""
    if type_.kind == "enum":
        return next(iter(type_.python))
    if type_.kind == "literal":
        return type_.values[0]
    if type_.kind == "json":
        return [] if getattr(type_.python, "__origin__", type_.python) is list else {}
    return _PLACEHOLDERS[type_.kind]


_PLACEHOLDERS: dict[str, Any] = {
    "str": "",
    "int": 0,
    "float": 0.0,
    "decimal": Decimal(0),
    "bool": False,
    "datetime": EPOCH,
    "date": EPOCH.date(),
    "uuid": UUID(int=0),
    "bytes": b"",
}


def _wrong(value: object, expected: str) -> ValueError:
    return ValueError(f"got {type(value).__name__} {_short(value)}; expected {expected}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _shown(type_: ValueType) -> str:
    return getattr(type_.python, "__name__", str(type_))


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(value, "str")
    if "\0" in value:
        raise ValueError("holds a NUL character, which databases can't store in text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds a lone surrogate, which is no text") from error
    return str(value)


def _int(value: Any) -> int:
    if type(value) is not int:
        raise _wrong(value, "int")
    if not INT_MIN <= value <= INT_MAX:
        raise ValueError(f"{value} does not fit in 64 bits")
    return value


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(value, "float")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError("an int of this size does not fit in a float") from None
    if not math.isfinite(number):
        raise ValueError(f"{value} is not a finite number")
    return number + 0.0


def _bool(value: Any) -> bool:
    if type(value) is not bool:
        raise _wrong(value, "bool")
    return value


def _datetime(value: Any) -> datetime:
    if not isinstance(value, datetime):
        raise _wrong(value, "datetime")
    if value.tzinfo is None:
        raise ValueError("is a naive datetime; give one with a time zone, such as datetime.now(UTC)")
    return value.astimezone(UTC)


def _date(value: Any) -> date:
    if isinstance(value, datetime) or not isinstance(value, date):
        raise _wrong(value, "date")
    return value


def _uuid(value: Any) -> UUID:
    if not isinstance(value, UUID):
        raise _wrong(value, "UUID")
    return value


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise _wrong(value, "bytes")
    return bytes(cast("bytes", value))


def _decimal(type_: ValueType) -> Normalise:
    scale = type_.scale or 0
    unit = Decimal(1).scaleb(-scale)
    limit = Decimal(INT_MAX).scaleb(-scale)

    def check(value: Any) -> Decimal:
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            raise _wrong(value, "Decimal")
        number = Decimal(value)
        if not number.is_finite():
            raise ValueError(f"{value} is not a finite number")
        try:
            rounded = number.quantize(unit, rounding=ROUND_HALF_EVEN)
        except InvalidOperation as error:
            raise ValueError(f"{value} does not fit in 64 bits at scale {scale}") from error
        if abs(rounded) > limit:
            raise ValueError(f"{value} does not fit in 64 bits at scale {scale}")
        return rounded + 0

    return check


def _enum(type_: ValueType) -> Normalise:
    cls: type[Enum] = type_.python
    by_value = {member.value: member for member in cls}

    def check(value: Any) -> Any:
        if isinstance(value, cls):
            return value
        if isinstance(value, str | int) and not isinstance(value, bool) and value in by_value:
            return by_value[value]
        raise _wrong(value, f"one of {', '.join(map(str, cls))}")

    return check


def _literal(type_: ValueType) -> Normalise:
    allowed = type_.values

    def check(value: Any) -> Any:
        for item in allowed:
            if type(item) is type(value) and item == value:
                return item
        raise _wrong(value, f"one of {', '.join(map(repr, allowed))}")

    return check


def _json(type_: ValueType) -> Normalise:
    decode = msgspec.json.Decoder(type_.python).decode

    def check(value: Any) -> Any:
        try:
            text = msgspec.json.encode(value, order="sorted")
            found = decode(text)
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"is no JSON of the declared type: {error}") from error
        if any(mark in text for mark in _SUSPECT):
            _refuse_unstorable(value)
        return found

    return check


# What the text has if the value may hold a NUL character, or a number that is none: encoded as null, or by its name.
_SUSPECT = (b"\\u0000", b"null", b"NaN", b"Infinity")


def _refuse_unstorable(value: Any) -> None:
    waiting: list[tuple[str, Any]] = [("$", msgspec.to_builtins(value, builtin_types=(Decimal,), str_keys=True))]
    while waiting:
        at, item = waiting.pop()
        if isinstance(item, dict):
            for key, inner in cast("dict[str, Any]", item).items():
                waiting += [(f"{at}.{key}", inner), (f"a key of {at}", key)]
        elif isinstance(item, list | tuple):
            waiting.extend((f"{at}[{n}]", inner) for n, inner in enumerate(cast("list[Any]", item)))
        elif isinstance(item, str) and "\0" in item:
            raise ValueError(f"holds a NUL character, which databases can't store in text - at `{at}`")
        elif isinstance(item, float | Decimal) and not Decimal(item).is_finite():
            raise ValueError(f"{item} is not a finite number - at `{at}`")


_SIMPLE: dict[str, Normalise] = {
    "str": _str,
    "int": _int,
    "float": _float,
    "bool": _bool,
    "datetime": _datetime,
    "date": _date,
    "uuid": _uuid,
    "bytes": _bytes,
}
_BUILT: dict[str, Callable[[ValueType], Normalise]] = {
    "decimal": _decimal,
    "enum": _enum,
    "literal": _literal,
    "json": _json,
}
