"""Whether a function can be called as it will be.

Decides how its parameters are told. Leaves to those who ask what they expect. Invariant: nothing is called.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def misfit(function: Callable[..., Any], *arguments: object) -> str | None:
    """The names of the parameters of `function`, if it can't be called with `arguments`; None if it can.

    >>> misfit(lambda effect: 1, None), misfit(lambda effect, now: 1, None)
    (None, 'effect, now')
    """
    taken = inspect.signature(function)
    try:
        taken.bind(*arguments)
    except TypeError:
        return ", ".join(taken.parameters)
    return None
