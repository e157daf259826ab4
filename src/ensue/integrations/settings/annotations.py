"""Annotations as types, also for classes made inside functions.

Decides where the names in an annotation's text are looked up: what the enclosing functions knew when the declaration
ran, then the module as it is now. Invariant: frames are looked at once and never kept.
"""

from __future__ import annotations

import builtins
import re
import sys
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import Any


def names_near(annotations: Iterable[Any], frame: FrameType | None) -> dict[str, Any]:
    """The values that the words of the annotations' texts have in `frame` and the functions around it."""
    words = {word for item in annotations if isinstance(item, str) for word in re.findall(r"[A-Za-z_]\w*", item)}
    found: dict[str, Any] = {}
    while frame is not None and words and frame.f_locals is not frame.f_globals:
        local = frame.f_locals
        found |= {name: local[name] for name in words & local.keys()}
        words -= found.keys()
        frame = frame.f_back
    return found


def evaluate(annotation: Any, *, module: str, names: Mapping[str, Any]) -> Any:
    """The annotation as a type. Raises whatever evaluating its text raises (`NameError` for an unknown name)."""
    if not isinstance(annotation, str):
        return annotation
    known = vars(sys.modules[module]) if module in sys.modules else {}
    return eval(annotation, {**vars(builtins), **known}, dict(names))  # noqa: S307 - text of the program's own source
