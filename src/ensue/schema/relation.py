"""Links between records as declared: `One`, `Maybe`, `Inverse`, `Many`, `Through`, `Ref`.

Decides what can be said about a link. Targets are found and sides are paired when the schema is frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Never, TypeVar, cast, overload

from ensue.errors import PlannedError
from ensue.expression.trace import Expr, Order, Path, Root, Shape
from ensue.schema.member import Member, RecordsAreSnapshots
from ensue.schema.model import OnDelete
from ensue.schema.property import MISSING
from ensue.schema.record import Record, injected, make_record, record_model

if TYPE_CHECKING:
    from ensue.schema.entity import Entity

E = TypeVar("E", bound="Entity")
R = TypeVar("R", bound="Entity")


class Link(Member):
    """A reference to one record, held as its id in a column of its own."""

    optional = False

    def __init__(self, *, default: Any = MISSING, unique: bool = False, on_delete: OnDelete | None = None) -> None:
        super().__init__()
        self.default = default
        self.unique = unique
        self.on_delete = on_delete

    def value(self, record: Record) -> Any:
        found = super().value(record)
        if isinstance(found, int):
            return make_record(self._target_of(record), {"id": found}, record_model(record))
        return found

    def _target_of(self, record: Record) -> type[Any]:
        model = record_model(record)
        if model is not None:
            link = model.records[type(record).__name__].links.get(self.name)
            if link is not None:
                return model.records[link.target].cls
        if self.written is None:
            return Record
        target = self.written.content
        found = self.written.names.lookup().get(target, target) if isinstance(target, str) else target
        return found if isinstance(found, type) else Record


class One(Link, Generic[E]):
    """A required reference: `author: One[User]`. With `unique=True` it is one-to-one, and `Inverse` is its other side.

    `on_delete` says what the deletion of the other record does to this one: `"restrict"` (the default: refused),
    `"cascade"` (deleted too).
    """

    def __init__(self, *, unique: bool = False, on_delete: OnDelete | None = None) -> None:
        super().__init__(unique=unique, on_delete=on_delete)

    @overload
    def __get__(self, obj: None, owner: type[Any]) -> type[E]: ...
    @overload
    def __get__(self, obj: object, owner: type[Any]) -> E: ...
    def __get__(self, obj: object, owner: type[Any]) -> type[E] | E:
        return self.path(owner) if obj is None else self.value(cast("Record", obj))

    def __set__(self, obj: RecordsAreSnapshots, value: E) -> None:
        raise AttributeError(f"{self.name} can't be assigned: records are snapshots.")


class Maybe(Link, Generic[E]):
    """An optional reference: `editor: Maybe[User] = Maybe(default=None)`. With the default it may be left out.

    `on_delete` is `"detach"` by default: the reference becomes None.
    """

    optional = True

    @overload
    def __init__(self, *, default: None, unique: bool = ..., on_delete: OnDelete | None = ...) -> None: ...
    @overload
    def __init__(self, *, unique: bool = ..., on_delete: OnDelete | None = ...) -> None: ...
    def __init__(self, *, default: Any = MISSING, unique: bool = False, on_delete: OnDelete | None = None) -> None:
        super().__init__(default=default, unique=unique, on_delete=on_delete)

    @overload
    def __get__(self, obj: None, owner: type[Any]) -> type[E]: ...
    @overload
    def __get__(self, obj: object, owner: type[Any]) -> E | None: ...
    def __get__(self, obj: object, owner: type[Any]) -> type[E] | E | None:
        return self.path(owner) if obj is None else self.value(cast("Record", obj))

    def __set__(self, obj: RecordsAreSnapshots, value: E | None) -> None:
        raise AttributeError(f"{self.name} can't be assigned: records are snapshots.")


class Ref(One[E]):
    """A record in an interaction's payload, by id: `post: Ref[Post]`."""


class Collection(Member):
    """Records that point here; stored on their side."""

    accepted = False

    def __init__(self, target: Callable[[], type[Any]], *, inverse: str | None = None) -> None:
        super().__init__()
        self.target = target
        self.inverse = inverse


class Many(Collection, Generic[E]):
    """Many records: `comments = Many(lambda: Comment, inverse="post")`, where `Comment.post` is a `One` or `Maybe`.

    If the other side is a `Many` too, it is n:n, over an implicit relation that is `Post.tags.relation`.
    """

    def __init__(
        self,
        target: Callable[[], type[E]],
        *,
        inverse: str | None = None,
        symmetric: bool = False,
        on_delete: OnDelete | None = None,
    ) -> None:
        if symmetric:
            raise PlannedError(
                "Many(symmetric=True) is planned. Until then declare a Relation with two links to the same entity."
            )
        super().__init__(target, inverse=inverse)
        self.on_delete: OnDelete | None = on_delete

    @overload
    def __get__(self, obj: None, owner: type[Any]) -> Many[E]: ...
    @overload
    def __get__(self, obj: object, owner: type[Any]) -> list[E]: ...
    def __get__(self, obj: object, owner: type[Any]) -> Many[E] | list[E]:
        return self.path(owner) if obj is None else self.value(cast("Record", obj))

    def __set__(self, obj: object, value: Never) -> None:
        raise AttributeError(f"{self.name} can't be assigned: use `await store.link(…)` and `await store.unlink(…)`.")

    if TYPE_CHECKING:  # at class level a Path stands here, which has these

        @property
        def relation(self) -> type[Any]:
            """The implicit Relation class of a plain n:n, for side effects and queries."""
            ...

        def any(self, where: Callable[[type[E]], Expr[bool]]) -> Expr[bool]:
            """Whether one of the records satisfies `where`."""
            ...

        def fields(
            self,
            *fields: Any,
            where: Expr[bool] | None = ...,
            order_by: Sequence[Expr[Any] | Order] = ...,
            limit: int | None = ...,
        ) -> Shape:
            """A nested selection; `where`, `order_by` and `limit` apply per parent."""
            ...


class Inverse(Collection, Generic[E]):
    """The other side of a `One(unique=True)`: `profile = Inverse(lambda: Profile, inverse="user")`; one or None."""

    def __init__(self, target: Callable[[], type[E]], *, inverse: str) -> None:
        super().__init__(target, inverse=inverse)

    @overload
    def __get__(self, obj: None, owner: type[Any]) -> type[E]: ...
    @overload
    def __get__(self, obj: object, owner: type[Any]) -> E | None: ...
    def __get__(self, obj: object, owner: type[Any]) -> type[E] | E | None:
        return self.path(owner) if obj is None else self.value(cast("Record", obj))

    def __set__(self, obj: object, value: Never) -> None:
        raise AttributeError(f"{self.name} can't be assigned: change the reference on the other side.")


class Through(Many[R]):
    """The records at the end of each member's own link: `liked_by = Through(likes, lambda like: like.user)`."""

    def __init__(self, over: Many[E], target: Callable[[type[E]], type[R] | Many[R]]) -> None:
        Collection.__init__(self, cast("Any", None))
        self.over = over
        self.step = target
        self.on_delete = None


class RelationEnd:
    """`source` and `target`: a relation's first and second link under their generic names, for generic code."""

    def __init__(self, index: int) -> None:
        self.index = index

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self.name = name

    def __get__(self, obj: object, owner: type[Any]) -> Any:
        if obj is None:
            return Path(Root(owner.__name__), (self.name,))
        links = [name for name, member in owner.__ensue_members__.items() if isinstance(member, One)]
        return getattr(obj, links[self.index]) if links else injected(cast("Record", obj), self.name)
