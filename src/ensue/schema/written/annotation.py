"""Annotations as they were written, and what they mean once all names are known.

Decides which kind of member an annotation declares, from its text alone, so that classes may name each other in any
order and be made in functions. What the type inside becomes is for `value` and the link pass. Invariant: nothing is
evaluated before `Written.evaluate` is called.
"""

from __future__ import annotations

import ast
import builtins
import datetime
import decimal
import inspect
import sys
import types
import typing
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ensue.schema.written.origin import caller

_WELL_KNOWN: dict[str, Any] = {
    **vars(builtins),
    **{name: getattr(typing, name) for name in ("Any", "Literal", "Optional", "Union", "Annotated")},
    "date": datetime.date,
    "datetime": datetime.datetime,
    "Decimal": decimal.Decimal,
    "UUID": uuid.UUID,
    "typing": typing,
}


@dataclass(frozen=True, slots=True)
class Names:
    """What a declaring class can see: its module, and the classes of the function it was made in."""

    module: str
    local: Mapping[str, type[Any]]

    def lookup(self) -> dict[str, Any]:
        module = sys.modules.get(self.module)
        return {**_WELL_KNOWN, **(vars(module) if module is not None else {}), **self.local}


@dataclass(frozen=True, slots=True)
class Written:
    """A type as written: text, or an object where annotations are evaluated by Python."""

    content: Any
    names: Names

    @property
    def text(self) -> str | None:
        """The text, if it is one."""
        return self.content if isinstance(self.content, str) else None

    def evaluate(self) -> Any:
        """The type itself. Raises NameError if a name in it is not known, SyntaxError or TypeError if it is no type."""
        found = self.content
        while isinstance(found, str):  # more than once where the text holds quoted text
            found = eval(found, self.names.lookup())  # noqa: S307  # the program's own annotation, as get_type_hints does
        return found

    def __str__(self) -> str:
        return self.content if isinstance(self.content, str) else getattr(self.content, "__name__", repr(self.content))


def names_of_caller(module: str) -> Names:
    """The names that the code which declares can see now."""
    frame = caller()
    if frame is None or frame.f_locals is frame.f_globals:
        return Names(module, {})
    return Names(module, {name: item for name, item in frame.f_locals.items() if isinstance(item, type)})


def own_annotations(cls: type[Any]) -> dict[str, Any]:
    """The annotations written in the class's own body, unevaluated where Python allows it."""
    if sys.version_info >= (3, 14):
        import annotationlib  # this module exists from 3.14 on

        return dict(annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF))
    return inspect.get_annotations(cls)


def split(annotation: Any, names: Names) -> tuple[Any, Any]:
    """The head and the content of `Head[content]`; the head is an object, or its last name where it can't be looked
    up.
    """
    if not isinstance(annotation, str):
        origin = typing.get_origin(annotation)
        arguments = typing.get_args(annotation)
        if origin is None or not arguments:
            return annotation, None
        return origin, _plain(arguments[0]) if len(arguments) == 1 else None
    tree = ast.parse(annotation.strip(), mode="eval").body
    if isinstance(tree, ast.Constant) and isinstance(tree.value, str):
        return split(tree.value, names)
    if isinstance(tree, ast.Subscript):
        return _head(tree.value, names), ast.unparse(tree.slice)
    return _head(tree, names), None


def split_optional(annotation: Any) -> tuple[Any, bool]:
    """`X` of `X | None`, and whether there was a None."""
    if isinstance(annotation, str):
        tree = ast.parse(annotation.strip(), mode="eval").body
        parts = list(_alternatives(tree))
        rest = [part for part in parts if not (isinstance(part, ast.Constant) and part.value is None)]
        if len(rest) == len(parts):
            return annotation, False
        return " | ".join(ast.unparse(part) for part in rest), True
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        arguments = typing.get_args(annotation)
        rest_ = [item for item in arguments if item is not type(None)]
        if len(rest_) == 1 and len(arguments) == 2:
            return rest_[0], True
    return annotation, False


def _alternatives(tree: ast.expr) -> list[ast.expr]:
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.BitOr):
        return [*_alternatives(tree.left), *_alternatives(tree.right)]
    if isinstance(tree, ast.Subscript) and ast.unparse(tree.value).rsplit(".", 1)[-1] == "Optional":
        return [*_alternatives(tree.slice), ast.Constant(None)]
    return [tree]


def _head(tree: ast.expr, names: Names) -> Any:
    text = ast.unparse(tree)
    first, *rest = text.split(".")
    found = names.lookup().get(first)
    for name in rest:
        found = getattr(found, name, None)
    return text.rsplit(".", 1)[-1] if found is None else found


def _plain(argument: Any) -> Any:
    return argument.__forward_arg__ if isinstance(argument, typing.ForwardRef) else argument
