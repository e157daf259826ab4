"""Runs a script on the slow model, write by write, and says what each write is in terms of concrete rows.

Decides which rows an operation means at the moment it runs, and whether the slow model allows it. Leaves the real
app to `slow_agreement`, which does the same writes there. Invariant: the writes that come out depend on script and
model alone.
"""

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ensue.errors import ConstraintViolated, InvalidValue
from ensue.schema.model import Aggregate
from ensue.testing.generate_operations import (
    Condition,
    Create,
    Cross,
    Delete,
    Dispatch,
    Extreme,
    Increase,
    Link,
    Nested,
    Operation,
    Pick,
    Read,
    Update,
    Values,
)
from ensue.testing.slow_model import SlowModel
from ensue.testing.slow_values import Place, follow, plain


@dataclass(frozen=True, slots=True)
class Created:
    """`create_many` (or several `create`): labels and what was given; links hold labels."""

    record: str
    rows: tuple[tuple[int, Mapping[str, Any]], ...]
    together: bool


@dataclass(frozen=True, slots=True)
class Updated:
    """`update` or, with a `condition`, `update_many`. With `by` the values are added to the columns."""

    record: str
    rows: tuple[int, ...]
    values: Mapping[str, Any]
    condition: Condition | None = None
    by: bool = False


@dataclass(frozen=True, slots=True)
class Deleted:
    """`delete` or, with a `condition`, `delete_many`."""

    record: str
    rows: tuple[int, ...]
    condition: Condition | None = None


@dataclass(frozen=True, slots=True)
class Linked:
    """`link` or `unlink` over the implicit relation `relation`."""

    relation: str
    source: int
    target: int
    remove: bool


@dataclass(frozen=True, slots=True)
class Dispatched:
    """`controller.dispatch`."""

    interaction: str
    values: Mapping[str, Any]


Write = Created | Updated | Deleted | Linked | Dispatched


def writes(slow: SlowModel, operation: Operation) -> Iterator[Write]:
    """The writes of one operation (not of a `Nested`). Each must be applied before the next is asked for."""
    match operation:
        case Create():
            yield from _create(slow, operation)
        case Update() | Increase() | Delete():
            yield from _change(slow, operation)
        case Link():
            yield from _link(slow, operation)
        case Extreme():
            yield from _extreme(slow, operation)
        case Cross():
            yield from _cross(slow, operation)
        case Dispatch():
            values = _concrete(slow, operation.interaction, operation.values)
            if values is not None:
                yield Dispatched(operation.interaction, values)
        case Nested() | Read():
            return


def apply(slow: SlowModel, write: Write) -> ConstraintViolated | InvalidValue | list[Place]:
    """Do a write in the slow model: the error that refuses it, or the records that an interaction created."""
    try:
        return _apply(slow, write)
    except (ConstraintViolated, InvalidValue) as refusal:
        return refusal


def contested(slow: SlowModel, write: Write) -> bool:
    """Whether the answer to a deletion depends on the order in which a database looks at links."""
    try:
        return isinstance(write, Deleted) and slow.removal(write.record, write.rows).contested
    except ConstraintViolated:
        return False


def _apply(slow: SlowModel, write: Write) -> list[Place]:
    match write:
        case Created():
            slow.create_many(write.record, write.rows)
        case Updated() if write.by:
            slow.update_many(write.record, [(row, _increased(slow, write, row)) for row in write.rows])
        case Updated():
            slow.update_many(write.record, [(row, write.values) for row in write.rows])
        case Deleted():
            slow.delete_many(write.record, write.rows)
        case Linked() if write.remove:
            slow.unlink(write.relation, write.source, write.target)
        case Linked():
            slow.link(write.relation, write.source, write.target)
        case Dispatched():
            return slow.dispatch(write.interaction, write.values)
    return []


def _increased(slow: SlowModel, write: Updated, row: int) -> dict[str, Any]:
    held = {name: slow.value(write.record, row, name) for name in write.values}
    return {name: None if value is None else value + write.values[name] for name, value in held.items()}


# --- Which rows -------------------------------------------------------------------------------------------------------


def picked(slow: SlowModel, record: str, pick: Pick) -> int | None:
    """The row at a place, counted modulo the rows that exist; None if there are none."""
    # Derived records are rows too, from the moment that their source is there.
    slow.settle()
    rows = sorted(slow.tables.rows[record])
    return rows[pick.place % len(rows)] if rows else None


def satisfying(slow: SlowModel, record: str, condition: Condition) -> tuple[int, ...]:
    """The rows that satisfy a condition by name."""
    slow.settle()
    return tuple(row for row in sorted(slow.tables.rows[record]) if _satisfies(slow, (record, row), condition))


_SIGNS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _satisfies(slow: SlowModel, place: Place, condition: Condition) -> bool:
    end = follow(slow.tables, place, condition.path[:-1])
    value = None if end is None else slow.value(*end, condition.path[-1])
    if condition.operator == "is null":
        return value is None
    if condition.operator == "is not null":
        return value is not None
    if condition.operator == "!=":
        return value is None or value != plain(condition.value)
    return value is not None and _SIGNS[condition.operator](value, plain(condition.value))


def _which(slow: SlowModel, record: str, which: Pick | Condition) -> tuple[tuple[int, ...], Condition | None]:
    if isinstance(which, Condition):
        return satisfying(slow, record, which), which
    row = picked(slow, record, which)
    return ((), None) if row is None else ((row,), None)


def _concrete(slow: SlowModel, record: str, values: Values) -> dict[str, Any] | None:
    """The values with picks replaced by rows; None if a link must lead somewhere and there is nowhere."""
    links = slow.model.records[record].links
    made: dict[str, Any] = {}
    for name, value in values:
        made[name] = picked(slow, links[name].target, value) if isinstance(value, Pick) else value
        if name in links and made[name] is None and not links[name].optional:
            return None
    return made


def _create(slow: SlowModel, operation: Create) -> Iterator[Write]:
    rows = [_concrete(slow, operation.record, values) for values in operation.rows]
    known = [values for values in rows if values is not None]
    if known:
        labelled = tuple((slow.allocate(operation.record), values) for values in known)
        yield Created(operation.record, labelled, operation.together)


def _change(slow: SlowModel, operation: Update | Increase | Delete) -> Iterator[Write]:
    record, (rows, condition) = operation.record, _which(slow, operation.record, operation.which)
    if not rows and condition is None:
        return
    if isinstance(operation, Delete):
        yield Deleted(record, rows, condition)
    elif isinstance(operation, Increase):
        yield Updated(record, rows, {operation.field: operation.by}, condition, by=True)
    else:
        values = _concrete(slow, record, operation.values)
        if values is not None:
            yield Updated(record, rows, values, condition)


def _link(slow: SlowModel, operation: Link) -> Iterator[Write]:
    model = slow.model.records[operation.relation]
    source = picked(slow, model.links[model.source or ""].target, operation.source)
    target = picked(slow, model.links[model.target or ""].target, operation.target)
    if source is not None and target is not None:
        there = slow.linked(operation.relation, source, target) is not None
        yield Linked(operation.relation, source, target, remove=there)


def _extreme(slow: SlowModel, operation: Extreme) -> Iterator[Write]:
    computation = slow.model.records[operation.record].fields[operation.field].computation
    row = _holder(slow, operation, computation) if isinstance(computation, Aggregate) else None
    if row is None or not isinstance(computation, Aggregate):
        return
    if operation.values is None:
        yield Deleted(computation.edge, (row,))
    else:
        values = _concrete(slow, computation.edge, operation.values)
        if values is not None:
            yield Updated(computation.edge, (row,), values)


def _holder(slow: SlowModel, operation: Extreme, computation: Aggregate) -> int | None:
    """An edge whose removal changes the extremum, or else any edge of the host."""
    host = picked(slow, operation.record, operation.host)
    if host is None:
        return None
    path, wanted = computation.host_path, (operation.record, host)
    rows = sorted(slow.tables.rows[computation.edge])
    edges = [row for row in rows if not path or follow(slow.tables, (computation.edge, row), path) == wanted]
    if not edges:
        return None
    held = slow.value(operation.record, host, operation.field)
    for row in edges:
        before = slow.snapshot()
        refused = apply(slow, Deleted(computation.edge, (row,)))
        changed = not isinstance(refused, Exception) and _now(slow, operation, host) != held
        slow.restore(before)
        if changed:
            return row
    return edges[0]


def _now(slow: SlowModel, operation: Extreme, host: int) -> Any:
    return slow.value(operation.record, host, operation.field) if host in slow.tables.rows[operation.record] else None


def _cross(slow: SlowModel, operation: Cross) -> Iterator[Write]:
    """Acts on one item and on what it refers to; rows that an earlier act removed are passed over."""
    target = slow.model.records[operation.record].links[operation.link].target
    item = picked(slow, operation.record, operation.item)
    for act, given in operation.acts:
        slow.settle()
        here = item if item in slow.tables.rows[operation.record] else None
        crossed = None if here is None else slow.value(operation.record, here, operation.link)
        record, row = (target, crossed) if act in ("crossed", "delete") else (operation.record, here)
        if act == "create":
            yield from writes(slow, Create(operation.record, (given,), together=False))
        elif row is not None and act == "delete":
            yield Deleted(record, (row,))
        elif row is not None:
            values = _concrete(slow, record, given)
            if values is not None:
                yield Updated(record, (row,), values)
