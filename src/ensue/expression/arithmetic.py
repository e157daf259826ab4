"""Checked arithmetic on Python values: what the generated Python calls and what SQLite calls where its own operators differ.

Decides where a number is out of range and how a decimal rounds, for both. Invariant: a result is in range or `InvalidValue` is
raised; no result depends on the caller's decimal context.
"""

import decimal
import math
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Never

from ensue.clock import from_micros, to_micros
from ensue.errors import InvalidValue
from ensue.expression.semantics import INT_MAX, INT_MIN, SCALE_MAX

_CONTEXT = decimal.Context(prec=80, rounding=decimal.ROUND_HALF_EVEN)
_LIMITS = tuple((Decimal(INT_MIN).scaleb(-s, _CONTEXT), Decimal(INT_MAX).scaleb(-s, _CONTEXT)) for s in range(SCALE_MAX + 1))
_UNITS = tuple(Decimal(1).scaleb(-s) for s in range(SCALE_MAX + 1))
_POWERS = tuple(10**s for s in range(SCALE_MAX + 1))

MICROS_MIN = to_micros(datetime.min.replace(tzinfo=from_micros(0).tzinfo))
MICROS_MAX = to_micros(datetime.max.replace(tzinfo=from_micros(0).tzinfo))


def out_of_range(what: str = "A number") -> Never:
    raise InvalidValue(f"{what} computed by an expression is out of range.")


def fit_int(value: int) -> int:
    """The value itself, if it has 64 bits."""
    if INT_MIN <= value <= INT_MAX:
        return value
    return out_of_range("An integer (64-bit)")


def fit_decimal(value: Decimal, scale: int) -> Decimal:
    """The value itself, if its scaled integer has 64 bits."""
    low, high = _LIMITS[scale]
    if low <= value <= high:
        return value
    return out_of_range(f"A decimal({scale})")


def decimal_add(left: Decimal, right: Decimal, scale: int) -> Decimal:
    return fit_decimal(_CONTEXT.add(left, right), scale)


def decimal_sub(left: Decimal, right: Decimal, scale: int) -> Decimal:
    return fit_decimal(_CONTEXT.subtract(left, right), scale)


def decimal_mul(left: Decimal, right: Decimal, scale: int) -> Decimal:
    return fit_decimal(_CONTEXT.multiply(left, right), scale)


def decimal_neg(value: Decimal, scale: int) -> Decimal:
    # Not `minus`: the negative of zero is zero, with the scale kept.
    return fit_decimal(_CONTEXT.subtract(Decimal(0), value), scale)


def to_decimal(value: int | Decimal, scale: int) -> Decimal:
    """The number with exactly `scale` decimals, rounded half-even."""
    number = Decimal(value) if isinstance(value, int) else value
    low, high = _LIMITS[scale]
    rounded = number.quantize(_UNITS[scale], context=_CONTEXT)
    if low <= rounded <= high:
        return rounded
    return out_of_range(f"A decimal({scale})")


def scaled(value: Decimal, scale: int) -> int:
    """The decimal as an integer, multiplied by 10^scale: how SQLite holds it."""
    return int(value.scaleb(scale, _CONTEXT))


def unscaled(value: int, scale: int) -> Decimal:
    """The decimal that `scaled` made an integer of."""
    return Decimal(value).scaleb(-scale, _CONTEXT)


def decimal_float(value: Decimal, scale: int) -> float:
    """The decimal as a float: its scaled integer over a power of ten, the way each database can do it too."""
    return float(scaled(value, scale)) / _POWERS[scale]


def scaled_round(value: int | None, digits: int) -> int | None:
    """A scaled integer with `digits` decimals fewer, rounded half-even."""
    if value is None:
        return None
    whole, rest = divmod(value, _POWERS[digits])
    half = _POWERS[digits]
    return whole + (2 * rest > half or (2 * rest == half and whole % 2 == 1))


def float_fit(value: float) -> float:
    """The value itself, if it is finite."""
    if math.isfinite(value):
        return value
    return out_of_range("A float")


def float_mul(left: float, right: float) -> float:
    """The product; overflow and a product of non-zero numbers that vanishes are errors."""
    result = left * right
    if math.isfinite(result) and (result != 0.0 or left == 0.0 or right == 0.0):
        return result
    return out_of_range("A float")


def float_div(left: float, right: float) -> float | None:
    """The quotient, None for x/0; overflow and a quotient that vanishes are errors."""
    if right == 0.0:
        return None
    result = left / right
    if math.isfinite(result) and (result != 0.0 or left == 0.0):
        return result
    return out_of_range("A float")


def shift(instant: datetime, micros: int) -> datetime:
    """The instant so many microseconds later."""
    try:
        return instant + timedelta(microseconds=micros)
    except OverflowError:
        return out_of_range("An instant")


def shift_micros(instant: int, micros: int) -> int:
    """`shift` on instants held as microseconds."""
    result = instant + micros
    if MICROS_MIN <= result <= MICROS_MAX:
        return result
    return out_of_range("An instant")
