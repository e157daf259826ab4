"""The functions that ensue's SQL calls on SQLite: what its own operators do differently or not at all.

Invariant: each is deterministic (so that it may stand in a CHECK or an index) and does what the Python evaluator does,
by calling the same code.
"""

from collections.abc import Callable
from typing import Any

from ensue.expression import arithmetic


def sqlite_functions() -> dict[str, Callable[..., Any]]:
    """Name → function, to be registered as deterministic on every connection. A raised `InvalidValue` ends the
    statement."""
    return {
        "ensue_upper": _unless_null(str.upper),
        "ensue_lower": _unless_null(str.lower),
        "ensue_overflow": arithmetic.out_of_range,
        "ensue_scaled_round": arithmetic.scaled_round,
        "ensue_float_fit": _unless_null(arithmetic.float_fit),
        "ensue_float_mul": _unless_null(arithmetic.float_mul),
        "ensue_float_div": _unless_null(arithmetic.float_div),
        "ensue_shift": _unless_null(arithmetic.shift_micros),
    }


def _unless_null(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: None if None in arguments else function(*arguments)
