"""What the passes build up: names by kind, typed fields on demand, and all problems found so far.

Decides how a computation is given its types: a field is built when something first asks for it, so declarations may
refer to each other in any order. Invariant: a problem is reported once; whatever depends on a broken declaration fails
silently.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ensue.errors import DeclarationError, Origin, PlannedError, Problem
from ensue.expression.records import CollectionType, FieldType, LinkType, Member
from ensue.expression.trace import Path
from ensue.schema.model import ID_TYPE, CollectionModel, FieldModel, LinkModel
from ensue.schema.passes.reach import class_of
from ensue.schema.record import Record
from ensue.schema.schema import Draft, Schema
from ensue.schema.written.names import suggestion

REPORTED = DeclarationError(())
"""Raised where something depends on a declaration whose problem was reported already."""

CYCLE_CODE = "E0130"


class Build:
    """The state of one `freeze`; it answers the expression resolver (`RecordTypes`) while the model is growing."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.drafts: dict[str, Draft] = dict(schema.drafts)
        self.problems: list[Problem] = list(schema.problems)
        self.links: dict[str, dict[str, LinkModel]] = {name: {} for name in self.drafts}
        self.collections: dict[str, dict[str, CollectionModel]] = {name: {} for name in self.drafts}
        self.fields: dict[str, dict[str, FieldModel]] = {name: {} for name in self.drafts}
        self.unique: dict[str, list[tuple[str, ...]]] = {name: [] for name in self.drafts}
        self.broken: set[tuple[str, str]] = set()
        self.build_field: Callable[[Draft, str], FieldModel]
        self.later: list[Callable[[], None]] = []
        """What can be built only when every field has its type."""
        self._stack: list[tuple[str, str]] = []

    # --- Problems -----------------------------------------------------------------------------------------------------

    def report(self, error: DeclarationError, where: str, origin: Origin) -> None:
        """Take the problems of an error, with the place and name of the declaration that has them."""
        for problem in error.problems:
            place = problem.origin if problem.origin is not None else origin
            placed = (
                problem.message.startswith(where) or problem.code == CYCLE_CODE
            )  # whose message names all on the way
            message = problem.message if placed else f"{where}: {problem.message}"
            found = Problem(type(error).code if problem.code == DeclarationError.code else problem.code, message, place)
            if found not in self.problems:
                self.problems.append(found)

    def problem(self, message: str, origin: Origin) -> None:
        """Report one problem."""
        self.problems.append(Problem(DeclarationError.code, message, origin))

    def give_up(self, record: str, name: str) -> None:
        """Mark a member whose problem was reported."""
        self.broken.add((record, name))

    # --- Names --------------------------------------------------------------------------------------------------------

    def record(self, reference: Any) -> str:
        """The name of the record type that a class, name, lambda or `Post.tags.relation` stands for."""
        if isinstance(reference, Path):
            return self._relation_of(reference)
        if isinstance(reference, str):
            return self._known(reference)
        if not isinstance(reference, type) and callable(reference):
            try:
                reference = reference()
            except NameError as error:
                raise DeclarationError(f"{error}.{suggestion(str(error.name), self.drafts)}") from error
            return self.record(reference)
        cls = class_of(reference)
        if cls is None:
            raise DeclarationError(
                f"{reference!r} is no record type; expected an Entity, Relation or Interaction class, or its name."
            )
        return self.class_name(cls)

    def class_name(self, cls: type[Record]) -> str:
        """The name of a class that belongs to this app. Raises DeclarationError for an abstract or unknown one."""
        if cls.__dict__.get("__ensue_abstract__"):
            raise planned_abstract(cls.__name__)
        draft = self.drafts.get(cls.__name__)
        if draft is None or draft.cls is not cls:
            raise DeclarationError(
                f"{cls.__name__} does not belong to this app. Add it to `entities=` (or `interactions=`)."
            )
        return draft.name

    def _known(self, name: str) -> str:
        if name in self.drafts:
            return name
        raise DeclarationError(f"there is no record type {name!r}.{suggestion(name, self.drafts)}")

    def _relation_of(self, path: Path) -> str:
        *before, last = path.steps
        if last == "relation" and len(before) == 1 and path.root.record in self.drafts:
            collection = self.collections[path.root.record].get(before[0])
            if collection is not None and collection.relation is not None:
                return collection.relation
        raise DeclarationError(
            f"{path!r} is no record type; expected a class, a name, or `Post.tags.relation` of a plain n:n."
        )

    # --- Types, as the resolver asks for them -------------------------------------------------------------------------

    def member(self, record: str, name: str) -> Member | None:
        """As `Model.member`."""
        if name == "id":
            return FieldType(ID_TYPE, optional=False)
        if name in ("source", "target") and name not in self.links[record]:
            ends = self.ends(record)
            name = name if len(ends) < 2 else ends[0 if name == "source" else 1]
        if (record, name) in self.broken:
            raise REPORTED
        if (link := self.links[record].get(name)) is not None:
            return LinkType(link.target, link.optional, link.name)
        if (collection := self.collections[record].get(name)) is not None:
            return CollectionType(collection.target, collection.hops, collection.single)
        field = self.field(record, name)
        return None if field is None else FieldType(field.type, field.optional)

    def names(self, record: str) -> tuple[str, ...]:
        """As `Model.names`."""
        return tuple(dict.fromkeys(("id", *self.drafts[record].members, *self.links[record], *self.fields[record])))

    def ends(self, record: str) -> tuple[str, ...]:
        """The first two required links of a relation, else nothing."""
        if self.drafts[record].kind != "relation":
            return ()
        return tuple(name for name, link in self.links[record].items() if not link.optional)[:2]

    def field(self, record: str, name: str) -> FieldModel | None:
        """The field, built now if it was not yet. Raises REPORTED if it is broken, an error if it depends on itself."""
        found = self.fields[record].get(name)
        if found is not None:
            return found
        key = (record, name)
        if key in self.broken:
            raise REPORTED
        member = self.drafts[record].members.get(name)
        if member is None:
            return None
        if key in self._stack:
            raise self.cycle([*self._stack[self._stack.index(key) :], key])
        self._stack.append(key)
        try:
            built = self.build_field(self.drafts[record], name)
        except DeclarationError as error:
            self.report(error, f"{record}.{name}", self.origin(record, name))
            self.give_up(record, name)
            raise REPORTED from error
        finally:
            self._stack.pop()
        self.fields[record][name] = built
        return built

    def set_field(self, record: str, name: str, **changes: Any) -> None:
        """Complete a field that had its type early."""
        self.fields[record][name] = replace(self.fields[record][name], **changes)

    def origin(self, record: str, name: str) -> Origin:
        """Where a member is declared, or the computation that replaces it."""
        draft = self.drafts[record]
        member = draft.computations.get(name, draft.members.get(name))
        return draft.origin if member is None else member.origin

    def cycle(self, path: list[tuple[str, str]]) -> DeclarationError:
        """The error for computations that depend on each other, with the way round and its lines."""
        way = " -> ".join(f"{record}.{name}" for record, name in path)
        lines = ", ".join(f"{record}.{name} at {self.origin(record, name)}" for record, name in path[:-1])
        return DeclarationError(
            Problem(
                CYCLE_CODE,
                f"These computations depend on each other: {way} ({lines}). Break the cycle at one of them.",
                self.origin(*path[0]),
            )
        )


def planned_abstract(name: str) -> DeclarationError:
    """The error for a link to, or a query over, an abstract entity."""
    return PlannedError(
        f"{name} is abstract: relations to it and queries over it are planned. Name one of its concrete subclasses."
    )
