"""`Store`: reading and writing records. Every write runs the reactive path; there is no other.

Decides what the public calls accept; leaves what they do to `writes` and `read`, and transactions to `engine`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast, overload

from ensue.engine.callbacks import running
from ensue.engine.collector import held_for
from ensue.engine.engine import Body, Engine
from ensue.engine.read import reads
from ensue.engine.transaction import Prepared, Transaction
from ensue.engine.writing import writes
from ensue.engine.writing.initials import prepare_initials
from ensue.errors import DeclarationError, PlannedError, UsageError
from ensue.expression.trace import Expr, Order, Path
from ensue.plan.plan import RecordPlan, Row
from ensue.schema.entity import Entity, Globals
from ensue.schema.record import Record, record_model, record_values
from ensue.schema.relation import Many
from ensue.store.statement import Work

E = TypeVar("E", bound=Entity)
G = TypeVar("G", bound=Globals)
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
V = TypeVar("V")
Fields = Sequence[Any] | None
Ordering = Expr[Any] | Order


if TYPE_CHECKING:

    class Select(Generic[V]):
        """What `select` is to give, for checkers: to be awaited, a list of rows."""

        def group_by(self, *keys: Expr[Any]) -> Self: ...
        def __await__(self) -> Generator[Any, None, list[V]]: ...


class Store:
    """The records of one app: `controller.store`.

    >>> post = await store.create(Post(title="x", author=User.ref(7)))  # doctest: +SKIP
    >>> await store.update(Post, post.id, title="y")  # doctest: +SKIP
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # --- Reading --------------------------------------------------------------------------------------------------------

    @overload
    async def find(
        self,
        record: type[E],
        where: Expr[bool] | None = ...,
        /,
        *,
        fields: Fields = ...,
        order_by: Sequence[Ordering] = ...,
        limit: int | None = ...,
        offset: int = ...,
    ) -> list[E]: ...
    @overload
    async def find(
        self,
        record: str,
        where: Expr[bool] | None = ...,
        /,
        *,
        fields: Fields = ...,
        order_by: Sequence[Any] = ...,
        limit: int | None = ...,
        offset: int = ...,
    ) -> list[Any]: ...
    async def find(
        self,
        record: Any,
        where: Expr[bool] | None = None,
        /,
        *,
        fields: Fields = None,
        order_by: Sequence[Any] = (),
        limit: int | None = None,
        offset: int = 0,
    ) -> list[Any]:
        """The records that satisfy `where`, in one SQL statement, however deep `fields` go.

        Without `fields` each carries its own columns and its to-one references by id. Without `order_by` they come by id; nulls
        are last. Raises DeclarationError for what the schema doesn't have, and for values that can't be compared so.

        >>> await store.find(Post, Post.author.name == "bob", order_by=[Post.id.desc()], limit=20)  # doctest: +SKIP
        """
        return await self._engine.read(
            lambda reader: reads.find(
                reader, record, where, fields=fields, order_by=order_by, limit=limit, offset=offset
            )
        )

    @overload
    async def find_one(
        self, record: type[E], where: Expr[bool] | None = ..., /, *, fields: Fields = ...
    ) -> E | None: ...
    @overload
    async def find_one(self, record: str, where: Expr[bool] | None = ..., /, *, fields: Fields = ...) -> Any: ...
    async def find_one(self, record: Any, where: Expr[bool] | None = None, /, *, fields: Fields = None) -> Any:
        """The first record (by id) that satisfies `where`, or None."""
        return await self._engine.read(lambda reader: reads.find_one(reader, record, where, fields=fields))

    @overload
    async def get(self, record: type[E], id: int, /, *, fields: Fields = ...) -> E: ...
    @overload
    async def get(self, record: str, id: int, /, *, fields: Fields = ...) -> Any: ...
    async def get(self, record: Any, id: Any, /, *, fields: Fields = None) -> Any:
        """The record with that id. Raises NotFound; `find_one` gives None instead.

        >>> post = await store.get(Post, 42, fields=[Post.title, Post.author.fields(User.name)])  # doctest: +SKIP
        """
        if not isinstance(id, int) or isinstance(id, bool):
            raise UsageError(
                f"store.get(…, {id!r}): expected an id, which is a number. By other values read with `store.find_one`."
            )
        return await self._engine.read(lambda reader: reads.get(reader, record, id, fields=fields))

    async def count(self, record: type[Entity] | str, where: Expr[bool] | None = None, /) -> int:
        """How many records satisfy `where`."""
        return await self._engine.read(lambda reader: reads.count(reader, record, where))

    async def globals(self, record: type[G], /) -> G:
        """The values of a Globals class."""
        return await self._engine.read(lambda reader: reads.read_globals(reader, record))

    @overload
    def select(self, a: Expr[A], /) -> Select[tuple[A]]: ...
    @overload
    def select(self, a: Expr[A], b: Expr[B], /) -> Select[tuple[A, B]]: ...
    @overload
    def select(self, a: Expr[A], b: Expr[B], c: Expr[C], /) -> Select[tuple[A, B, C]]: ...
    def select(self, *_values: Expr[Any]) -> Any:
        """Aggregates and groups over records; planned. Raises PlannedError."""
        raise PlannedError(
            "store.select(…).group_by(…) is planned. Declare a Count, Sum, … or read the records with `find`; any SQLAlchemy query "
            "over `app.metadata` works on the same tables."
        )

    # --- Writing --------------------------------------------------------------------------------------------------------

    @overload
    async def create(self, record: E, /) -> E: ...
    @overload
    async def create(self, record: str, /, **values: Any) -> Any: ...
    async def create(self, record: Any, /, **values: Any) -> Any:
        """Create a record; returns it with its id, its defaults and the initial values of what derives.

        Raises InvalidValue, whose `fields` say what is wrong with each value, and ConstraintViolated.

        >>> post = await store.create(Post(title="x", author=User.ref(7)))  # doctest: +SKIP
        """
        if isinstance(record, str):
            plan = self._plan(record)
        else:
            if values:
                raise UsageError(
                    "store.create(record, …) takes values only with a record type's name; give them to the record."
                )
            plan, values = self._instance(record)
        (row,) = await self._create(plan, [values])
        return plan.snapshot(row)

    async def create_many(self, records: Iterable[E], /) -> list[E]:
        """Create records of any types in one transaction and one propagation; returns them with their ids, in order."""
        if isinstance(records, Record):
            name = type(records).__name__
            raise UsageError(
                f"create_many takes several records, and was given one {name}. Call `store.create(record)`."
            )
        made = list(records)
        if len({type(record) for record in made}) == 1:
            loaded = (record for record in made if record_model(record) is not None)
            plan, _ = self._instance(next(loaded, made[0]))
            snapshot = plan.snapshot
            with held_for(len(made)):
                return [snapshot(row) for row in await self._create(plan, [record_values(record) for record in made])]
        given = [self._instance(record) for record in made]
        by_plan: dict[str, tuple[RecordPlan, list[Mapping[str, Any]]]] = {}
        for plan, values in given:
            by_plan.setdefault(plan.name, (plan, []))[1].append(values)
        created = await self._create_each(by_plan.values())
        following = {name: iter(rows) for name, rows in created.items()}
        return [plan.snapshot(next(following[plan.name])) for plan, _ in given]

    async def _create(self, plan: RecordPlan, values: Sequence[Mapping[str, Any]]) -> list[Row]:
        work, prepared = await self._creating(plan, values)
        return await self._engine.write(work, prepared=prepared)

    async def _create_each(
        self, by_plan: Iterable[tuple[RecordPlan, Sequence[Mapping[str, Any]]]]
    ) -> dict[str, list[Row]]:
        """Records of several types, by type: all or none, also inside a transaction that goes on without them."""
        prepared = Prepared()
        works: dict[str, Body[list[Row]]] = {}
        for plan, values in by_plan:
            works[plan.name], ready = await self._creating(plan, values)
            prepared.values.update(ready.values)
            prepared.allotted.update(ready.allotted)

        def work(tx: Transaction) -> Work[dict[str, list[Row]]]:
            created: dict[str, list[Row]] = {}
            for name, each in works.items():
                created[name] = yield from each(tx)
            return created

        if running() is None:
            return await self._engine.write(work, prepared=prepared)
        async with self.transaction():
            return await self._engine.write(work)

    async def _creating(
        self, plan: RecordPlan, values: Sequence[Mapping[str, Any]]
    ) -> tuple[Body[list[Row]], Prepared]:
        """What creates records in a transaction, after what is to be awaited before it."""
        if plan.awaits_initial:
            prepared, drafts = await prepare_initials(self._engine, plan, values)
            return lambda tx: writes.create_drafts(tx, plan, [list(draft) for draft in drafts]), prepared
        return lambda tx: writes.create_records(tx, plan, values), Prepared()

    async def update(self, record: type[Entity] | str, id: int, /, **values: Any) -> None:
        """Set values of one record: plain, or expressions relative to the row under its lock.

        Raises NotFound, InvalidValue and ConstraintViolated.

        >>> await store.update(Comment, 42, score=Comment.score + 1, post=Post.ref(9))  # doctest: +SKIP
        """
        plan = self._plan(record)
        await self._engine.write(lambda tx: writes.update_record(tx, plan, _id(id, plan.name), values))

    async def update_many(self, record: type[Entity] | str, where: Expr[bool], /, **values: Any) -> int:
        """Set values of every record that satisfies `where`, as `update` does; returns how many there were.

        >>> await store.update_many(Comment, Comment.post == post, approved=True)  # doctest: +SKIP
        """
        plan = self._plan(record)
        _require_condition("update_many", plan.name, where)
        return await self._engine.write(lambda tx: writes.update_where(tx, plan, where, values))

    async def delete(self, record: type[Entity] | str, id: int, /) -> None:
        """Delete one record, with what `on_delete` says of those that refer to it.

        Raises NotFound, and Rejected("restricted") where records refer to it that go neither with it nor without it.
        """
        plan = self._plan(record)
        await self._engine.write(lambda tx: writes.delete_record(tx, plan, _id(id, plan.name)))

    async def delete_many(self, record: type[Entity] | str, where: Expr[bool], /) -> int:
        """Delete every record that satisfies `where`; returns how many."""
        plan = self._plan(record)
        _require_condition("delete_many", plan.name, where)
        return await self._engine.write(lambda tx: writes.delete_where(tx, plan, where))

    async def link(self, relation: Many[E], host: Entity | int, item: E | int, /) -> None:
        """Join two records by an n:n collection (`store.link(Post.tags, post, tag)`); does nothing if they are."""
        plan, values = self._link(relation, host, item)
        await self._engine.write(lambda tx: writes.link_records(tx, plan, values))

    async def unlink(self, relation: Many[E], host: Entity | int, item: E | int, /) -> None:
        """Part two records that an n:n collection joins. Raises NotFound if it doesn't."""
        plan, values = self._link(relation, host, item)
        await self._engine.write(lambda tx: writes.unlink_records(tx, plan, values))

    # --- Transactions ---------------------------------------------------------------------------------------------------

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """Group writes: all or none. Nested, it is a savepoint.

        It belongs to the task that opened it; another one's use raises UsageError. A conflict can't be retried from here and
        raises Unavailable; see `run`.

        >>> async with store.transaction():  # doctest: +SKIP
        ...     await store.update(Account, 1, cents=Account.cents - 5)
        ...     await store.update(Account, 2, cents=Account.cents + 5)
        """
        return self._engine.transaction()

    async def run(self, work: Callable[[], Awaitable[V]], /) -> V:
        """Await `work()` in a transaction, and again from its start if it lost a conflict with another transaction.

        So `work` must do nothing outside of the database that can't happen twice. In a transaction it is a savepoint, called once.
        """
        if not callable(cast("Any", work)):
            if inspect.iscoroutine(work):
                work.close()
            raise _no_work(work)

        async def attempt() -> V:
            found = work()
            if not inspect.isawaitable(cast("Any", found)):
                raise _no_work(found)
            return await found

        return await self._engine.run(attempt)

    # --- What is meant --------------------------------------------------------------------------------------------------

    def _plan(self, record: Any) -> RecordPlan:
        return self._engine.plan.records[self._engine.reader.record(record).name]

    def _instance(self, record: Any) -> tuple[RecordPlan, dict[str, Any]]:
        if not isinstance(record, Record):
            raise UsageError(
                f"store.create takes a record, as Post(title=…), or a name with values; got {type(record).__name__} {record!r}."
            )
        if record_model(record) is not None:
            name = type(record).__name__
            raise UsageError(
                f"{record!r} was loaded from the store and exists. To change it call `store.update({name}, id, …)`; for another "
                f"one like it make a new {name}(…)."
            )
        return self._plan(type(record)), record_values(record)

    def _link(self, relation: Any, host: Any, item: Any) -> tuple[RecordPlan, dict[str, int]]:
        if not isinstance(relation, Path) or not relation.root.record or len(relation.steps) != 1:
            raise UsageError("link and unlink take a collection by its class, such as Post.tags.")
        plan = self._plan(relation.root.record)
        collection = plan.model.collections.get(relation.steps[0])
        if collection is None:
            raise DeclarationError(
                f"{plan.name}.{relation.steps[0]} is no collection; link and unlink take an n:n one."
            )
        name, near, far = writes.link_sides(plan, collection)
        return self._engine.plan.records[name], {near: _id(host, plan.name), far: _id(item, collection.target)}


def _no_work(found: object) -> UsageError:
    return UsageError(
        "store.run takes an async function without arguments, which it may call several times: `await store.run(work)`; got "
        f"{type(found).__name__}."
    )


def _id(given: Any, name: str) -> int:
    if isinstance(given, Record):
        if type(given).__name__ != name:
            raise UsageError(f"Got {given!r}; expected a {name} or its id.")
        return given.__ensue_id__()
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    raise UsageError(f"An id is an int (or a record that has one); got {type(given).__name__} {given!r}.")


def _require_condition(call: str, name: str, where: object) -> None:
    if where is None:
        raise UsageError(
            f"store.{call}({name}, None) would change every {name}. Say so with a condition: `{name}.id > 0`."
        )
