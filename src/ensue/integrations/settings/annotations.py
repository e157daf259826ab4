"""Annotations as types, also for classes made inside functions.

Decides where the names in an annotation's text are looked up: what the enclosing functions knew when the declaration
ran, then the module as it is now. Invariant: frames are looked at once and never kept.
"""

from __future__ import annotations

import builtins
import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import Any


def names_near(annotations: Iterable[Any], frame: FrameType | None) -> dict[str, Any]:
    """What the words of the annotations mean in `frame`, and in the function around it if it is that of a class body."""
    words = {word for item in annotations if isinstance(item, str) for word in re.findall(r"[A-Za-z_]\w*", item)}
    found: dict[str, Any] = {}
    while frame is not None and words and frame.f_locals is not frame.f_globals:
        local = frame.f_locals
        found |= {name: local[name] for name in words & local.keys()}
        words -= found.keys()
        # From a class body on to the function that it stands in, but not to that one's callers, who know other things.
        frame = None if frame.f_code.co_flags & inspect.CO_OPTIMIZED else frame.f_back
    return found


def evaluate(annotation: Any, *, module: str, names: Mapping[str, Any]) -> Any:
    """The annotation as a type. Raises whatever evaluating its text raises (`NameError` for an unknown name)."""
    if not isinstance(annotation, str):
        return annotation
    known = vars(sys.modules[module]) if module in sys.modules else {}
    return eval(annotation, {**vars(builtins), **known}, dict(names))  # noqa: S307 - text of the program's own source
