"""Random scripts of writes for any app, leaning towards what breaks incremental maintenance.

Decides which writes are tried and how often; says nothing about their outcome. An operation names a row by a number
that counts modulo the rows that exist when it runs, so a script is plain data that shrinks well and fits every
database. Invariant: what a script means depends on the model and the script alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from hypothesis import strategies as st

from ensue.expression.nodes import Column, columns
from ensue.expression.types import ValueType
from ensue.schema.model import NO_DEFAULT, NOW, Aggregate, FieldModel, Formula, LinkModel, Model, RecordModel
from ensue.testing.slow_derive import derived_in_place

Values = tuple[tuple[str, Any], ...]
"""Members and their new values; a link's is a `Pick` or None."""

Act = Literal["item", "repoint", "crossed", "delete", "create"]


@dataclass(frozen=True, slots=True)
class Pick:
    """A row of the type that a link leads to: the one at this place, counted modulo those that exist."""

    place: int


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition by name: a path to a column, an operator of `match()`, a value."""

    path: tuple[str, ...]
    operator: str
    value: Any


@dataclass(frozen=True, slots=True)
class Create:
    """Create rows, in one call if `together`."""

    record: str
    rows: tuple[Values, ...]
    together: bool


@dataclass(frozen=True, slots=True)
class Update:
    """Change the rows that `which` names: one by its place, or all that satisfy a condition."""

    record: str
    which: Pick | Condition
    values: Values


@dataclass(frozen=True, slots=True)
class Increase:
    """Add to an integer column, relative to what it holds."""

    record: str
    which: Pick | Condition
    field: str
    by: int


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete the rows that `which` names."""

    record: str
    which: Pick | Condition


@dataclass(frozen=True, slots=True)
class Link:
    """Link two rows of a plain many-to-many, or unlink them if they are linked."""

    relation: str
    source: Pick
    target: Pick


@dataclass(frozen=True, slots=True)
class Extreme:
    """Take away the edge that holds a host's Min or Max: delete it, or change it."""

    record: str
    field: str
    host: Pick
    values: Values | None


@dataclass(frozen=True, slots=True)
class Cross:
    """In one transaction: acts on an item and on the record that a computation reads across its link, in this order."""

    record: str
    link: str
    item: Pick
    acts: tuple[tuple[Act, Values], ...]


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Dispatch an interaction (outside of any transaction)."""

    interaction: str
    values: Values


@dataclass(frozen=True, slots=True)
class Read:
    """Read everything, where the script stands."""


@dataclass(frozen=True, slots=True)
class Nested:
    """A transaction, or a savepoint inside of one; `kept` says whether it ends well."""

    operations: "tuple[Operation, ...]"
    kept: bool


Operation = Create | Update | Increase | Delete | Link | Extreme | Cross | Dispatch | Read | Nested
Script = tuple[Operation, ...]


# --- Values -----------------------------------------------------------------------------------------------------------

_START = datetime(2026, 1, 1, tzinfo=UTC)
_TEXTS = ("", "a", "b", "B", "é", "zz", "it's", "日本", "😀")


def values_of(type_: ValueType, *, unique: bool = False) -> st.SearchStrategy[Any]:
    """Values of a type: few and close together, so that they collide, tie and cross thresholds."""
    if type_.kind == "enum":
        return st.sampled_from(list(type_.python))
    if type_.kind == "literal":
        return st.sampled_from(type_.values)
    number = st.integers(0, 60) if unique else st.integers(-3, 9)
    made: dict[str, st.SearchStrategy[Any]] = {
        "str": number.map("u{}".format) if unique else st.sampled_from(_TEXTS),
        "int": number,
        # Quarters, so that sums are exact and no comparison hangs on the last bit.
        "float": number.map(lambda n: n / 4),
        "decimal": number.map(lambda n: Decimal(n * 7).scaleb(-(type_.scale or 0))),
        "bool": st.booleans(),
        "datetime": number.map(lambda n: _START + timedelta(hours=n, microseconds=n * n)),
        "date": number.map(lambda n: date(2026, 1, 15) + timedelta(days=n)),
        "uuid": number.map(lambda n: UUID(int=(n + 3) << 96)),
        "bytes": number.map(lambda n: bytes([n + 3])),
        "json": number.map(lambda n: [n] if type_.python is list else {"n": n}),
    }
    return made[type_.kind]


def picks() -> st.SearchStrategy[Pick]:
    """The place of a row."""
    return st.integers(0, 11).map(Pick)


def _field(item: FieldModel) -> st.SearchStrategy[Any]:
    values = values_of(item.type, unique=item.unique)
    return st.one_of(values, values, st.none()) if item.optional else values


def _link(link: LinkModel) -> st.SearchStrategy[Any]:
    return st.one_of(picks(), picks(), st.none()) if link.optional else picks()


# --- What a model offers ----------------------------------------------------------------------------------------------


class Shapes:
    """What scripts for a model are made of: who can be written, and which members computations hang on."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.records = [record for record in _in_order(model) if writable(record)]
        self.relations = [record for record in model.records.values() if record.implicit]
        self.crossings = sorted(set(self._crossings()))
        self.extremes = sorted(set(self._extremes()))
        self.events = [item.name for item in model.interactions.values() if item.reads is None]
        self.hot: dict[str, set[str]] = {name: set() for name in model.records}
        for record, column in self._columns():
            self.hot[record].add(column.path[0] if column.path else column.field)

    def whole(self, record: RecordModel) -> st.SearchStrategy[Values]:
        """Values for a new row: what must be given, and sometimes what may be."""
        must = {item.name: _field(item) for item in _stored(record) if _needed(item)}
        may = {item.name: _field(item) for item in _stored(record) if not _needed(item)}
        must |= {link.name: _link(link) for link in record.links.values()}
        return st.fixed_dictionaries(must, optional=may).map(_tuple)

    def some(self, record: RecordModel) -> st.SearchStrategy[Values]:
        """Values for one to three members of a row, those that computations read first of all."""
        offered = {item.name: _field(item) for item in _stored(record)}
        offered |= {link.name: _link(link) for link in record.links.values()}
        hot = sorted(self.hot[record.name] & offered.keys())
        names = st.lists(st.sampled_from([*offered, *hot, *hot]), min_size=1, max_size=3, unique=True)
        return names.flatmap(lambda chosen: st.fixed_dictionaries({name: offered[name] for name in chosen})).map(_tuple)

    def conditions(self, record: RecordModel) -> st.SearchStrategy[Condition]:
        """Conditions over the row's own columns, stored or derived, and over those one link away."""
        offered = [((item.name,), item.type) for item in record.fields.values()]
        for link in record.links.values():
            target = self.model.records[link.target]
            offered += [((link.name, item.name), item.type) for item in target.fields.values()]
        offered = [(path, type_) for path, type_ in offered if type_.kind in ("int", "bool", "decimal", "str", "float")]
        return st.sampled_from(offered).flatmap(lambda pair: _condition(*pair)) if offered else st.nothing()

    def changeable(self, record: RecordModel) -> bool:
        """Whether the row has a member that can be updated."""
        return bool(record.links) or any(True for _ in _stored(record))

    def _columns(self) -> Iterator[tuple[str, Column]]:
        for record in self.model.records.values():
            for item in record.fields.values():
                computation = item.computation
                if isinstance(computation, Formula):
                    yield from ((record.name, column) for column in columns(computation.value))
                elif isinstance(computation, Aggregate):
                    nodes = [node for node in (computation.where, computation.value) if node is not None]
                    yield from (
                        (computation.edge, column) for node in nodes for column in columns(node) if column.depth == 0
                    )
                    if computation.host_path:
                        yield computation.edge, Column((), computation.host_path[0], item.type, optional=False)

    def _crossings(self) -> Iterator[tuple[str, str]]:
        for record, column in self._columns():
            if (
                column.path
                and not self.model.records[record].implicit
                and column.path[0] in self.model.records[record].links
            ):
                yield record, column.path[0]

    def _extremes(self) -> Iterator[tuple[str, str]]:
        for record in self.model.records.values():
            for item in record.fields.values():
                computation = item.computation
                if not isinstance(computation, Aggregate) or computation.kind not in ("min", "max"):
                    continue
                if writable(self.model.records[computation.edge]):
                    yield record.name, item.name


def writable(record: RecordModel) -> bool:
    """Whether rows of this type are created by writes of the application."""
    owned = record.transform is not None and not record.transform.event
    return record.kind in ("entity", "relation") and not record.implicit and not owned


def _stored(record: RecordModel) -> Iterable[FieldModel]:
    return (item for item in record.fields.values() if item.computation is None)


def _needed(item: FieldModel) -> bool:
    # What the application's clock or function would give, a script gives itself: it must know the value.
    return item.default in (NO_DEFAULT, NOW) or callable(item.default)


def _tuple(values: dict[str, Any]) -> Values:
    return tuple(values.items())


def _condition(path: tuple[str, ...], type_: ValueType) -> st.SearchStrategy[Condition]:
    null = st.sampled_from(["is null", "is not null"]).map(lambda operator: Condition(path, operator, None))
    signs = ["=", "!="] if type_.kind == "bool" else ["=", "!=", "<", ">="]
    return st.one_of(st.builds(Condition, st.just(path), st.sampled_from(signs), values_of(type_)), null)


def _in_order(model: Model) -> Sequence[RecordModel]:
    """Records before those that must refer to them, as far as there are no cycles."""
    waiting, done = list(model.records.values()), list[RecordModel]()
    while waiting:
        names = {record.name for record in waiting}
        free = [
            record
            for record in waiting
            if not any(link.target in names - {record.name} and not link.optional for link in record.links.values())
        ]
        chosen = free or waiting[:1]
        done += chosen
        waiting = [record for record in waiting if record not in chosen]
    return done


# --- Scripts ----------------------------------------------------------------------------------------------------------


def operations(model: Model, *, max_size: int = 10) -> st.SearchStrategy[Script]:
    """Scripts for the model: rows of every type first, then up to `max_size` operations and transactions."""
    shapes = Shapes(model)
    seeds = st.tuples(*(_create(shapes, record, most=4) for record in shapes.records))
    single = st.one_of(list(_writes(shapes)))
    inner = st.recursive(
        st.one_of(single, single, single, st.just(Read())),
        lambda deeper: st.builds(Nested, st.lists(deeper, min_size=1, max_size=4).map(tuple), _mostly),
        max_leaves=6,
    )
    transaction = st.builds(Nested, st.lists(inner, min_size=1, max_size=6).map(tuple), _mostly)
    step: st.SearchStrategy[Operation] = st.one_of(single, single, transaction, *_dispatches(shapes))
    return st.tuples(seeds, st.lists(step, min_size=1, max_size=max_size)).map(lambda parts: (*parts[0], *parts[1]))


_mostly = st.sampled_from([True, True, True, False])


def _writes(shapes: Shapes) -> Iterator[st.SearchStrategy[Operation]]:
    records = st.sampled_from(shapes.records)
    changing = st.sampled_from([record for record in shapes.records if shapes.changeable(record)])
    which = changing.flatmap(
        lambda record: st.tuples(st.just(record), st.one_of(picks(), picks(), shapes.conditions(record)))
    )
    update = which.flatmap(
        lambda pair: st.builds(Update, st.just(pair[0].name), st.just(pair[1]), shapes.some(pair[0]))
    )
    yield records.flatmap(lambda record: _create(shapes, record, most=6))
    yield update
    yield update
    yield records.flatmap(lambda record: _delete(shapes, record))
    counted = [record for record in shapes.records if _integers(record)]
    if counted:
        yield st.sampled_from(counted).flatmap(lambda record: _increase(shapes, record))
    if shapes.relations:
        names = st.sampled_from([record.name for record in shapes.relations])
        yield st.builds(Link, names, picks(), picks())
    if shapes.extremes:
        yield st.sampled_from(shapes.extremes).flatmap(lambda pair: _extreme(shapes, *pair))
    if shapes.crossings:
        yield st.sampled_from(shapes.crossings).flatmap(lambda pair: _cross(shapes, *pair))


def _create(shapes: Shapes, record: RecordModel, *, most: int) -> st.SearchStrategy[Operation]:
    rows = st.lists(shapes.whole(record), min_size=1, max_size=most).map(tuple)
    return st.builds(Create, st.just(record.name), rows, st.booleans())


def _delete(shapes: Shapes, record: RecordModel) -> st.SearchStrategy[Operation]:
    return st.builds(Delete, st.just(record.name), st.one_of(picks(), picks(), shapes.conditions(record)))


def _integers(record: RecordModel) -> list[str]:
    return [item.name for item in _stored(record) if item.type.kind == "int" and not item.unique]


def _increase(shapes: Shapes, record: RecordModel) -> st.SearchStrategy[Operation]:
    which = st.one_of(picks(), shapes.conditions(record))
    return st.builds(Increase, st.just(record.name), which, st.sampled_from(_integers(record)), st.integers(-2, 3))


def _extreme(shapes: Shapes, record: str, field: str) -> st.SearchStrategy[Operation]:
    computation = shapes.model.records[record].fields[field].computation
    if not isinstance(computation, Aggregate) or not derived_in_place(shapes.model.records[record].fields[field]):
        return st.nothing()
    values = st.one_of(st.none(), shapes.some(shapes.model.records[computation.edge]))
    return st.builds(Extreme, st.just(record), st.just(field), picks(), values)


def _cross(shapes: Shapes, record: str, link: str) -> st.SearchStrategy[Operation]:
    item = shapes.model.records[record]
    target = shapes.model.records[item.links[link].target]
    offered: list[st.SearchStrategy[tuple[Act, Values]]] = []
    if writable(item):
        offered.append(_act("repoint", _link(item.links[link]).map(lambda value: ((link, value),))))
        offered += [_act("item", shapes.some(item)), _act("create", shapes.whole(item))]
    if writable(target):
        offered.append(_act("delete", st.just(())))
        if shapes.changeable(target):
            offered += [_act("crossed", shapes.some(target))] * 2
    if not offered:
        return st.nothing()
    acts = st.lists(st.one_of(offered), min_size=1, max_size=4).map(tuple)
    return st.builds(Cross, st.just(record), st.just(link), picks(), acts)


def _act(name: Act, values: st.SearchStrategy[Values]) -> st.SearchStrategy[tuple[Act, Values]]:
    return values.map(lambda given: (name, given))


def _dispatches(shapes: Shapes) -> Iterator[st.SearchStrategy[Operation]]:
    for name in shapes.events:
        record = shapes.model.records[name]
        payload = {item.name: _field(item) for item in _stored(record) if item.name != "at"}
        payload |= {link.name: picks() for link in record.links.values() if link.name != "user"}
        yield st.builds(Dispatch, st.just(name), st.fixed_dictionaries(payload).map(_tuple))
