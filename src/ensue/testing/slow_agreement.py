"""Runs a script on a real app and on the slow model side by side and compares all that they hold.

Decides what "the same" means: every member of every row, after every commit and at every read in between, and every
refusal. Leaves to `slow_script` what an operation means. Invariant: the app is used only through its public store
and controller.
"""

import itertools
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ensue.errors import EnsueError, Rejected
from ensue.expression.nodes import Children, Column
from ensue.expression.trace import match
from ensue.schema.model import Model, RecordModel
from ensue.testing.generate_operations import Condition, Cross, Dispatch, Nested, Operation, Read, Script, writable
from ensue.testing.slow_model import SlowModel
from ensue.testing.slow_script import Created, Deleted, Dispatched, Linked, Updated, Write, apply, contested, writes
from ensue.testing.slow_tables import GLOBAL_ID
from ensue.testing.slow_values import Place, agree, plain

Image = dict[str, dict[Any, dict[str, Any]]]
Size = Literal["as written", "small", "bulk"]
Audit = Callable[[], Awaitable[Iterable[object]]]


class Disagreement(AssertionError):
    """The app and the slow model differ; the message lists where."""


class RolledBack(Exception):
    """Ends a transaction of a script that is not to be kept."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a script is run; the final values must not depend on it.

    `size`: single calls become calls by condition and back. `reads`: read everything after each write, even inside of a
    transaction. `audit`: gives what the engine itself finds wrong.
    """

    size: Size = "as written"
    reads: bool = False
    audit: Audit | None = None


class Agreement:
    """One app beside one slow model. `controller` is the app's; `exceptions` counts refusals and what was left out."""

    def __init__(self, model: Model, controller: Any, options: Options | None = None) -> None:
        self.model = model
        self.slow = SlowModel(model)
        self.exceptions = 0
        self._controller, self._store = controller, controller.store
        self._options = options if options is not None else Options()
        self._ids: dict[str, dict[int, int]] = {name: {} for name in model.records}
        self._depth = 0
        self._done: list[str] = []

    async def run(self, script: Script) -> Image:
        """Run a script, comparing after every commit; the final values."""
        for operation in script:
            await self._operate(operation)
            await self.compare()
        if self._options.audit is not None:
            # At the end only: a whole recompute costs far more than a script, and what goes wrong early stays wrong.
            findings = list(await self._options.audit())
            if findings:
                raise Disagreement(f"The app agrees with the slow model, but its audit found: {findings}")
        return self.expected()

    async def compare(self) -> None:
        """Raise `Disagreement` if the app holds anything else than the slow model says."""
        expected, actual = self.expected(), await self.actual()
        found = [*differences(expected, actual)]
        if found:
            done = "\n  ".join(self._done[-12:])
            raise Disagreement("The app and the slow model differ:\n" + "\n".join(found[:20]) + f"\nafter\n  {done}")

    async def clear(self) -> None:
        """Delete everything through the store, so that the next script finds the database as if it were new."""
        records = [record for record in self.model.records.values() if writable(record)]
        for record in records:
            empty = {link.name: None for link in record.links.values() if link.optional}
            if empty and self.slow.tables.rows[record.name]:
                await self._write(Updated(record.name, tuple(self.slow.tables.rows[record.name]), empty, _EVERY))
        for record in itertools.islice(itertools.cycle(reversed(records)), len(records) ** 2):
            if self.slow.tables.rows[record.name]:
                await self._write(Deleted(record.name, tuple(self.slow.tables.rows[record.name]), _EVERY))
        await self.compare()

    # --- Values -------------------------------------------------------------------------------------------------------

    def expected(self) -> Image:
        """All that the slow model holds, keyed as `actual` is."""
        image = self.slow.image()
        return {
            record.name: {self._key(record, row, values): values for row, values in image[record.name].items()}
            for record in self._compared()
        }

    async def actual(self) -> Image:
        """All that the app holds, read by the store, with the slow model's ids."""
        read = {record.name: await self._read(record) for record in self._compared()}
        for record in self._compared():
            self._recognise(record, read[record.name])
        labels = {record.name: self._labels(record.name) for record in self._compared()}
        result: Image = {}
        for record in self._compared():
            rows = result[record.name] = {}
            for id_, values in read[record.name].items():
                named = {
                    name: labels[record.links[name].target].get(value, f"unknown id {value}")
                    if name in record.links and value is not None
                    else plain(value)
                    for name, value in values.items()
                }
                rows[self._key(record, labels[record.name].get(id_, f"unknown id {id_}"), named)] = named
        return result

    def _labels(self, record: str) -> dict[int, int]:
        # Of living rows only: an id that was rolled back may be given to another row.
        living = self.slow.tables.rows[record]
        return {id_: label for label, id_ in self._ids[record].items() if label in living}

    def _compared(self) -> list[RecordModel]:
        return [record for record in self.model.records.values() if record.kind != "event"]

    def _key(self, record: RecordModel, row: Any, values: Mapping[str, Any]) -> Any:
        # Ids that nobody chose say nothing: an implicit link is what it links, a derived record what it derives from.
        if record.implicit:
            return tuple(values[name] for name in record.links)
        return row if (link := _source_link(record)) is None else values[link]

    async def _read(self, record: RecordModel) -> dict[int, dict[str, Any]]:
        if record.kind == "globals":
            rows = {GLOBAL_ID: await self._store.globals(record.cls)}
            self._ids[record.name][GLOBAL_ID] = GLOBAL_ID
        else:
            found = await self._store.find(record.name if record.implicit else record.cls)
            rows = {row.id: row for row in found}
        return {
            id_: {name: _member(record, row, name) for name in self.slow.names(record.name)}
            for id_, row in rows.items()
        }

    def _recognise(self, record: RecordModel, rows: Mapping[int, Mapping[str, Any]]) -> None:
        """Find out which derived record is which: by the link to its source that its mapping holds."""
        transform, link = record.transform, _source_link(record)
        if transform is None or link is None:
            return
        by_source = {values[link]: id_ for id_, values in rows.items()}
        for label, values in self.slow.image()[record.name].items():
            source = self._ids[transform.source].get(values[link])
            if source in by_source:
                self._ids[record.name][label] = by_source[source]

    # --- Operations ---------------------------------------------------------------------------------------------------

    async def _operate(self, operation: Operation) -> None:
        if isinstance(operation, Read):
            await self.compare()
        elif isinstance(operation, Nested):
            await self._transaction(operation.operations, kept=operation.kept)
        elif isinstance(operation, Cross) and self._depth == 0:
            await self._transaction((operation,), kept=True)
        elif not (isinstance(operation, Dispatch) and self._depth):
            for write in writes(self.slow, operation):
                await self._write(write)

    async def _transaction(self, operations: Iterable[Operation], *, kept: bool) -> None:
        before = self.slow.snapshot()
        self._done.append(f"begin (kept: {kept})")
        self._depth += 1
        try:
            async with self._store.transaction():
                for operation in operations:
                    await self._operate(operation)
                if not kept:
                    raise RolledBack
        except RolledBack:
            self.slow.restore(before)
        finally:
            self._depth -= 1
            self._done.append("end")

    async def _write(self, write: Write) -> None:
        for part in self._sized(write):
            if self._gone(part):
                continue
            # Whether it is allowed depends on the order in which a database looks, so it is left out.
            if contested(self.slow, part):
                self.exceptions += 1
                continue
            self._done.append(repr(part))
            outcome = apply(self.slow, part)
            if isinstance(outcome, Exception):
                self.exceptions += 1
                await self._refused(part, outcome)
                continue
            await self._do(part)
            await self._meet(outcome)
            if self._options.reads:
                await self.compare()

    def _gone(self, write: Write) -> bool:
        """Whether an earlier part of the same call took the row away."""
        if not isinstance(write, Deleted | Updated) or write.condition is not None:
            return False
        return write.rows[0] not in self.slow.tables.rows[write.record]

    async def _meet(self, created: Iterable[Place]) -> None:
        """Learn the ids of the records that an interaction created: those not known yet, in order."""
        for record, label in created:
            known = self._labels(record)
            found = await self._store.find(self.model.records[record].cls)
            self._ids[record][label] = min(row.id for row in found if row.id not in known)

    async def _refused(self, write: Write, refusal: EnsueError) -> None:
        """The app must refuse it too. In a savepoint: PostgreSQL would give up the whole transaction."""
        try:
            if self._depth:
                async with self._store.transaction():
                    await self._do(write)
            else:
                await self._do(write)
        except Rejected:
            return
        raise Disagreement(f"The app allows what the slow model refuses: {write!r}, because: {refusal}")

    def _sized(self, write: Write) -> list[Write]:
        if self._options.size == "bulk":
            return [_in_bulk(write)]
        apart = isinstance(write, Created) and not write.together
        return list(_in_small(write)) if apart or self._options.size == "small" else [write]

    # --- The app's side -----------------------------------------------------------------------------------------------

    async def _do(self, write: Write) -> None:
        match write:
            case Created():
                await self._create(write)
            case Updated():
                await self._update(write)
            case Deleted() if write.condition is not None:
                await self._store.delete_many(write.record, self._where(write.record, write.rows, write.condition))
            case Deleted():
                await self._store.delete(write.record, self._ids[write.record][write.rows[0]])
            case Linked():
                await self._link(write)
            case Dispatched():
                interaction = self.model.interactions[write.interaction].cls
                await self._controller.dispatch(interaction(**self._given(write.interaction, write.values)))

    async def _create(self, write: Created) -> None:
        cls = self.model.records[write.record].cls
        made = [cls(**self._given(write.record, values)) for _, values in write.rows]
        created = await self._store.create_many(made) if write.together else [await self._store.create(made[0])]
        for (label, _), row in zip(write.rows, created, strict=True):
            self._ids[write.record][label] = row.id

    async def _update(self, write: Updated) -> None:
        record = write.record
        values = self._given(record, write.values)
        if write.by:
            values = {name: getattr(self.model.records[record].cls, name) + value for name, value in values.items()}
        if write.condition is None:
            await self._store.update(record, self._ids[record][write.rows[0]], **values)
        else:
            await self._store.update_many(record, self._where(record, write.rows, write.condition), **values)

    async def _link(self, write: Linked) -> None:
        relation = self.model.records[write.relation]
        for record in self.model.records.values():
            for collection in record.collections.values():
                if collection.relation != write.relation or not isinstance(collection.hops[0], Children):
                    continue
                ends = (write.source, write.target)
                host, item = ends if collection.hops[0].link == relation.source else ends[::-1]
                call = self._store.unlink if write.remove else self._store.link
                many = getattr(record.cls, collection.name)
                await call(many, self._ids[record.name][host], self._ids[collection.target][item])
                return

    def _where(self, record: str, rows: tuple[int, ...], condition: Condition) -> Any:
        if condition is _EVERY:
            return match("id", "in", [self._ids[record][row] for row in rows])
        return match(".".join(condition.path), condition.operator, condition.value)

    def _given(self, record: str, values: Mapping[str, Any]) -> dict[str, Any]:
        links = self.model.records[record].links
        return {
            name: self._ids[links[name].target][value] if name in links and value is not None else value
            for name, value in values.items()
        }


_EVERY = Condition(("id",), "in", None)
"""Stands for "these rows", by their ids."""


def _in_small(write: Write) -> Iterable[Write]:
    if isinstance(write, Created):
        return [Created(write.record, (row,), together=False) for row in write.rows]
    if isinstance(write, Updated):
        return [Updated(write.record, (row,), write.values, by=write.by) for row in write.rows]
    if isinstance(write, Deleted):
        return [Deleted(write.record, (row,)) for row in write.rows]
    return [write]


def _in_bulk(write: Write) -> Write:
    if isinstance(write, Created):
        return Created(write.record, write.rows, together=True)
    if isinstance(write, Updated):
        return Updated(write.record, write.rows, write.values, write.condition or _EVERY, by=write.by)
    if isinstance(write, Deleted):
        return Deleted(write.record, write.rows, write.condition or _EVERY)
    return write


def _member(record: RecordModel, row: Any, name: str) -> Any:
    value = getattr(row, name)
    return value if name not in record.links or value is None or isinstance(value, int) else value.id


def _source_link(record: RecordModel) -> str | None:
    """The link of a derived record to its source, by which one is told from another."""
    if record.transform is None or record.transform.mapping is None:
        return None
    for name, node in record.transform.mapping.items():
        if name in record.links and isinstance(node, Column) and (node.path, node.field) == ((), "id"):
            return name
    raise Disagreement(f"{record.name} maps no link to its source, so its records can't be told apart.")


def differences(expected: Image, actual: Image) -> Iterable[str]:
    """Where two images differ, one line each."""
    for record, rows in expected.items():
        for key in rows.keys() ^ actual[record].keys():
            yield f"{record} {key}: {'missing' if key in rows else 'should not exist'} in the app"
        for key in rows.keys() & actual[record].keys():
            for name, value in rows[key].items():
                if not agree(value, actual[record][key][name]):
                    yield f"{record} {key} {name}: expected {value!r}, the app has {actual[record][key][name]!r}"


# --- The same script, divided otherwise -------------------------------------------------------------------------------


def one_by_one(script: Script) -> Script:
    """The writes that are kept, each in a transaction of its own."""
    return tuple(_flat(script))


def all_at_once(script: Script) -> Script:
    """The writes that are kept, in one transaction."""
    return (Nested(tuple(_flat(script)), kept=True),)


def _flat(script: Iterable[Operation]) -> Iterable[Operation]:
    for operation in script:
        if isinstance(operation, Nested):
            yield from _flat(operation.operations) if operation.kept else ()
        elif not isinstance(operation, Read | Dispatch):
            yield operation
