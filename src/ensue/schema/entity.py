"""`Entity`, `Relation`, `Globals`: the classes of records.

Decides what a class statement declares: annotated with Property, One or Maybe is stored, everything else is derived.
Whether it makes sense is checked for a whole app when its schema is frozen. Invariant: a class keeps no trace of the
apps that use it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Never, Self, cast, dataclass_transform

from ensue.errors import DeclarationError, Origin, PlannedError, UsageError
from ensue.expression.trace import Expr, Path, Root, Shape
from ensue.schema.member import Member
from ensue.schema.property import Property
from ensue.schema.record import Record, make_record, record_values, refuse_unknown
from ensue.schema.relation import Maybe, One, RelationEnd
from ensue.schema.written.body import collect_members
from ensue.schema.written.origin import caller, here

if TYPE_CHECKING:
    from ensue.schema.computations.transform import Transform

__all__ = ["Entity", "EntityType", "Globals", "Keep", "Relation", "make_record", "record_values"]


class Keep:
    """How long records are kept; planned."""

    def __init__(self, *, days: int) -> None:
        self.days = days


if TYPE_CHECKING:
    # For checkers only: makes `Post.author == user` an expression although `Post.author` is typed `type[User]`.
    class EntityType(type):
        def __eq__(cls, other: Entity | type[Entity] | int | None) -> Expr[bool]: ...  # type: ignore[override]  # builds an expression
        def __ne__(cls, other: Entity | type[Entity] | int | None) -> Expr[bool]: ...  # type: ignore[override]  # builds an expression
        def __hash__(cls) -> int: ...
        def is_null(cls) -> Expr[bool]: ...
        def in_(cls, values: Iterable[Entity | int]) -> Expr[bool]: ...
else:
    EntityType = type


@dataclass_transform(kw_only_default=True, field_specifiers=(Property, One, Maybe))
class Declared(Record, metaclass=EntityType):
    """Above Entity for checkers alone: `id` of a class decorated itself would not be a constructor parameter."""


class Entity(Declared):
    """A type of record.

    >>> class Post(Entity):
    ...     title: Property[str]
    >>> Post(title="x").title
    'x'

    The constructor keeps what it is given; `await store.create(...)` applies defaults and checks types. Class
    arguments: `abstract=True` for one that only lends its members, `unique=[("a", "b")]`, `derived=Transform(...)`,
    `private=True` for records that hold secrets: they are never written as JSON, so no client and no effect gets them,
    and their repr tells the id only.
    """

    if TYPE_CHECKING:
        id: Property[int] = Property(default=0)  # may be left out

    else:

        def __init__(self, **values):
            if not self.__ensue_accepted__.issuperset(values):
                refuse_unknown(type(self), values)
            self.__dict__["_values"] = values

    __ensue_abstract__: ClassVar[bool] = True
    __ensue_unique__: ClassVar[tuple[tuple[str, ...], ...]] = ()
    __ensue_derived__: ClassVar[Transform[Any] | None] = None
    __ensue_origin__: ClassVar[Origin] = Origin("", 0)

    def __init_subclass__(
        cls,
        *,
        where: Callable[[Any], Expr[bool]] | None = None,
        abstract: bool = False,
        derived: Transform[Any] | None = None,
        unique: Sequence[tuple[str, ...]] = (),
        identity: tuple[str, ...] | None = None,
        retention: Keep | None = None,
        private: bool = False,
    ) -> None:
        super().__init_subclass__()
        for name, given in (("where", where), ("identity", identity), ("retention", retention)):
            if given is not None:
                raise PlannedError(f"class {cls.__name__}(…, {name}=…) is planned. Leave it out until then.")
        cls.__ensue_abstract__ = abstract
        cls.__ensue_derived__ = derived
        cls.__ensue_private__ = private or cls.__ensue_private__
        _require_transform(cls, derived)
        if abstract and derived is not None:
            raise DeclarationError(
                f"class {cls.__name__}(…, abstract=True, derived=…): an abstract entity has no records to derive. Give "
                "derived= to its subclasses."
            )
        inherited = (names for base in cls.__mro__[1:] for names in vars(base).get("__ensue_unique__", ()))
        cls.__ensue_unique__ = tuple(dict.fromkeys([*inherited, *_groups(cls, unique)]))
        cls.__ensue_origin__ = here()
        collect_members(cls)

    @classmethod
    def ref(cls, id: int) -> Self:  # the public name of it
        """A record known by its id only: `Post(author=User.ref(7))`. Raises UsageError for what is no number."""
        if not isinstance(cast("Any", id), int) or isinstance(id, bool):
            raise UsageError(
                f"{cls.__name__}.ref({id!r}): expected an id, which is a number. A record is given as it is."
            )
        return make_record(cls, {"id": id}, None)

    @classmethod
    def fields(cls, *fields: Any) -> Shape:
        """A selection of this record's fields."""
        return Shape(None, fields)

    @classmethod
    def define(cls, name: str, /, **members: Any) -> type[Any]:
        """The same as a class statement, for tools: `Entity.define("TaskEvent", status=Property[str])`.

        A member is `Property[str]`, `One[User]`, or an instance of anything that can stand in a class body.
        """
        frame = caller()
        for given in cast("tuple[Any, ...]", (name, *members)):
            if not isinstance(given, str) or not given.isidentifier():
                raise DeclarationError(
                    f"Entity.define({name!r}, …): {given!r} is no name, as a class statement would have it."
                )
        body: dict[str, Any] = {"__module__": frame.f_globals.get("__name__", "") if frame is not None else ""}
        body["__ensue_defined__"] = True
        body["__annotations__"] = {key: member for key, member in members.items() if not isinstance(member, Member)}
        body.update((key, member) for key, member in members.items() if isinstance(member, Member))
        return cast("type[Any]", type(cls)(name, (cls,), body))


class _Id(Member):
    """`Post.id`: given by the store, or brought along."""

    name = "id"

    def __get__(self, obj: Record | None, owner: type[Any]) -> Any:
        return Path(Root(owner.__name__), ("id",)) if obj is None else self.value(obj)

    def __set__(self, obj: object, value: object) -> Never:
        raise AttributeError("id can't be assigned: records are snapshots.")


if not TYPE_CHECKING:
    Entity.id = _Id()


def _require_transform(cls: type[Entity], derived: object) -> None:
    if derived is None:
        return
    from ensue.schema.computations.transform import Transform  # which knows entities

    if not isinstance(derived, Transform):
        raise DeclarationError(
            f"class {cls.__name__}(…, derived={derived!r}): expected a Transform, such as `derived=Transform(AddComment, "
            "lambda e: dict(text=e.text))`."
        )


def _groups(cls: type[Entity], unique: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    if not _is_list(unique) or not all(_is_list(names) and names for names in unique):
        raise DeclarationError(
            f"class {cls.__name__}(…, unique={unique!r}): expected a list of tuples of names, such as "
            '`unique=[("user", "day")]`. A single property says Property(unique=True).'
        )
    return [tuple(names) for names in unique]


def _is_list(given: object) -> bool:
    return isinstance(given, list | tuple)


class Relation(Entity, abstract=True):
    """An n:n relation with properties of its own; its first and second `One` are also `.source` and `.target`.

    The pair of them is unique.
    """

    source = RelationEnd(0)
    target = RelationEnd(1)


class Globals(Record):
    """Values of which there is one: `class Site(Globals): total_posts = Count(lambda: Post)`."""

    __ensue_origin__: ClassVar[Origin] = Origin("", 0)

    def __init_subclass__(cls, *, contention: str | None = None) -> None:
        super().__init_subclass__()
        if contention is not None:
            raise PlannedError(
                f"class {cls.__name__}(Globals, contention=…) is planned; all globals are exact. Leave it out until "
                "then."
            )
        cls.__ensue_origin__ = here()
        collect_members(cls)

    if not TYPE_CHECKING:

        def __init__(self) -> None:
            self.__dict__["_values"] = {}
