"""`Interaction`: what a user may do, with its payload as annotations; `Context`: who asks and through what.

Decides how a payload is declared and kept. Validation of its types belongs to the dispatch. Invariant: `id`, `user`
and `at` are the framework's, there once the interaction was dispatched.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Never, cast, dataclass_transform

from ensue.errors import InvalidValue, Origin, PlannedError
from ensue.expression.trace import Path, Root
from ensue.schema.entity import Entity
from ensue.schema.member import Member
from ensue.schema.property import MISSING, PayloadField
from ensue.schema.record import Record, injected, refuse_unknown
from ensue.schema.relation import Link, Maybe, Ref
from ensue.schema.written.annotation import Names, Written, split, split_optional
from ensue.schema.written.body import collect_members
from ensue.schema.written.origin import here

if TYPE_CHECKING:
    from ensue.engine.controller import Controller


_NOT_GIVEN: Any = None
"""In place of a controller, where a test makes a Context by itself."""


@dataclass(frozen=True, slots=True)
class Context:
    """Who asks (`user`, None for nobody), through what (`request`, None outside HTTP), and the app's `controller`."""

    user: Any = None
    request: Any = None
    controller: Controller = _NOT_GIVEN


class _Given(Member):
    """`user`, `at`, `id`: there after the dispatch."""

    accepted = False

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def __get__(self, obj: Record | None, owner: type[Any]) -> Any:
        if obj is None:
            return Path(Root(owner.__name__), (self.name,))
        return injected(obj, self.name)

    def __set__(self, obj: object, value: Never) -> None:
        raise AttributeError(f"{self.name} can't be assigned: it is given by the dispatch.")


@dataclass_transform(kw_only_default=True, field_specifiers=(Maybe,))
class Interaction(Record):
    """What a user may do.

    >>> class Rename(Interaction):
    ...     name: str
    >>> Rename(name="x").name
    'x'

    The payload is validated and stored as an event; `reads=Post` makes one that only reads and stores none.
    """

    __ensue_origin__: ClassVar[Origin] = Origin("", 0)
    __ensue_given__: ClassVar[frozenset[str]] = frozenset({"id", "user", "at"})
    __ensue_reads__: ClassVar[Any] = None  # a class, or a function that gives it
    __ensue_defaults__: ClassVar[dict[str, Any]] = {}
    __ensue_required__: ClassVar[frozenset[str]] = frozenset()

    if TYPE_CHECKING:

        @property
        def user(self) -> Any:
            """The user who dispatched it; None for nobody."""

        @property
        def id(self) -> int:
            """The event's id."""
            ...

        @property
        def at(self) -> datetime:
            """The instant of the dispatch."""
            ...

        def __init__(self, **values: Any) -> None: ...

    else:
        user = _Given("user")
        id = _Given("id")
        at = _Given("at")

        def __init__(self, **values):
            if not self.__ensue_accepted__.issuperset(values):
                refuse_unknown(type(self), values)
            if not (values.keys() >= self.__ensue_required__):
                _refuse_missing(self, values)
            for name, default in self.__ensue_defaults__.items():
                if name not in values:
                    values[name] = copy.copy(default)
            self.__dict__["_values"] = values

    def __init_subclass__(cls, *, reads: type[Entity] | Callable[[], type[Entity]] | None = None) -> None:
        super().__init_subclass__()
        cls.__ensue_reads__ = reads
        cls.__ensue_origin__ = here()
        collect_members(cls, _payload)
        payload = {
            name: member for name, member in cls.__ensue_members__.items() if isinstance(member, PayloadField | Link)
        }
        cls.__ensue_accepted__ = frozenset(payload)
        cls.__ensue_required__ = frozenset(name for name, member in payload.items() if member.default is MISSING)
        cls.__ensue_defaults__ = {
            name: member.default for name, member in payload.items() if member.default is not MISSING
        }

    async def allow(self, ctx: Context) -> bool:
        """Whether `ctx.user` may do this: False, or raise `Rejected(code, message)`, to refuse."""
        return True


class _RefField(Ref[Any]):
    """A reference of a payload, `post: Ref[Post]` or `post: Ref[Post] | None = None`."""


def _payload(annotation: Any, given: Any, names: Names) -> Member | None:
    bare, optional = split_optional(annotation)
    head, content = split(bare, names)
    if head is ClassVar or head == "ClassVar":
        return None
    if head in {Ref, "Ref", Maybe, "Maybe"}:
        link = cast("Link", given) if isinstance(given, Maybe) else _RefField()
        if link is not given:
            link.default = given
            link.optional = optional or head in {Maybe, "Maybe"}
        link.written = Written(content, names)
        return link
    field = PayloadField(default=given)
    field.written = Written(annotation, names)
    return field


def _refuse_missing(interaction: Interaction, values: dict[str, Any]) -> Never:
    cls = type(interaction)
    missing = [name for name in cls.__ensue_members__ if name in cls.__ensue_required__ and name not in values]
    raise InvalidValue(f"{cls.__name__} needs {', '.join(missing)}.", fields=dict.fromkeys(missing, "is missing"))


class Activity:
    """An ordered composition of interactions; planned."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        raise PlannedError(
            "Activity is planned. Until then order interactions by a StateMachine that their allow() reads."
        )

    def __init_subclass__(cls, **options: Any) -> None:
        raise PlannedError(
            f"Activity ({cls.__name__}) is planned. Until then order interactions by a StateMachine that their "
            "allow() reads."
        )


def define_type(*arguments: Any, **options: Any) -> Never:
    """Further value types; planned."""
    raise PlannedError("define_type is planned. Use one of the built-in types, or JSON.")
