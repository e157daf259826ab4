"""Order derived columns by what they read: the dependency graph on columns, and each column's height in it.

A stored column has height 0, and so has a formula over stored columns of its own row (it is computed with the write) and a state
machine (it moves with the event). Every other derived column is one higher than the highest column it reads. Aggregates of a
Globals class come after all others. Invariant: a step of stratum s reads only columns of strata below s.

Over record types the same graph says what a change may move. A row that is read under FOR SHARE and updated later in the same
transaction deadlocks with its like; so what a change can reach is locked exclusively at first touch, and what it can't is shared.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ensue.errors import DeclarationError, Problem
from ensue.expression.nodes import Node, columns
from ensue.plan.tables import link_of
from ensue.schema.model import Aggregate, CustomModel, FieldModel, Formula, Machine, Model, RecordModel

EXISTENCE = "*"
"""The pseudo-column that stands for "there is such a record", for records that derive from records."""

ColumnKey = tuple[str, str]


@dataclass(slots=True)
class Heights:
    """Heights of all columns of a model, found on demand and remembered."""

    model: Model
    found: dict[ColumnKey, int] = field(default_factory=dict[ColumnKey, int])
    _open: dict[ColumnKey, None] = field(default_factory=dict[ColumnKey, None])  # in order of descent

    def of(self, record: str, name: str) -> int:
        """The height of one column (`EXISTENCE` for the record itself)."""
        key = (record, name)
        if key in self.found:
            return self.found[key]
        if key in self._open:
            raise DeclarationError(Problem("E0130", self._circle(key)))
        self._open[key] = None
        height = self._height(record, name)
        del self._open[key]
        self.found[key] = height
        return height

    def _circle(self, key: ColumnKey) -> str:
        """The message about a derivation that needs itself, by its path."""
        keys = list(self._open)
        path = [*keys[keys.index(key) :], key]
        shown = " -> ".join(record if name == EXISTENCE else f"{record}.{name}" for record, name in path)
        return f"Derived data depends on itself: {shown}. {self._way_out(record for record, _ in path)}"

    def _way_out(self, records: Iterable[str]) -> str:
        for record in records:
            transform = self.model.records[record].transform
            if transform is not None and not transform.event and transform.mapping is None:
                return (
                    f"The function that makes {record} (declared at {transform.origin}) is given all that derives of "
                    f"{transform.source}, so none of it can derive from {record}. A mapping reads only what it names: write one in "
                    "place of compute=, or let what the function reads be stored in a record of its own."
                )
        return "Take one of these out of the circle, for example by an interaction."

    def above(self, record: str, nodes: tuple[Node | None, ...]) -> int:
        """One more than the highest column that expressions rooted at `record` read."""
        return 1 + max(
            (self.of(*key) for node in nodes if node is not None for key in reads(self.model, record, node)), default=0
        )

    def _height(self, record: str, name: str) -> int:
        model = self.model.records[record]
        transform = model.transform
        if transform is not None and not transform.event and (name == EXISTENCE or _owned(model, name)):
            source = self.of(transform.source, EXISTENCE)
            if transform.mapping is None:
                return 1 + max(
                    [source, *(self.of(transform.source, item) for item in self._derived_names(transform.source))]
                )
            return max(1 + source, self.above(transform.source, tuple(transform.mapping.values())))
        if name == EXISTENCE:
            return self._cascaded_height(record)
        if name not in model.fields:
            # A link that is detached when a derived record goes moves no earlier than that record.
            link = model.links.get(name)
            return self.of(link.target, EXISTENCE) if link is not None and link.on_delete == "detach" else 0
        field_ = model.fields[name]
        return self._computed_height(record, field_)

    def _cascaded_height(self, record: str) -> int:
        """Records that go with a derived record can go no earlier than it."""
        links = self.model.records[record].links.values()
        targets = {
            link.target for link in links if link.on_delete == "cascade" and (link.target, EXISTENCE) not in self._open
        }
        return max((self.of(target, EXISTENCE) for target in targets), default=0)

    def _derived_names(self, record: str) -> Iterator[str]:
        return (name for name, item in self.model.records[record].fields.items() if item.computation is not None)

    def _computed_height(self, record: str, field_: FieldModel) -> int:
        computation = field_.computation
        match computation:
            case None | Machine():
                return 0
            case Formula(value):
                return 0 if self.is_local(record, value) else self.above(record, (value,))
            case CustomModel():
                return self._custom_height(record, computation)
            case Aggregate():
                height = self.above(computation.edge, (computation.where, computation.value))
                ways = self._above_links(computation.edge, computation.host_path)
                return max(height, ways, 1 + self.of(computation.edge, EXISTENCE))

    def _above_links(self, record: str, path: tuple[str, ...]) -> int:
        """One more than the highest link on a way: an edge finds its host by links that may derive, too."""
        height, at = 0, record
        for step in path:
            link = link_of(self.model.records[at], step)
            height = max(height, self.of(at, link))
            at = self.model.records[at].links[link].target
        return 1 + height

    def _custom_height(self, record: str, computation: CustomModel) -> int:
        if not computation.columns and not computation.edges:
            return 0
        height = self.above(record, computation.columns)
        for use in computation.edges:
            ways = self._above_links(use.edge, use.host_path)
            height = max(height, ways, self.above(use.edge, use.columns), 1 + self.of(use.edge, EXISTENCE))
        return height

    def is_local(self, record: str, value: Node) -> bool:
        """Whether a formula reads only columns of its own row that are known when the row is written."""
        return all(not column.path and self.of(record, column.field) == 0 for column in columns(value))


def _owned(record: RecordModel, name: str) -> bool:
    """Whether a column of a record that derives from records is written by its Transform."""
    assert record.transform is not None
    if record.transform.mapping is not None:
        return name in record.transform.mapping
    field_ = record.fields.get(name)
    return name in record.links or (field_ is not None and field_.computation is None)


def reads(model: Model, record: str, node: Node) -> Iterator[ColumnKey]:
    """The (record type, column) pairs that an expression rooted at `record` reads, links on the way included."""
    for column in columns(node):
        at = record
        for step in column.path:
            yield at, link_of(model.records[at], step)
            at = model.records[at].links[link_of(model.records[at], step)].target
        yield at, link_of(model.records[at], column.field)


def read_columns(model: Model) -> frozenset[ColumnKey]:
    """Every column that some derivation reads. The others are leaves: nothing is late if they are computed late."""
    found: set[ColumnKey] = set()
    for record, item in derived_fields(model):
        match item.computation:
            case Aggregate(edge=edge, where=where, value=value):
                found.update(key for node in (where, value) if node is not None for key in reads(model, edge, node))
            case Formula(value):
                found.update(reads(model, record, value))
            case CustomModel(columns=own, edges=edges):
                found.update(key for node in own for key in reads(model, record, node))
                found.update(key for use in edges for node in use.columns for key in reads(model, use.edge, node))
            case _:
                pass
    for record in model.records.values():
        transform = record.transform
        if transform is not None and not transform.event:
            nodes = transform.mapping.values() if transform.mapping is not None else ()
            found.update(key for node in nodes for key in reads(model, transform.source, node))
            if transform.mapping is None:
                found.update((transform.source, name) for name in model.records[transform.source].fields)
    return frozenset(found)


def derived_fields(model: Model) -> Iterator[tuple[str, FieldModel]]:
    """Every computed field with its record's name, in declaration order."""
    for record in model.records.values():
        for item in record.fields.values():
            if item.computation is not None:
                yield record.name, item


# --- What a change reaches --------------------------------------------------------------------------------------------

Reach = Mapping[str, frozenset[str]]
"""record type -> the record types that a change of one of its rows may update, in the same transaction."""


@dataclass(frozen=True, slots=True)
class Influence:
    """A change of any of `sources` may update rows of `record`."""

    sources: frozenset[str]
    record: str


def reach_of(records: Iterable[str], influences: Iterable[Influence]) -> dict[str, frozenset[str]]:
    """The transitive closure of the influences, for each record type."""
    known = tuple(influences)
    return {name: _closure(name, known) for name in records}


def _closure(start: str, influences: tuple[Influence, ...]) -> frozenset[str]:
    reached: set[str] = set()
    changed = {start}
    while True:
        found = {
            item.record for item in influences if item.record not in reached and not item.sources.isdisjoint(changed)
        }
        if not found:
            return frozenset(reached)
        reached |= found
        changed |= found
