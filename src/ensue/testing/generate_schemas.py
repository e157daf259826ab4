"""Random applications: record types, relations between them, and computations that stand on each other.

Decides which shapes of declaration are tried. A drawn schema is plain data (`SchemaSpec`), so that a failing
example can be read and replayed; `build` makes fresh classes of it. Invariant: a computation reads stored members
and earlier computations only, so a schema has no cycle and at most `HEIGHT_MAX` computations on top of each other.
"""

import functools
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Literal

from hypothesis import strategies as st

from ensue.schema.computations.aggregate import AnyOf, Average, Count, EveryOf, Max, Min, Sum
from ensue.schema.computations.computed import Computed
from ensue.schema.entity import Entity, Globals, Relation
from ensue.schema.property import Property
from ensue.schema.relation import Many, Maybe, One, Through

HEIGHT_MAX = 4
COMPUTATIONS_MAX = 8

Kind = Literal["int", "str", "bool", "decimal", "float", "date"]
Path = tuple[str, ...]

_ANNOTATIONS: Mapping[Kind, str] = {
    "int": "int",
    "str": "str",
    "bool": "bool",
    "decimal": "Decimal",
    "float": "float",
    "date": "date",
}
# Annotations are text and are read in this module's namespace.
_NAMESPACE = (Decimal, date, One, Maybe, Property)


@dataclass(frozen=True, slots=True)
class PropertySpec:
    """A stored property."""

    name: str
    kind: Kind
    optional: bool


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """A to-one link; `inverse` is the collection that it makes on the other side."""

    name: str
    target: str
    optional: bool
    on_delete: str
    inverse: str


@dataclass(frozen=True, slots=True)
class ManySpec:
    """A plain many-to-many, declared on the record that holds it, or a Through over a collection of link rows."""

    name: str
    target: str
    inverse: str
    over: str = ""
    link: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A path compared with a value, the path itself as a predicate (`"true"`), or its lack of value (`"null"`)."""

    path: Path
    operator: Literal["==", "!=", "<", ">=", "true", "null"]
    value: Any = None


@dataclass(frozen=True, slots=True)
class Combined:
    """Two conditions, or the complement of the first."""

    operator: Literal["&", "|", "~"]
    left: "Predicate"
    right: "Predicate"


Predicate = Comparison | Combined


@dataclass(frozen=True, slots=True)
class ComputationSpec:
    """A formula (`over` is empty), or an aggregate over a collection or, in globals, over a record type."""

    name: str
    kind: Literal["count", "sum", "average", "min", "max", "any", "every", "formula"]
    over: str
    value: Path = ()
    where: Predicate | None = None
    result: Kind = "int"
    instead: Any = None
    """What a sum takes where there is no value, which it must be told."""


@dataclass(frozen=True, slots=True)
class RecordSpec:
    """A record type."""

    name: str
    relation: bool
    properties: tuple[PropertySpec, ...]
    links: tuple[LinkSpec, ...]
    manys: tuple[ManySpec, ...]
    computations: tuple[ComputationSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class SchemaSpec:
    """An application."""

    records: tuple[RecordSpec, ...]
    totals: tuple[ComputationSpec, ...]


# --- Drawing ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Known:
    """A value that a computation may read, where it is, and how many computations stand below it."""

    path: Path
    kind: Kind
    height: int
    exact: bool
    optional: bool


class _Draft:
    """What is known of a schema while it is drawn."""

    def __init__(self, records: list[RecordSpec]) -> None:
        self.records = {record.name: record for record in records}
        self.computed: dict[str, list[tuple[ComputationSpec, int, bool]]] = {name: [] for name in self.records}

    def readable(self, record: str, *, depth: int = 2) -> Iterator[_Known]:
        """What an expression over a row of `record` may read, up to two links away."""
        spec = self.records[record]
        for item in spec.properties:
            yield _Known((item.name,), item.kind, 0, exact=True, optional=item.optional)
        for made, height, exact in self.computed[record]:
            yield _Known((made.name,), made.result, height, exact, optional=made.kind in ("average", "min", "max"))
        if depth:
            for link in spec.links:
                for known in self.readable(link.target, depth=depth - 1):
                    yield _Known((link.name, *known.path), known.kind, known.height, known.exact, optional=True)

    def collections(self, record: str) -> dict[str, str]:
        """The collections of a record type and what is in them."""
        found: dict[str, str] = {}
        for other in self.records.values():
            found |= {link.inverse: other.name for link in other.links if link.target == record}
            found |= {many.inverse: other.name for many in other.manys if many.target == record and not many.over}
        return found | {many.name: many.target for many in self.records[record].manys}


@st.composite
def generated_schemas(draw: st.DrawFn) -> SchemaSpec:
    """Schemas of two to four entities, perhaps a relation, and one to eight computations."""
    names = [f"R{number}" for number in range(draw(st.integers(2, 4)))]
    records = [_entity(draw, names, number) for number in range(len(names))]
    if draw(st.booleans()):
        _add_relation(draw, records)
    draft = _Draft(records)
    for number in range(draw(st.sampled_from(range(COMPUTATIONS_MAX, 0, -1)))):
        _add_computation(draw, draft, f"c{number}")
    totals = [_total(draw, draft, f"t{number}") for number in range(draw(st.integers(0, 3)))]
    computed = {name: tuple(made for made, _, _ in items) for name, items in draft.computed.items()}
    return SchemaSpec(tuple(_with(record, computed[record.name]) for record in records), tuple(totals))


def _with(record: RecordSpec, computations: tuple[ComputationSpec, ...]) -> RecordSpec:
    return RecordSpec(record.name, record.relation, record.properties, record.links, record.manys, computations)


_ZEROS: Mapping[Kind, Any] = {"int": 0, "decimal": Decimal("0.00"), "float": 0.0}

_KINDS: tuple[Kind, ...] = ("int", "int", "bool", "str", "decimal", "float", "date")


def _properties(draw: st.DrawFn, most: int) -> tuple[PropertySpec, ...]:
    kinds = draw(st.lists(st.sampled_from(_KINDS), min_size=1, max_size=most))
    return tuple(PropertySpec(f"p{number}_{kind}", kind, draw(st.booleans())) for number, kind in enumerate(kinds))


def _entity(draw: st.DrawFn, names: list[str], number: int) -> RecordSpec:
    links: list[LinkSpec] = []
    for place in range(draw(st.integers(0 if number == 0 else 1, 2))):
        target = draw(st.sampled_from(names))
        # A required link leads to an earlier type: else no first row could ever be made.
        optional = names.index(target) >= number or draw(st.booleans())
        offered = ["detach", "cascade", "restrict"] if optional else ["cascade", "cascade", "restrict"]
        links.append(
            LinkSpec(
                f"l{place}", target, optional, draw(st.sampled_from(offered)), f"of_{names[number]}_l{place}".lower()
            )
        )
    manys: list[ManySpec] = []
    if draw(st.integers(0, 2)) == 0:
        manys.append(ManySpec("many", draw(st.sampled_from(names)), f"many_of_{names[number]}".lower()))
    if manys and manys[0].target == names[number]:
        manys.clear()  # Both sides of a many-to-many with itself: links of their own cover that.
    return RecordSpec(
        names[number], relation=False, properties=_properties(draw, 3), links=tuple(links), manys=tuple(manys)
    )


def _add_relation(draw: st.DrawFn, records: list[RecordSpec]) -> None:
    """A relation with properties between two of the entities, and a Through on one side."""
    first, second = draw(st.sampled_from(records)), draw(st.sampled_from(records))
    links = (
        LinkSpec("first", first.name, optional=False, on_delete="cascade", inverse="firsts"),
        LinkSpec("second", second.name, optional=False, on_delete="cascade", inverse="seconds"),
    )
    if draw(st.booleans()):
        through = ManySpec("beyond", second.name, "", over="firsts", link="second")
        place = records.index(first)
        records[place] = RecordSpec(first.name, False, first.properties, first.links, (*first.manys, through))
    records.append(RecordSpec("Tie", relation=True, properties=_properties(draw, 3), links=links, manys=()))


def _add_computation(draw: st.DrawFn, draft: _Draft, name: str) -> None:
    record = draw(st.sampled_from(sorted(draft.records)))
    collections = draft.collections(record)
    over = draw(st.sampled_from(["", *sorted(collections) * 3]))
    item = collections[over] if over else record
    made, height, exact = _aggregate(draw, draft, (name, over), item) if over else _formula(draw, draft, name, record)
    if height <= HEIGHT_MAX:
        draft.computed[record].append((made, height, exact))


def _total(draw: st.DrawFn, draft: _Draft, name: str) -> ComputationSpec:
    record = draw(st.sampled_from(sorted(draft.records)))
    return _aggregate(draw, draft, (name, record), record)[0]


def _aggregate(
    draw: st.DrawFn, draft: _Draft, name_over: tuple[str, str], item: str
) -> tuple[ComputationSpec, int, bool]:
    name, over = name_over
    known = list(draft.readable(item))
    by_use: dict[str, list[_Known]] = {
        "sum": [one for one in known if one.kind in ("int", "decimal", "float")],
        "average": [one for one in known if one.kind in ("int", "decimal", "float")],
        "min": [one for one in known if one.kind != "bool"],
        "max": [one for one in known if one.kind != "bool"],
        "any": [one for one in known if one.kind == "bool"],
        "every": [one for one in known if one.kind == "bool"],
    }
    kind: Any = draw(st.sampled_from(["count", *(use for use, offered in by_use.items() if offered)]))
    value = draw(st.sampled_from(by_use[kind])) if kind != "count" else None
    where, below = draw(_predicates(known)) if kind not in ("any", "every") and draw(st.booleans()) else (None, 0)
    result: Kind = "int"
    if value is not None:
        result = "float" if kind == "average" else value.kind
    height = 1 + max(below, value.height if value is not None else 0)
    exact = kind not in ("average",) and (value is None or value.exact)
    instead = _ZEROS[value.kind] if value is not None and kind == "sum" and value.optional else None
    made = ComputationSpec(name, kind, over, value.path if value is not None else (), where, result, instead)
    return made, height, exact


def _formula(draw: st.DrawFn, draft: _Draft, name: str, record: str) -> tuple[ComputationSpec, int, bool]:
    """A number made positive-definite by a default, or a condition as a value."""
    known = list(draft.readable(record))
    numbers = [one for one in known if one.kind == "int"]
    if numbers and draw(st.booleans()):
        one = draw(st.sampled_from(numbers))
        return ComputationSpec(name, "formula", "", one.path, None, "int"), one.height + 1, True
    where, below = draw(_predicates(known))
    return ComputationSpec(name, "formula", "", (), where, "bool"), below + 1, True


_VALUES: Mapping[Kind, st.SearchStrategy[Any]] = {
    "int": st.integers(-1, 6),
    "str": st.sampled_from(["", "a", "b", "é"]),
    "decimal": st.integers(-5, 40).map(lambda n: Decimal(n).scaleb(-2)),
    "float": st.integers(-2, 8).map(lambda n: n / 4),
    "date": st.integers(12, 24).map(lambda n: date(2026, 1, n)),
}


def _predicates(known: list[_Known]) -> st.SearchStrategy[tuple[Predicate, int]]:
    """Conditions over what can be read exactly: a float that depends on the order of a sum decides nothing."""
    leaves = st.sampled_from([one for one in known if one.exact]).flatmap(_comparisons)
    return st.recursive(
        leaves, lambda deeper: st.builds(_combined, st.sampled_from(["&", "|", "~"]), deeper, deeper), max_leaves=3
    )


def _comparisons(known: _Known) -> st.SearchStrategy[tuple[Predicate, int]]:
    height = st.just(known.height)
    null = st.just(Comparison(known.path, "null"))
    if known.kind == "bool":
        return st.tuples(st.just(Comparison(known.path, "true")), height)
    signs: st.SearchStrategy[Any] = st.sampled_from(["==", "!=", "<", ">="])
    compared = st.builds(Comparison, st.just(known.path), signs, _VALUES[known.kind])
    return st.tuples(st.one_of(compared, compared, null) if known.optional else compared, height)


def _combined(operator: Any, left: tuple[Predicate, int], right: tuple[Predicate, int]) -> tuple[Predicate, int]:
    return Combined(operator, left[0], right[0]), max(left[1], right[1])


# --- Building ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Built:
    """The classes of a schema, for `App(entities=..., globals=...)`."""

    entities: tuple[type[Any], ...]
    globals: tuple[type[Any], ...]


def build(spec: SchemaSpec) -> Built:
    """Fresh classes, each as a class statement would make it."""
    draft = _Draft(list(spec.records))
    classes: dict[str, type[Any]] = {}
    for record in spec.records:
        annotations, members = _members(draft, classes, record)
        base = Relation if record.relation else Entity
        classes[record.name] = _class(record.name, base, annotations, members)
    totals: dict[str, Any] = {
        made.name: _computation(made, functools.partial(classes.__getitem__, made.over)) for made in spec.totals
    }
    return Built(tuple(classes.values()), (_class("Totals", Globals, {}, totals),) if totals else ())


def _class(name: str, base: type[Any], annotations: dict[str, str], members: dict[str, Any]) -> type[Any]:
    def fill(namespace: dict[str, Any]) -> None:
        namespace |= {"__module__": __name__, "__annotations__": annotations, **members}

    return types.new_class(name, (base,), {}, fill)


def _members(draft: _Draft, classes: dict[str, type[Any]], record: RecordSpec) -> tuple[dict[str, str], dict[str, Any]]:
    annotations: dict[str, str] = {}
    members: dict[str, Any] = {}
    for item in record.properties:
        annotations[item.name] = f"Property[{_ANNOTATIONS[item.kind]}{' | None' if item.optional else ''}]"
        options: dict[str, Any] = {"scale": 2} if item.kind == "decimal" else {}
        members[item.name] = Property(**options, default=None) if item.optional else Property(**options)
    for link in record.links:
        annotations[link.name] = f"{'Maybe' if link.optional else 'One'}[{link.target}]"
        on_delete: Any = link.on_delete
        members[link.name] = Maybe(default=None, on_delete=on_delete) if link.optional else One(on_delete=on_delete)
    for name, target, inverse in _collections(draft, record):
        members[name] = Many(functools.partial(classes.__getitem__, target), inverse=inverse)
    for many in record.manys:
        if many.over:
            members[many.name] = Through(members[many.over], _step((many.link,)))
    for made in record.computations:
        members[made.name] = _computation(made, members.get(made.over))
    return annotations, members


def _collections(draft: _Draft, record: RecordSpec) -> Iterator[tuple[str, str, str]]:
    """Name, target and inverse of each declared collection."""
    for other in draft.records.values():
        yield from ((link.inverse, other.name, link.name) for link in other.links if link.target == record.name)
        yield from (
            (many.inverse, other.name, many.name)
            for many in other.manys
            if many.target == record.name and not many.over
        )
    yield from ((many.name, many.target, many.inverse) for many in record.manys if not many.over)


_AGGREGATES: Mapping[str, Any] = {"sum": Sum, "average": Average, "min": Min, "max": Max}


def _computation(made: ComputationSpec, over: Any) -> Any:
    where = None if made.where is None else functools.partial(_traced, made.where)
    if made.kind == "formula":
        return Computed[Any](where if where is not None else lambda row: _step(made.value)(row).or_else(0) * 2 + 1)
    if made.kind == "count":
        return Count(over, where=where)
    if made.kind in ("any", "every"):
        return (AnyOf if made.kind == "any" else EveryOf)(over, _step(made.value))
    value = _step(made.value)
    if made.instead is None:
        return _AGGREGATES[made.kind](over, value, where=where)
    return Sum(over, lambda row: value(row).or_else(made.instead), where=where)


def _step(path: Path) -> Callable[[Any], Any]:
    return lambda row: functools.reduce(getattr, path, row)


def _traced(predicate: Predicate, row: Any) -> Any:
    if isinstance(predicate, Combined):
        left = _traced(predicate.left, row)
        if predicate.operator == "~":
            return ~left
        right = _traced(predicate.right, row)
        return left & right if predicate.operator == "&" else left | right
    value = _step(predicate.path)(row)
    match predicate.operator:
        case "true":
            return value
        case "null":
            return value.is_null()
        case "==":
            return value == predicate.value
        case "!=":
            return value != predicate.value
        case "<":
            return value < predicate.value
        case ">=":
            return value >= predicate.value
