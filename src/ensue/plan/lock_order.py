"""In which order a change locks the rows that its references lead to, where one table is reached in more than one way.

A comment locks its author, whose value it uses, and the author of its post, whose sum it moves. Taken one after the other, two
comments of two users on each other's posts wait for each other for ever. So where ways meet in one table, all rows that a change
leads to are locked before it is written: table by table, a table before those it refers to, each in order of ids. Pure. Leaves
the locking to the engine. Invariant: an order names a table once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ensue.expression.nodes import Node, columns
from ensue.plan.plan import Below, HostStep, LockOrder, Reached, References, Step
from ensue.plan.tables import link_of
from ensue.plan.views import Layout
from ensue.schema.model import Aggregate, Formula, Model, RecordModel

STEPS_MAX = 6
Way = tuple[str, ...]
"""The names of to-one links, followed from the row that changes."""


@dataclass(frozen=True, slots=True)
class _Use:
    """What is computed over rows of a type: what it reads of the row itself, where it follows references, and what it moves."""

    own: frozenset[str]
    ways: frozenset[Way]
    host: Way | None  # None: a column of the row itself
    moved: str


def lock_ranks(model: Model) -> dict[str, int]:
    """One order of all record types, each before those it refers to as far as references don't run in a circle."""
    left = {
        name: {
            other.name for other in model.records.values() if any(link.target == name for link in other.links.values())
        }
        - {name}
        for name in model.records
    }
    ranks: dict[str, int] = {}
    while left:
        name = min(left, key=lambda name: len(left[name] & left.keys()))
        ranks[name] = len(ranks)
        del left[name]
    return ranks


def references(layout: Layout, name: str, ranks: Mapping[str, int], reach: frozenset[str]) -> tuple[References, ...]:
    """What rows of a record type refer to; exclusively, if a change of one may update it."""
    positions: dict[str, list[int]] = defaultdict(list)
    for link in layout.model.records[name].links.values():
        positions[link.target].append(layout.position(name, link.name))
    ordered = sorted(positions.items(), key=lambda item: ranks[item[0]])
    return tuple((target, "update" if target in reach else "share", tuple(found)) for target, found in ordered)


def lock_orders(
    layout: Layout, derived_from_events: Mapping[str, tuple[str, ...]], ranks: Mapping[str, int]
) -> dict[str, LockOrder]:
    """The orders of those record types that need one."""
    model = layout.model
    uses: dict[str, list[_Use]] = {name: list(_uses(model, record)) for name, record in model.records.items()}
    ways = {name: _ways(model, uses, record) for name, record in model.records.items()}
    for event, derived in derived_from_events.items():
        ways[event] |= _ways_of_event(model, ways, event, derived)
    read = {name: {column for use in found for column in use.own} for name, found in uses.items()}
    orders = {name: _order(layout, name, ways[name], read=read[name], ranks=ranks) for name in model.records}
    return {name: order for name, order in orders.items() if order is not None}


def _uses(model: Model, record: RecordModel) -> Iterator[_Use]:
    for field in record.fields.values():
        if isinstance(field.computation, Formula):
            yield _use(model, record, (field.computation.value,), host=None, moved=field.name)
    for host in model.records.values():
        if host.kind == "globals":
            continue
        for field in host.fields.values():
            item = field.computation
            if isinstance(item, Aggregate) and item.edge == record.name:
                yield _use(
                    model,
                    record,
                    (item.where, item.value),
                    host=_links(model, record, item.host_path),
                    moved=field.name,
                )


def _use(model: Model, record: RecordModel, nodes: tuple[Node | None, ...], *, host: Way | None, moved: str) -> _Use:
    read = [column for node in nodes if node is not None for column in columns(node)]
    ways: set[Way] = {_links(model, record, column.path) for column in read if column.path}
    if host:
        ways.add(host)
    own = {column.field for column in read if not column.path} | {way[0] for way in ways}
    return _Use(frozenset(own), frozenset(ways), host, moved)


def _links(model: Model, record: RecordModel, path: Way) -> Way:
    """A path by the names of links; `source` and `target` of a relation are others."""
    found: list[str] = []
    for step in path:
        name = link_of(record, step)
        found.append(name)
        record = model.records[record.links[name].target]
    return tuple(found)


def _ways(model: Model, uses: Mapping[str, list[_Use]], record: RecordModel) -> set[Way]:
    """Every way that a change of a row follows: directly, and from the hosts that it moves."""
    moved: dict[Way, set[str] | None] = {(): None}  # None: everything may have changed
    ways: set[Way] = set()
    waiting: list[Way] = [()]
    while waiting:
        at = waiting.pop()
        for use in uses[_end(model, record, at)]:
            changed = moved[at]
            if len(at) > STEPS_MAX or (changed is not None and use.own.isdisjoint(changed)):
                continue
            ways |= {at + way for way in use.ways}
            host = at if use.host is None else at + use.host
            known = moved.setdefault(host, set())
            if known is not None and use.moved not in known:
                known.add(use.moved)
                waiting.append(host)
    return ways


def _end(model: Model, record: RecordModel, way: Way) -> str:
    for step in way:
        record = model.records[record.links[step].target]
    return record.name


def _ways_of_event(model: Model, ways: Mapping[str, set[Way]], event: str, derived: tuple[str, ...]) -> set[Way]:
    """Those of the records derived from an event, begun at whichever reference of the event leads to the same type."""
    links = model.records[event].links.values()
    found: set[Way] = {(link.name,) for link in links}
    for name in derived:
        record = model.records[name]
        for first, *rest in ways[name]:
            found |= {(link.name, *rest) for link in links if link.target == record.links[first].target}
    return found


def _order(layout: Layout, name: str, ways: set[Way], *, read: set[str], ranks: Mapping[str, int]) -> LockOrder | None:
    """The order, if ways meet in one table; None also where references run in a circle, which has no order."""
    prefixes = sorted({way[:n] for way in ways for n in range(1, len(way) + 1)}, key=lambda way: (len(way), way))
    record = layout.model.records[name]
    reached: list[Reached] = []
    for way in prefixes:
        *before, step = way
        parent = prefixes.index(tuple(before)) if before else -1
        at = name if parent < 0 else reached[parent].record
        reached.append(Reached(_end(layout.model, record, way), parent, layout.position(at, step)))
    tables = {item.record for item in reached}
    if len(tables) == len(reached) or name in tables:
        return None
    after = {
        table: {reached[item.parent].record for item in reached if item.record == table and item.parent >= 0}
        for table in sorted(tables, key=ranks.__getitem__)
    }
    ordered: list[str] = []
    while after:
        free = next((table for table, before in after.items() if before <= set(ordered)), None)
        if free is None:
            return None
        ordered.append(free)
        del after[free]
    positions = frozenset(layout.position(name, column) for column in read)
    return LockOrder(tuple(ordered), tuple(reached), positions)


# --- From below -------------------------------------------------------------------------------------------------------


def locked_below(strata: Iterable[Iterable[Step]], orders: Mapping[str, LockOrder]) -> dict[str, tuple[Below, ...]]:
    """What must be locked before a row that it refers to is: all that has a lock order, so that both lock upwards."""
    found: dict[tuple[str, str, tuple[str, ...]], Below] = {}
    for step in (step for stratum in strata for step in stratum):
        views = [group.view for group in step.groups] if isinstance(step, HostStep) else [step.view]
        for view in (view for view in views if view.record in orders):
            for crossing in view.crossings:
                key = (crossing.record, view.record, crossing.path)
                positions = frozenset(crossing.positions)
                known = found.get(key)
                lookup = crossing.lookup
                if known is not None:
                    positions |= known.positions
                    # One of them may lock what it finds; that one is longer.
                    lookup = max(lookup, known.lookup, key=lambda one: len(one.text))
                found[key] = Below(view.record, positions, lookup)
    by_record: dict[str, list[Below]] = defaultdict(list)
    for (record, *_), below in found.items():
        by_record[record].append(below)
    return {record: tuple(items) for record, items in by_record.items()}
