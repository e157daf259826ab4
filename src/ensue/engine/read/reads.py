"""The reads of a store, as engine work: `find`, `find_one`, `get`, `count`, `globals`, and the reads for effects and
inputs.

Decides which record type is meant and what is cached. Leaves transactions and flushing to the engine. Invariant: a
read is one statement, and a read whose structure was seen before is neither resolved nor compiled again.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from ensue.clock import Clock
from ensue.engine.read.key import Keys
from ensue.engine.read.query import CompiledQuery, Compiler, Query
from ensue.engine.read.selection import check_window, problem
from ensue.engine.read.source import Tables
from ensue.errors import InternalError, NotFound, PlannedError
from ensue.expression.trace import Expr, Path, Root, terms
from ensue.schema.model import Model, RecordModel
from ensue.schema.reference import record_model_of
from ensue.store.driver import Dialect
from ensue.store.statement import Run, Work

CACHED_MAX = 1000
VARIANTS_MAX = 8
_ID = Path(Root(None), ("id",))


class Reader:
    """What reads need of one app, with the cache of its compiled reads.

    `clock` gives the meaning of `now` in a condition; without one `now` is refused.
    """

    def __init__(self, model: Model, tables: Tables, dialect: Dialect, clock: Clock | None = None) -> None:
        self.model = model
        self.compiler = Compiler(model, tables, dialect)
        self.clock = clock
        self.compiled: dict[Hashable, list[CompiledQuery]] = {}
        self._records: dict[Any, RecordModel] = {}
        for record in model.records.values():
            self._records[record.name] = record
            self._records.setdefault(record.cls, record)

    def record(self, given: Any) -> RecordModel:
        """The record type of a class, a name, or `Post.tags.relation`. Raises an error for one that is not of this app."""
        if isinstance(given, Path):
            return record_model_of(self.model, given)
        found = self._records.get(given)
        return found if found is not None else self._missing(given)

    def prepare(self, query: Query) -> tuple[CompiledQuery, tuple[Any, ...]]:
        """The compiled read and its parameters."""
        keys = Keys()
        key = query.key(keys)
        literals = keys.literals
        variants = self.compiled.get(key)
        for compiled in variants or ():
            params = compiled.bind(literals, query.limit, query.offset)
            if params is not None:
                return compiled, params
        made, params = self.compiler.compile(query, literals, None if self.clock is None else self.clock.now())
        if made.reusable:
            self._keep(key, made)
        return made, params

    def _keep(self, key: Hashable, compiled: CompiledQuery) -> None:
        variants = self.compiled.setdefault(key, [])
        variants.append(compiled)
        if len(variants) > VARIANTS_MAX:
            del variants[0]
        if len(self.compiled) > CACHED_MAX:
            del self.compiled[next(iter(self.compiled))]

    def _missing(self, given: Any) -> RecordModel:
        name = given if isinstance(given, str) else getattr(given, "__name__", repr(given))
        if any(name in record.abstract for record in self.model.records.values()):
            raise PlannedError(
                f"{name} is abstract: it has no records of its own, and a read that spans those under it is planned. Name one of "
                f"the types declared under it."
            )
        close = difflib.get_close_matches(name, list(self.model.records), n=1)
        advice = f"Did you mean {close[0]}?" if close else "Give it in `App(entities=[…])`."
        raise problem(f"{name} is no record type of this app. {advice}")


def find(
    reader: Reader,
    record: Any,
    where: Expr[bool] | None = None,
    *,
    fields: Sequence[Any] | None = None,
    order_by: Sequence[Any] = (),
    limit: int | None = None,
    offset: int = 0,
) -> Work[list[Any]]:
    """The records that satisfy `where`, in order (nulls last, the id breaks ties; without `order_by` by id)."""
    if limit is not None or offset:
        check_window(limit, offset)
    compiled, params = reader.prepare(Query(reader.record(record), where, fields, terms(order_by), limit, offset))
    return compiled.decode((yield Run(compiled.statement, params)))


def find_one(
    reader: Reader,
    record: Any,
    where: Expr[bool] | None = None,
    *,
    fields: Sequence[Any] | None = None,
    order_by: Sequence[Any] = (),
) -> Work[Any]:
    """The first record that satisfies `where`, or None."""
    found = yield from find(reader, record, where, fields=fields, order_by=order_by, limit=1)
    return found[0] if found else None


def get(reader: Reader, record: Any, id: Any, *, fields: Sequence[Any] | None = None) -> Work[Any]:
    """The record with that id. Raises NotFound if there is none."""
    found = yield from find(reader, record, id == _ID, fields=fields)
    if not found:
        raise NotFound(
            f"There is no {reader.record(record).name} with the id {id!r}. "
            f"Use find_one to get None instead of this error."
        )
    return found[0]


def count(reader: Reader, record: Any, where: Expr[bool] | None = None) -> Work[int]:
    """How many records satisfy `where`."""
    compiled, params = reader.prepare(Query(reader.record(record), where, counted=True))
    (number,) = compiled.decode((yield Run(compiled.statement, params)))
    return number


def read_globals(reader: Reader, record: Any) -> Work[Any]:
    """The one row of a Globals class."""
    model = reader.record(record)
    if model.kind != "globals":
        raise problem(f"`globals()` takes a Globals class, and {model.name} is not one. Use find, find_one or get.")
    found = yield from find(reader, record)
    if len(found) != 1:
        raise InternalError(
            f"The table {model.table} of the Globals class {model.name} has {len(found)} rows instead of one."
        )
    return found[0]


def select_fields(
    reader: Reader, record: Any, ids: Iterable[int], fields: Sequence[Any], *, own: bool = False
) -> Work[Mapping[int, Any]]:
    """The records with those ids, by id; for effects and a Custom's inputs. With `own` their own columns too.

    What does not exist is absent.
    """
    wanted = list(ids)
    if not wanted:
        return {}
    found = yield from find(reader, record, _ID.in_(wanted), fields=[*fields, "*"] if own else fields)
    return {item.__ensue_id__(): item for item in found}
