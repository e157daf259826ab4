"""`Schema`: one app's declarations, gathered and still open to change.

Decides what belongs to an app and lets `configure` change it. Whether it makes sense is for `freeze`. Invariant: a
change touches this schema only, never a class, so that two apps that share classes don't see each other's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar, cast

from ensue.errors import DeclarationError, Origin, Problem, UsageError
from ensue.schema.computations.contract import Computation
from ensue.schema.computations.transform import Transform
from ensue.schema.entity import Entity, Globals, Relation
from ensue.schema.interaction import Activity, Interaction
from ensue.schema.member import Member
from ensue.schema.model import RecordKind
from ensue.schema.property import Property
from ensue.schema.record import Record
from ensue.schema.relation import Link, Many, Maybe, One
from ensue.schema.written.annotation import Names, Written, split
from ensue.schema.written.names import suggestion
from ensue.schema.written.origin import here

T = TypeVar("T")
E = TypeVar("E", bound=Entity)

_NO_NAMES = Names("", {})


class Draft:
    """One record type as this app declares it: the class's members, with the app's changes."""

    def __init__(self, cls: type[Record], kind: RecordKind) -> None:
        self.cls = cls
        self.kind: RecordKind = kind
        self.name = cls.__name__
        self.origin: Origin = getattr(cls, "__ensue_origin__", Origin("", 0))
        self.members: dict[str, Member] = dict(cls.__ensue_members__)
        self.computations: dict[str, Computation[Any]] = {}
        """Computations that replace what the class says of a property."""
        self.unique: list[tuple[str, ...]] = list(getattr(cls, "__ensue_unique__", ()))
        self.transform: Transform[Any] | None = getattr(cls, "__ensue_derived__", None)
        self.implicit = False

    @property
    def abstract(self) -> tuple[str, ...]:
        """The names of the abstract entities it was declared under, nearest first."""
        return tuple(
            base.__name__
            for base in self.cls.__mro__[1:]
            if base.__dict__.get("__ensue_abstract__") and base not in (Entity, Relation)
        )

    def links(self) -> Iterator[tuple[str, Link]]:
        """The to-one links, in order."""
        return ((name, member) for name, member in self.members.items() if isinstance(member, Link))


class Registry(Generic[T]):
    """The record types of one kind: iterable, `.add(Class)`, `.get("Name")`."""

    def __init__(self, schema: Schema, kind: RecordKind) -> None:
        self._schema = schema
        self._kind: RecordKind = kind

    def __iter__(self) -> Iterator[type[T]]:
        return iter(
            [
                cast("type[T]", draft.cls)
                for draft in self._schema.drafts.values()
                if draft.kind == self._kind and not draft.implicit
            ]
        )

    def add(self, item: type[T], /) -> None:
        """Add a class to this app. Raises UsageError after `configure`."""
        self._schema.require_open(f"adding {getattr(item, '__name__', item)}")
        require_kind(item, self._kind, "schema: add(…)")
        self._schema.include(item)

    def get(self, name: str, /) -> type[T]:
        """The class of this name. Raises DeclarationError with a suggestion if there is none."""
        for item in self:
            if item.__name__ == name:
                return item
        raise DeclarationError(
            f"There is no {self._kind} {name!r}.{suggestion(name, (item.__name__ for item in self))}"
        )

    def __contains__(self, item: object) -> bool:
        return any(item is known or item == known.__name__ for known in self)


class Activities(Registry[Any]):
    """The registry of activities, which are planned: empty, and adding one is refused."""

    def __iter__(self) -> Iterator[type[Any]]:
        return iter(())

    def add(self, item: type[Any], /) -> None:
        """Refuse: activities are planned."""
        Activity(item)


class Slot:
    """`schema.property(X, "url").computation`: what the property is computed by, if anything."""

    def __get__(self, obj: object, owner: type[Any]) -> Any:
        return None if obj is None else cast("PropertySpec", obj).current()

    def __set__(self, obj: object, value: Computation[Any]) -> None:
        cast("PropertySpec", obj).replace(value)


class PropertySpec:
    """One property as this app has it."""

    computation = Slot()

    def __init__(self, schema: Schema, draft: Draft, name: str) -> None:
        self._schema = schema
        self._draft = draft
        self._name = name

    def current(self) -> Computation[Any] | None:
        """The computation, the app's own first."""
        member = self._draft.members[self._name]
        stated = cast("Computation[Any]", member) if isinstance(member, Computation) else None
        return self._draft.computations.get(self._name, stated)

    def replace(self, value: Computation[Any]) -> None:
        """Let the property be computed by `value`, keeping its type."""
        where = f"{self._draft.name}.{self._name}"
        self._schema.require_open(f"changing {where}")
        if not isinstance(value, Computation):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DeclarationError(
                f"{where}.computation = {value!r}: expected a computation, such as Custom(…), Computed(…) or StateMachine(…)."
            )
        if not isinstance(self._draft.members[self._name], Property | Computation):
            raise DeclarationError(f"{where} is a link, and only properties are computed. Add a property for it.")
        self._draft.computations[self._name] = value


class EntitySpec:
    """One record type as this app has it."""

    def __init__(self, schema: Schema, draft: Draft) -> None:
        self._schema = schema
        self._draft = draft

    @property
    def name(self) -> str:
        """The record type's name."""
        return self._draft.name

    def add_property(self, name: str, definition: Any, /) -> None:
        """Add a property, a link or a computation: `add_property("status", Property[str])`."""
        self._schema.require_open(f"adding {self._draft.name}.{name}")
        if not isinstance(name, str) or not name.isidentifier():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DeclarationError(f"{self._draft.name}: {name!r} is no name, as a class statement would have it.")
        if name in self._draft.members:
            raise DeclarationError(
                f"{self._draft.name} already has {name!r}. To compute it use schema.property({self._draft.name}, "
                f"{name!r}).computation = …."
            )
        self._draft.members[name] = _added(definition, name)


class Schema:
    """One app's declarations, open until `freeze`.

    `entities`, `relations`, `interactions`, `activities`, `globals`: iterable, with `.add(...)` and `.get("Name")`.
    """

    def __init__(self) -> None:
        self.drafts: dict[str, Draft] = {}
        self.problems: list[Problem] = []
        self.user: str | None = None
        self.frozen = False
        self.entities: Registry[Entity] = Registry(self, "entity")
        self.relations: Registry[Relation] = Registry(self, "relation")
        self.interactions: Registry[Interaction] = Registry(self, "event")
        self.activities: Registry[Any] = Activities(self, "event")
        self.globals: Registry[Globals] = Registry(self, "globals")

    @classmethod
    def collect(
        cls,
        *,
        user: type[Entity] | None = None,
        entities: Iterable[type[Entity]] = (),
        interactions: Iterable[type[Interaction]] = (),
        activities: Iterable[Any] = (),
        globals: Iterable[type[Globals]] = (),  # the public name of it
    ) -> Schema:
        """The schema of what is given and of every record type reachable from it."""
        from ensue.schema.passes.reach import reach  # the pass needs this module

        schema = cls()
        given: tuple[tuple[str, RecordKind, Iterable[type[Any]]], ...] = (
            ("user", "entity", [] if user is None else [user]),
            ("entities", "entity", entities),
            ("interactions", "event", interactions),
            ("globals", "globals", globals),
        )
        for argument, kind, items in given:
            for item in items:
                require_kind(item, kind, f"App({argument}=…)")
                schema.include(item)
        for item in activities:
            schema.activities.add(item)
        schema.user = None if user is None else user.__name__
        reach(schema)
        return schema

    def subclasses(self, of: type[E], /) -> Sequence[type[E]]:
        """Every record type of this app that is declared as an `of`."""
        if not isinstance(of, type):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DeclarationError(f"schema.subclasses({of!r}): expected the class that they inherit from.")
        return [draft.cls for draft in self.drafts.values() if issubclass(draft.cls, of) and draft.cls is not of]

    def property(self, of: type[Entity] | EntitySpec | str, name: str, /) -> PropertySpec:
        """The property `name` of a record type, to set its `.computation`."""
        draft = self._draft(of)
        if name not in draft.members:
            raise DeclarationError(f"{draft.name} has no property {name!r}.{suggestion(name, draft.members)}")
        return PropertySpec(self, draft, name)

    def entity(self, of: type[Entity] | str, /) -> EntitySpec:
        """A record type, to add properties to."""
        return EntitySpec(self, self._draft(of))

    def include(self, cls: type[Any]) -> bool:
        """Take a class into this app; False if it was there or is abstract. Another of the same name is a problem."""
        kind = kind_of(cls)
        if kind is None or cls.__dict__.get("__ensue_abstract__"):
            return False
        known = self.drafts.get(cls.__name__)
        if known is None:
            self.drafts[cls.__name__] = Draft(cls, kind)
            return True
        if known.cls is not cls:
            draft = Draft(cls, kind)
            problem = Problem(
                DeclarationError.code,
                f"two record types are called {cls.__name__!r}: this one and the one at {known.origin}. Rename one "
                "of them.",
                draft.origin,
            )
            if problem not in self.problems:
                self.problems.append(problem)
        return False

    def require_open(self, what: str) -> None:
        """Raise UsageError if the schema was frozen."""
        if self.frozen:
            raise UsageError(
                f"{what}: the schema is frozen. Change it in an integration's `configure`, the only time it is open."
            )

    def _draft(self, of: type[Entity] | EntitySpec | str) -> Draft:
        name = of if isinstance(of, str) else of.name if isinstance(of, EntitySpec) else of.__name__
        draft = self.drafts.get(name)
        if draft is None:
            raise DeclarationError(f"This app has no record type {name!r}.{suggestion(name, self.drafts)}")
        return draft


def kind_of(cls: type[Any]) -> RecordKind | None:
    """What kind of record type a class declares; None if it declares none."""
    if issubclass(cls, Relation):
        return "relation"
    if issubclass(cls, Entity):
        return "entity"
    if issubclass(cls, Interaction):
        return "event"
    return "globals" if issubclass(cls, Globals) else None


_EXPECTED: dict[RecordKind, type[Any]] = {
    "entity": Entity,
    "relation": Relation,
    "event": Interaction,
    "globals": Globals,
}


def require_kind(item: object, kind: RecordKind, where: str) -> None:
    """Raise DeclarationError unless `item` is a class of this kind; a Relation is an entity too."""
    expected = _EXPECTED[kind]
    if not isinstance(item, type):
        raise DeclarationError(f"{where}: found {item!r}; expected a class that inherits from {expected.__name__}.")
    if not issubclass(item, expected):
        actual = next((each for each in (Entity, Interaction, Globals) if issubclass(item, each)), None)
        found = item.__name__ if actual is None else f"{item.__name__}, which is an {actual.__name__}"
        raise DeclarationError(f"{where}: found {found}; expected a class that inherits from {expected.__name__}.")


_BARE: dict[Any, Callable[[], Property[Any] | Link]] = {Property: Property, One: One, Maybe: Maybe}


def _added(definition: Any, name: str) -> Member:
    if isinstance(definition, Computation | Property | Link | Many):
        added = cast("Member", definition)
        if added.name not in ("", name):
            raise DeclarationError(f"the definition of {name!r} is already the member {added.name!r}. Make a new one.")
        added.name = name
        return added
    head, content = split(definition, _NO_NAMES)
    kind = _BARE.get(head)
    if kind is None or content is None:
        raise DeclarationError(
            f"{name!r} is defined by {definition!r}; expected Property[…], One[…], Maybe[…] or a computation."
        )
    member = kind()
    member.name = name
    member.origin = here()
    member.written = Written(content, _NO_NAMES)
    return member
