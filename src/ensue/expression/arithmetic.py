"""Checked arithmetic on Python values: what the generated Python calls and what SQLite calls where its own operators
differ.

Decides where a number is out of range and how a decimal rounds, for both. Invariant: a result is in range or
`InvalidValue` is raised; no result depends on the caller's decimal context.
"""

import decimal
import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Never

from ensue.clock import from_micros, to_micros
from ensue.errors import InvalidValue
from ensue.expression.semantics import INT_MAX, INT_MIN, SCALE_MAX

_CONTEXT = decimal.Context(prec=80, rounding=decimal.ROUND_HALF_EVEN)
_LIMITS = tuple(
    (Decimal(INT_MIN).scaleb(-s, _CONTEXT), Decimal(INT_MAX).scaleb(-s, _CONTEXT)) for s in range(SCALE_MAX + 1)
)
_UNITS = tuple(Decimal(1).scaleb(-s) for s in range(SCALE_MAX + 1))
_POWERS = tuple(10**s for s in range(SCALE_MAX + 1))

INSTANT_MIN = from_micros(to_micros(datetime.min.replace(tzinfo=UTC)) + 1)
INSTANT_MAX = from_micros(to_micros(datetime.max.replace(tzinfo=UTC)) - 1)
"""All that Python has but its very first and last microsecond, which asyncpg takes for minus infinity and infinity."""
_MICROS_MIN = to_micros(INSTANT_MIN)
_MICROS_MAX = to_micros(INSTANT_MAX)


def out_of_range(what: str = "A number") -> Never:
    """Raise `InvalidValue`."""
    raise InvalidValue(f"{what} is out of range.")


def fit_int(value: int) -> int:
    """The value itself, if it has 64 bits."""
    if INT_MIN <= value <= INT_MAX:
        return value
    return out_of_range("An integer (64-bit)")


def fit_decimal(value: Decimal, scale: int) -> Decimal:
    """The value itself, if its scaled integer has 64 bits."""
    low, high = _LIMITS[scale]
    if low <= value <= high:
        # No database has a negative zero among its decimals.
        return value if value else value.copy_abs()
    return out_of_range(f"A decimal({scale})")


def decimal_add(left: Decimal, right: Decimal, scale: int) -> Decimal:
    return fit_decimal(_CONTEXT.add(left, right), scale)


def decimal_sub(left: Decimal, right: Decimal, scale: int) -> Decimal:
    return fit_decimal(_CONTEXT.subtract(left, right), scale)


def decimal_mul(left: Decimal, right: Decimal, scale: int) -> Decimal:
    return fit_decimal(_CONTEXT.multiply(left, right), scale)


def decimal_neg(value: Decimal, scale: int) -> Decimal:
    return fit_decimal(value.copy_negate(), scale)


def to_decimal(value: int | Decimal, scale: int) -> Decimal:
    """The number with exactly `scale` decimals, rounded half-even."""
    number = Decimal(value) if isinstance(value, int) else value
    return fit_decimal(number.quantize(_UNITS[scale], context=_CONTEXT), scale)


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


def fit_instant(value: datetime) -> datetime:
    """The instant itself, if every database can hold it."""
    if INSTANT_MIN <= value <= INSTANT_MAX:
        return value
    return out_of_range("An instant (after the first and before the last microsecond of the years 1 to 9999)")


def instant_micros(value: datetime) -> int:
    """The instant as microseconds: how SQLite holds it."""
    micros = to_micros(value)
    return micros if _MICROS_MIN <= micros <= _MICROS_MAX else to_micros(fit_instant(value))


def shift(instant: datetime, micros: int) -> datetime:
    """The instant so many microseconds later."""
    try:
        return fit_instant(instant + timedelta(microseconds=micros))
    except OverflowError:
        return out_of_range("An instant")


def shift_micros(instant: int, micros: int) -> int:
    """`shift` on instants held as microseconds."""
    result = instant + micros
    if _MICROS_MIN <= result <= _MICROS_MAX:
        return result
    return out_of_range("An instant")
