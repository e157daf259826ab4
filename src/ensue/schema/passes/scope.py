"""What a computation sees while it is built: the `Scope` of one field of one record type."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ensue.errors import DeclarationError, PlannedError
from ensue.expression.nodes import Children, Exists, Follow, Hop, Node, columns, walk
from ensue.expression.records import RecordTypes
from ensue.expression.resolve import resolve, resolve_hops, trace
from ensue.expression.trace import Expr, Path
from ensue.expression.types import ValueType
from ensue.schema.computations.contract import Declared, Edges
from ensue.schema.passes.build import Build
from ensue.schema.passes.collections import collection_of
from ensue.schema.relation import Collection, Inverse, Many
from ensue.schema.schema import Draft

MAX_STEPS = 2
"""How many to-one links an expression of a computation may follow."""


class FieldScope:
    """The `Scope` of `draft`'s field `name`."""

    def __init__(self, build: Build, draft: Draft, name: str, declared: Declared | None) -> None:
        self._build = build
        self._draft = draft
        self._name = name
        self._declared = declared

    @property
    def host(self) -> str:
        return self._draft.name

    @property
    def name(self) -> str:
        return self._name

    @property
    def is_global(self) -> bool:
        return self._draft.kind == "globals"

    @property
    def types(self) -> RecordTypes:
        return self._build

    @property
    def declared(self) -> Declared | None:
        return self._declared

    def record(self, reference: Any) -> str:
        return self._build.record(reference)

    def kind(self, record: str) -> str:
        return self._build.drafts[record].kind

    def over(self, source: Any) -> Edges:
        if isinstance(source, Collection):
            collection = collection_of(self._build, self._draft, source)
            return edges_of(self._build, collection.hops, collection.target)
        if isinstance(source, Path):
            hops, target = resolve_hops(source, self.host, self._build)
            return edges_of(self._build, hops, target)
        record = self._build.record(source)
        if not self.is_global:
            raise DeclarationError(
                f"it is over all of {record}; a record's computation is over one of its collections (a Many). "
                f"One value over all of {record} belongs in a Globals class."
            )
        if self.kind(record) == "globals":
            raise DeclarationError(f"it is over {record}, which is a Globals class; expected an entity.")
        return Edges(record, (), (), (), partial=False, member=record)

    def member_of(self, source: Any) -> str | None:
        try:
            return self.record(source.target if isinstance(source, Inverse | Many) else source)
        except DeclarationError:
            return None

    def expression(self, function: Callable[..., Any], record: str, what: str, *, steps: int = MAX_STEPS) -> Node:
        node = expression(self._build, function, record, what)
        require_simple(node, what, steps)
        return node

    def resolved(self, expression: Expr[Any], record: str, *, expected: ValueType | None = None) -> Node:
        node = resolve(expression, record, self._build, expected=expected, aliases=self._build.drafts[record].abstract)
        require_simple(node, repr(expression), MAX_STEPS)
        return node


def expression(
    build: Build, function: Callable[..., Any], record: str, what: str, *, expected: ValueType | None = None
) -> Node:
    """The typed expression that a user's function builds for a row of `record`."""
    if not callable(function):
        raise DeclarationError(
            f"{what} is {function!r}; expected a function of the record, such as `lambda c: c.score > 3`."
        )
    if inspect.iscoroutinefunction(function):
        raise DeclarationError(
            f"{what} is async, but it is traced as an expression once. Write a plain lambda; what must wait belongs "
            "in Custom(compute=…)."
        )
    expr, root = trace(function, record, what=what)
    return resolve(expr, record, build, root=root, expected=expected, aliases=build.drafts[record].abstract)


def require_simple(node: Node, what: str, steps: int) -> None:
    """Refuse what the rules can't keep true by deltas: `.any` inside of a computation, and long paths."""
    if any(isinstance(item, Exists) for item in walk(node)):
        raise PlannedError(
            f"{what} asks a collection (`.any`) inside of a computation, which is planned. Declare an AnyOf on that "
            "record and use its name."
        )
    for column in columns(node):
        if len(column.path) > steps:
            way = ".".join((*column.path, column.field))
            raise PlannedError(
                f"{what} follows {len(column.path)} links ({way}); more than {steps} are planned. Declare a Computed "
                "half-way and use its name."
            )


def edges_of(build: Build, hops: tuple[Hop, ...], member: str) -> Edges:
    """The edges of a collection: rows of the last record that points back, and the ways from it to host and member."""
    last = max((index for index, hop in enumerate(hops) if isinstance(hop, Children)), default=-1)
    back, forth = hops[: last + 1], hops[last + 1 :]
    if not back:
        raise DeclarationError(
            "it is over a single record; expected a collection (a Many). Use Computed for the value of one."
        )
    if any(isinstance(hop, Follow) for hop in back):
        raise PlannedError(
            "it is over the collection of an n:n's members, which is planned. Aggregate on the member, then over the "
            "n:n."
        )
    edge = hops[last].record
    partial, record = False, edge
    for hop in forth:
        partial = partial or build.links[record][hop.link].optional
        record = hop.record
    host_path = tuple(hop.link for hop in reversed(back))
    return Edges(edge, host_path, hops, tuple(hop.link for hop in forth), partial=partial, member=member)
