"""`Custom`: a computation in Python, on the records whose declared inputs changed.

Decides how `uses` becomes the columns to watch. When the functions are called, and with what, is the engine's rule.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from ensue.errors import DeclarationError
from ensue.expression.nodes import Column, columns
from ensue.expression.records import CollectionType, LinkType
from ensue.expression.trace import Expr, Path, Root, Shape
from ensue.schema.computations.contract import Built, Computation, Declared, Scope, declared_type, require_scale
from ensue.schema.computations.rebase import rebase
from ensue.schema.model import CustomModel, EdgeUse

if TYPE_CHECKING:
    from typing_extensions import TypeVar as DefaultTypeVar

    T = DefaultTypeVar("T", default=Any)
else:
    T = TypeVar("T")


class Skip:
    """The type of `SKIP`."""

    def __repr__(self) -> str:
        return "SKIP"


SKIP: Final = Skip()
"""What `incremental` returns to leave the value as it is."""


class Custom(Computation[T]):
    """A value computed by plain functions: `Custom[str](initial=sign, compute=again, uses=lambda p: [p.title])`.

    `initial(record)` when the record is created, `compute(record, inputs)` when what it uses changes,
    `incremental(last, event, record)` returning a value or `SKIP`. Each may be async. The type is the subscript's, or
    the property's that it replaces, or the functions' return annotation.
    """

    def __init__(
        self,
        *,
        initial: Callable[[Any], Any] | None = None,
        compute: Callable[[Any, Any], Any] | None = None,
        incremental: Callable[[Any, Any, Any], Any] | None = None,
        uses: Callable[[Any], Sequence[Any]] | None = None,
    ) -> None:
        super().__init__()
        self.initial = initial
        self.compute = compute
        self.incremental = incremental
        self.uses = uses

    def build(self, scope: Scope) -> Built:
        if scope.is_global:
            raise DeclarationError("Custom belongs to a record; a Globals class has aggregates over entities only.")
        if self.initial is None and self.compute is None and self.incremental is None:
            raise DeclarationError("Custom() has no function. Give initial=, compute= or incremental=.")
        if (self.compute is not None or self.incremental is not None) and self.uses is None:
            raise DeclarationError(
                "Custom(compute=…) or Custom(incremental=…) says what it reads: give uses=lambda p: [p.title, …]."
            )
        declared = scope.declared or self._returned()
        if declared is None:
            raise DeclarationError("Custom has no type. Write Custom[str](…), or annotate what its function returns.")
        require_scale(declared)
        fields = self._uses(scope)
        watched = _Watched(scope)
        for item in fields:
            watched.add(item)
        edges = tuple(EdgeUse(edge, path, tuple(dict.fromkeys(found))) for (edge, path), found in watched.edges.items())
        model = CustomModel(
            self.initial, self.compute, self.incremental, fields, tuple(dict.fromkeys(watched.columns)), edges
        )
        return Built(model, declared.type, declared.optional, declared.default)

    def _uses(self, scope: Scope) -> tuple[Any, ...]:
        if self.uses is None:
            return ()
        found = self.uses(Path(Root(scope.host)))
        if not isinstance(found, list | tuple):
            raise DeclarationError(f"uses= must give a list of fields; it gave a {type(found).__name__}.")
        return tuple(found)

    def _returned(self) -> Declared | None:
        for function in (self.initial, self.compute, self.incremental):
            annotation = None if function is None else _return_annotation(function)
            if annotation is not None:
                return declared_type(annotation)
        return None


def _return_annotation(function: Callable[..., Any]) -> Any:
    try:
        hints = typing.get_type_hints(function if inspect.isroutine(function) else function.__call__)
    except NameError as error:
        raise DeclarationError(
            f"the return type of {getattr(function, '__name__', function)!r} can't be read: {error}"
        ) from error
    return hints.get("return")


class _Watched:
    """The columns of the record, and of the edges of its collections, that a Custom reads."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.columns: list[Column] = []
        self.edges: dict[tuple[str, tuple[str, ...]], list[Column]] = {}

    def add(self, item: Any) -> None:
        """Watch what one item of `uses` reads."""
        path = item.path if isinstance(item, Shape) else item
        if isinstance(path, Path) and isinstance(self._member(path), CollectionType):
            self._collection(path, item if isinstance(item, Shape) else None)
        elif isinstance(item, Shape):
            for field in item.fields:
                self.add(_under(path, field))
        elif isinstance(item, Expr):
            self.columns += columns(self.scope.resolved(cast("Expr[Any]", item), self.scope.host))
        else:
            raise DeclarationError(
                f"uses= holds {item!r}; expected fields such as p.title or p.comments.fields(Comment.text)."
            )

    def _member(self, path: Path) -> Any:
        record, member = self.scope.host, None
        for step in path.steps:
            member = self.scope.types.member(record, step)
            if isinstance(member, LinkType | CollectionType):
                record = member.target
        return member

    def _collection(self, path: Path, shape: Shape | None) -> None:
        edges = self.scope.over(path)
        if shape is None:
            names = [
                name
                for name in self.scope.types.names(edges.member)
                if not isinstance(self.scope.types.member(edges.member, name), CollectionType)
            ]
            fields: list[Any] = [Path(Root(edges.member), (name,)) for name in names]
        else:
            fields = [*shape.fields, *([shape.where] if shape.where is not None else [])]
        found = self.edges.setdefault((edges.edge, edges.host_path), [])
        for field in fields:
            if not isinstance(field, Expr):
                raise DeclarationError(
                    f"uses= goes one collection deep; {field!r} goes further. Name a computed property instead."
                )
            found += columns(rebase(self.scope.resolved(cast("Expr[Any]", field), edges.member), edges))


def _under(path: Path | None, field: Any) -> Any:
    """A field of a nested selection as a path from the record itself."""
    if path is None:
        return field
    if isinstance(field, Path):
        return Path(path.root, (*path.steps, *field.steps))
    raise DeclarationError(f"uses= has {field!r} below {path!r}; expected a path such as {path!r}.name.")
