"""Text from the environment to the type that a setting is annotated with.

Decides which types a setting can have and how each is spelled in a variable. Leaves where the text comes from, and how
a failure is reported, to `settings`. Invariant: a `ValueError` raised here says what was expected and never repeats
the text, which may be a secret.
"""

import math
import re
import types
from collections.abc import Callable, Sequence
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard, Union, cast, get_args, get_origin

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}
_LISTS: dict[Any, type[Any]] = {list: list, tuple: tuple, set: set, frozenset: frozenset, Sequence: list}


def from_text(annotation: Any, text: str) -> Any:
    """`text` as a value of `annotation`.

    Understood are str, int, float, bool, Decimal, timedelta (`30s`, `5m`, or seconds), Path, Enum (value or name),
    Literal, lists (by comma) and optional ones.

    >>> from_text(list[int], "1, 2")
    [1, 2]
    """
    annotation = plain(annotation)
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return _from_alternatives(get_args(annotation), text)
    if origin is Literal:
        return _one_of({str(value): value for value in get_args(annotation)}, text)
    if (sequence := _LISTS.get(origin or annotation)) is not None:
        item = (get_args(annotation) or (str,))[0]
        return sequence(from_text(item, part.strip()) for part in text.split(",") if part.strip())
    if _is_enum(annotation):
        members = {member.name: member for member in annotation}
        return _one_of(members | {str(member.value): member for member in annotation}, text)
    convert = _SCALARS.get(annotation)
    if convert is None:
        raise ValueError(f"a type that text can be converted to; {describe(annotation)} is none")
    return convert(text)


def accepts(annotation: Any, value: object) -> bool:
    """Whether a value given to the constructor fits `annotation`; types that aren't understood accept everything."""
    annotation = plain(annotation)
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return any(accepts(item, value) for item in get_args(annotation))
    if origin is Literal:
        return any(value == item and type(value) is type(item) for item in get_args(annotation))
    if annotation is None or annotation is type(None):
        return value is None
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation in _SCALARS and annotation is not Any:
        return isinstance(value, annotation)
    return isinstance(value, annotation) if _is_enum(annotation) else True


def optional(annotation: Any) -> bool:
    """Whether `annotation` allows None."""
    return type(None) in get_args(annotation)


def plain(annotation: Any) -> Any:
    """The annotation without `Annotated[...]` around it."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def describe(annotation: Any) -> str:
    """The annotation as one would write it."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation.__name__
    return str(annotation).replace("typing.", "")


def _is_enum(annotation: Any) -> TypeGuard[type[Enum]]:
    return isinstance(annotation, type) and issubclass(annotation, Enum)


def _from_alternatives(alternatives: Sequence[Any], text: str) -> Any:
    expected: list[str] = []
    for alternative in alternatives:
        if alternative is type(None):
            continue
        try:
            return from_text(alternative, text)
        except ValueError as failure:
            expected.append(str(failure))
    raise ValueError(" or ".join(expected))


def _one_of(values: dict[str, Any], text: str) -> Any:
    if text in values:
        return values[text]
    raise ValueError(f"one of {', '.join(values)}")


def _to_bool(text: str) -> bool:
    if text.lower() in _TRUE | _FALSE:
        return text.lower() in _TRUE
    raise ValueError("true or false (also 1, 0, yes, no, on, off)")


def _to_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("a whole number") from None


def _to_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError("a number") from None
    if not math.isfinite(value):
        raise ValueError("a finite number")
    return value


def _to_decimal(text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise ValueError("a decimal number") from None
    if not value.is_finite():
        raise ValueError("a finite decimal number")
    return value


def _to_timedelta(text: str) -> timedelta:
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ValueError("a duration such as 250ms, 30s, 5m, 2h or 1d (a plain number is seconds)")
    return timedelta(seconds=float(found[1]) * _SECONDS[found[2]])


_SCALARS: dict[Any, Callable[[str], Any]] = {
    str: str,
    int: _to_int,
    float: _to_float,
    bool: _to_bool,
    Decimal: _to_decimal,
    timedelta: _to_timedelta,
    Path: cast("Callable[[str], Any]", Path),
    Any: str,
}
