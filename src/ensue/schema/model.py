"""The frozen schema: what `freeze` produces and everything later reads.

A `Model` is one app's declarations after all names are resolved, all expressions typed and all checks passed. It is
plain frozen data plus the user's own functions where the API says "called". Invariant: nothing in a model changes, and
no later phase looks at a declaration class again except to make instances of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from ensue.errors import Origin
from ensue.expression.nodes import Column, Hop, Node
from ensue.expression.records import CollectionType, FieldType, LinkType, Member
from ensue.expression.types import ValueType

RecordKind = Literal["entity", "relation", "event", "globals"]
Change = Literal["create", "update", "delete"]
OnDelete = Literal["cascade", "restrict", "detach"]
AggregateKind = Literal["count", "sum", "average", "min", "max", "any", "every"]

ID_TYPE = ValueType("int", int)


class Now:
    """The default that means "the instant of the transaction"."""


NOW = Now()


@dataclass(frozen=True, slots=True)
class NoDefault:
    """There is no default: the value must be given."""


NO_DEFAULT = NoDefault()


# --- Computations -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A count, sum, … over edges.

    An edge is a row of `edge`. Its host is found by following the to-one links `host_path` from it (empty: the one row
    of a Globals class). `where` and `value` are rooted at the edge row; a missing `where` is true. `match` of
    AnyOf/EveryOf is the `value`. `hops` is the same route from the host's side, for reading.
    """

    kind: AggregateKind
    edge: str
    host_path: tuple[str, ...]
    hops: tuple[Hop, ...]
    where: Node | None
    value: Node | None


@dataclass(frozen=True, slots=True)
class Formula:
    """`Computed`: a value from the record's own columns and to-one paths."""

    value: Node


@dataclass(frozen=True, slots=True)
class Trigger:
    """What moves a state machine: a change of `record` that satisfies `where` (new side; on delete the old one).

    For an interaction `record` is the interaction's name, `change` is `"create"` and `event` is true: callbacks then
    get the interaction itself, otherwise the `MutationEvent`. With `of`, an update counts only if one of those fields
    changed.
    """

    record: str
    change: Change
    of: tuple[str, ...] = ()
    where: Node | None = None
    event: bool = False


@dataclass(frozen=True, slots=True)
class TransitionModel:
    """From any of `sources` (`("*",)`: every state) to `target` when `trigger` happens, for the record(s)
    `record(event)` names.
    """

    sources: tuple[str, ...]
    target: str
    trigger: Trigger
    record: Callable[..., Any]
    origin: Origin


@dataclass(frozen=True, slots=True)
class Machine:
    """A state machine. `values` holds the value function of each state that has one; else the value is the state's
    name.
    """

    states: tuple[str, ...]
    initial: str
    transitions: tuple[TransitionModel, ...]
    values: Mapping[str, Callable[..., Any]]


@dataclass(frozen=True, slots=True)
class EdgeUse:
    """A collection that a Custom reads: a change of these columns of an edge row marks the host at the end of
    `host_path`.
    """

    edge: str
    host_path: tuple[str, ...]
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class CustomModel:
    """A computation in Python.

    `fields` are the declared `uses` as traced, for the read of the inputs; `columns` and `edges` say what to watch.
    """

    initial: Callable[..., Any] | None
    compute: Callable[..., Any] | None
    incremental: Callable[..., Any] | None
    fields: tuple[Any, ...]
    columns: tuple[Column, ...]
    edges: tuple[EdgeUse, ...]


Computation = Aggregate | Formula | Machine | CustomModel

_WORDS: dict[str, str] = {
    "count": "Count",
    "sum": "Sum",
    "average": "Average",
    "min": "Min",
    "max": "Max",
    "any": "AnyOf",
    "every": "EveryOf",
}


def computation_word(computation: Computation) -> str:
    """The name under which a user declared it, for messages."""
    match computation:
        case Aggregate():
            return _WORDS[computation.kind]
        case Formula():
            return "Computed"
        case Machine():
            return "StateMachine"
        case CustomModel():
            return "Custom"


@dataclass(frozen=True, slots=True)
class TransformModel:
    """How the records of a type derive from `source`.

    `mapping` (traced, one derived record per source record): each field or link of the derived record by its
    expression, rooted at the source. `function` (called): per source record if `event` is false, per interaction if it
    is true.
    """

    source: str
    event: bool
    mapping: Mapping[str, Node] | None
    function: Callable[..., Any] | None
    origin: Origin


# --- Members ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FieldModel:
    """A property: a column that holds a value, given (`computation` is None) or derived.

    `check` is rooted at the record. `column` is the column's name in the database.
    """

    name: str
    type: ValueType
    optional: bool
    default: Any = NO_DEFAULT  # a value, a zero-argument callable, NOW or NO_DEFAULT
    unique: bool = False
    index: bool = False
    check: Node | None = None
    computation: Computation | None = None
    column: str = ""
    origin: Origin = Origin("", 0)


@dataclass(frozen=True, slots=True)
class LinkModel:
    """A to-one reference: a column that holds the id of a record of `target`.

    `inverse` is the name of the collection on the other side, if one is declared. Links of an event have `on_delete`
    None: an event outlives what it spoke of, so its column is no foreign key.
    """

    name: str
    target: str
    optional: bool
    has_default: bool = False
    unique: bool = False
    on_delete: OnDelete | None = "restrict"
    inverse: str | None = None
    column: str = ""
    origin: Origin = Origin("", 0)


@dataclass(frozen=True, slots=True)
class CollectionModel:
    """A to-many name, stored nowhere: `hops` says how to get there. `single` marks the `Inverse` of a one-to-one.

    `relation` names the record type of the link rows of an n:n (then `hops` goes over it), None otherwise.
    """

    name: str
    target: str
    hops: tuple[Hop, ...]
    single: bool = False
    relation: str | None = None
    origin: Origin = Origin("", 0)


@dataclass(frozen=True, slots=True)
class RecordModel:
    """One record type of an app: an entity, a relation (explicit or implicit), an interaction's events, or a Globals
    class.

    `cls` is what instances are made of. `source` and `target` name the two links of a relation. `abstract` are the
    names of the abstract entities it was declared under. `unique` holds the multi-column unique constraints, by member
    name.
    """

    name: str
    kind: RecordKind
    cls: type[Any]
    table: str
    fields: Mapping[str, FieldModel]
    links: Mapping[str, LinkModel]
    collections: Mapping[str, CollectionModel]
    unique: tuple[tuple[str, ...], ...] = ()
    source: str | None = None
    target: str | None = None
    abstract: tuple[str, ...] = ()
    transform: TransformModel | None = None
    implicit: bool = False
    origin: Origin = Origin("", 0)


@dataclass(frozen=True, slots=True)
class InteractionModel:
    """An interaction: its payload type and, unless it only reads (`reads` is then the record type's name), its event
    record.

    `payload` holds the fields and links that a caller gives, in declared order; also of one that only reads.
    """

    name: str
    cls: type[Any]
    reads: str | None
    origin: Origin = Origin("", 0)
    payload: Mapping[str, FieldModel | LinkModel] = field(default_factory=dict[str, "FieldModel | LinkModel"])


@dataclass(frozen=True, slots=True)
class EffectModel:
    """A side effect as declared, with its expressions resolved against its record.

    `name` is qualified by the namespace (`"channels.publish"`). `fields` is the traced selection added to the record's
    own columns. `of`, `where` and `order_by` decide in the transaction; `content` and `options` matter to delivery
    alone.
    """

    name: str
    record: str
    on: frozenset[Change]
    fields: tuple[Any, ...]
    of: tuple[str, ...]
    where: Node | None
    order_by: Node | None
    durable: bool
    content: Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    origin: Origin = Origin("", 0)
    delay: Node | timedelta | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """One app's schema, frozen: record types, interactions and side effects by name, and the record type of users."""

    records: Mapping[str, RecordModel]
    interactions: Mapping[str, InteractionModel]
    effects: Mapping[str, EffectModel]
    user: str | None

    def member(self, record: str, name: str) -> Member | None:
        """The member `name` of `record`, for the resolver; `id` is one, and `source`/`target` of a relation."""
        return member_of(self.records, record, name)

    def names(self, record: str) -> tuple[str, ...]:
        """All member names of `record`."""
        return names_of(self.records, record)


def member_of(records: Mapping[str, RecordModel], record: str, name: str) -> Member | None:
    """`Model.member` over a mapping that may still be growing."""
    model = records[record]
    if name == "id":
        return FieldType(ID_TYPE, optional=False)
    if name == "source" and model.source is not None:
        name = model.source
    elif name == "target" and model.target is not None:
        name = model.target
    if (property_ := model.fields.get(name)) is not None:
        return FieldType(property_.type, property_.optional)
    if (link := model.links.get(name)) is not None:
        return LinkType(link.target, link.optional, link.name)
    if (collection := model.collections.get(name)) is not None:
        return CollectionType(collection.target, collection.hops, collection.single)
    return None


def names_of(records: Mapping[str, RecordModel], record: str) -> tuple[str, ...]:
    """`Model.names` over a mapping that may still be growing."""
    model = records[record]
    return ("id", *model.fields, *model.links, *model.collections)
