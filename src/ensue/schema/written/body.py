"""The body of a declaring class: which members it has, inherited ones first.

Decides what an annotation declares and keeps the order in which members were written. Invariant: only the class itself
is written to, once, while it is made.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any, ClassVar, cast

from ensue.errors import Origin
from ensue.schema.computations.contract import Computation
from ensue.schema.member import Member, declare
from ensue.schema.property import MISSING, Property
from ensue.schema.record import Record
from ensue.schema.relation import Link, Maybe, One, Ref
from ensue.schema.written.annotation import Names, Written, names_of_caller, own_annotations, split

_ANNOTATED: dict[Any, type[Any]] = {cls: cls for cls in (Property, One, Maybe, Ref)} | {
    cls.__name__: cls for cls in (Property, One, Maybe, Ref)
}


def collect_members(cls: type[Any], annotated: Callable[[Any, Any, Names], Member | None] | None = None) -> None:
    """Gather the members of a class, inherited ones first, and put those that were only annotated on it."""
    names = names_of_caller(cls.__module__)
    members: dict[str, Member] = {}
    for base in reversed(cls.__mro__[1:]):
        members.update(vars(base)["__ensue_members__"] if "__ensue_members__" in vars(base) else _lent(base, names))
    found = {name: member for name, member in vars(cls).items() if isinstance(member, Member)}
    ordered: dict[str, Member] = {}
    for name, annotation in own_annotations(cls).items():
        if name.startswith("__"):
            continue
        member = (annotated or _annotated)(annotation, vars(cls).get(name, MISSING), names)
        if member is not None:
            ordered[name] = member if name in found else declare(member, cls, name, origin=cls.__ensue_origin__)
    bare = {name: member for name, member in found.items() if name not in ordered}
    if not vars(cls).get("__ensue_defined__"):
        bare = {name: _unannotated(member) for name, member in bare.items()}
    members.update({**ordered, **bare})
    cls.__ensue_members__ = members
    cls.__ensue_accepted__ = frozenset({"id"} | {name for name, member in members.items() if member.accepted})


def _annotated(annotation: Any, given: Any, names: Names) -> Member | None:
    head, content = split(annotation, names)
    if head is ClassVar or head == "ClassVar":
        return given if isinstance(given, Member) else None
    kind = _ANNOTATED.get(head) if isinstance(head, type | str) else None
    if kind is None:
        return given if isinstance(given, Member) else Unknown(annotation)
    if given is not MISSING and not isinstance(given, kind):
        return Misfit(kind, given)
    member: Any = kind() if given is MISSING else given
    if member.written is None and content is not None:
        member.written = Written(content, names)
    return cast("Member", member)


def _unannotated(member: Member) -> Member:
    """The member, unless it is one that is stored: those have an annotation, by which a reader and a type checker know them."""
    if not isinstance(member, Property | Link):
        return member
    stored = cast("Property[Any] | Link", member)
    kind, shown = type(stored).__name__, _type_of(stored)
    given = "" if stored.default is MISSING else f"default={stored.default!r}"
    return Misplaced(
        f"it has no annotation, and what has none is derived. Write `{stored.name}: {kind}[{shown}] = {kind}({given})`.",
        stored.origin,
    )


def _type_of(member: Property[Any] | Link) -> str:
    arguments = typing.get_args(getattr(member, "__orig_class__", None))
    if arguments:
        return getattr(arguments[0], "__name__", str(arguments[0]))
    if member.default is MISSING or member.default is None:
        return "…"
    return type(member.default).__name__


def _lent(base: type[Any], names: Names) -> dict[str, Member]:
    """The members of a class that is no declaring one: they would be lost, so each is a problem."""
    if issubclass(base, Record):
        return {}
    found = {name: item for name, item in vars(base).items() if isinstance(item, Member)}
    for name, annotation in own_annotations(base).items():
        member = None if name in found else _annotated(annotation, MISSING, names)
        if member is not None and not isinstance(member, Unknown):
            found[name] = member
    problem = (
        f"it stands in {base.__name__}, which is a plain class, so it would be lost. Write "
        f"`class {base.__name__}(Entity, abstract=True)`."
    )
    return {name: Misplaced(problem, member.origin) for name, member in found.items()}


class Misplaced(Member):
    """A member that can't stand where it does; reported when the schema is frozen."""

    def __init__(self, problem: str, origin: Origin) -> None:
        super().__init__()
        self.problem = problem
        self.origin = origin


class Misfit(Member):
    """A value that can't stand beside its annotation, such as `a: Property[int] = 5`; reported when the schema is frozen."""

    def __init__(self, kind: type[Any], given: Any) -> None:
        super().__init__()
        self.kind = kind.__name__
        self.given = given

    @property
    def shown(self) -> str:
        """What was given, for a message."""
        return type(self.given).__name__ if isinstance(self.given, Member) else repr(self.given)

    @property
    def advice(self) -> str:
        """What to write in its place."""
        if isinstance(self.given, Computation):
            return "What is derived has no annotation: leave out the annotation, or leave out the value to store it."
        if isinstance(self.given, Member):
            return f"Write {self.kind}(…), or change the annotation."
        if self.kind == "One":
            return "A required link has no default: leave out the value."
        return f"Write {self.kind}(default={self.given!r})."


class Unknown(Member):
    """An annotation that declares nothing ensue knows; reported when the schema is frozen."""

    def __init__(self, annotation: Any) -> None:
        super().__init__()
        self.annotation = annotation
