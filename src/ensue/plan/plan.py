"""The compiled form of one app's schema for one dialect: all that the engine needs, nothing looked up by name while it runs.

Rows are tuples of Python values in the order of `RecordPlan.columns`, with the id first; an *image* is such a row as it was at
some moment. Invariant: a plan is not changed after `compile_plan` returned it, except for its caches of statements, which only
grow by texts that are functions of the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import sqlalchemy as sa

from ensue.expression.sql import Compiled
from ensue.expression.types import ValueType
from ensue.plan.rules.rule import Rule, Slot
from ensue.schema.model import (
    Aggregate,
    CustomModel,
    EffectModel,
    Machine,
    Model,
    RecordModel,
    TransformModel,
    TransitionModel,
)
from ensue.store.driver import Dialect
from ensue.store.statement import Statement

Row = tuple[Any, ...]
ColumnRole = Literal["id", "given", "link", "derived", "hidden"]
Codec = Callable[[Any], Any] | None


@dataclass(frozen=True, slots=True)
class ColumnPlan:
    """One column of a record's table. `name` is the member's name (or the state column's), `column` the database's."""

    name: str
    column: str
    type: ValueType
    optional: bool
    role: ColumnRole
    initial: Any = None
    target: str | None = None
    encode: Codec = None
    decode: Codec = None


@dataclass(frozen=True, slots=True)
class Crossing:
    """A to-one link that a group's expressions follow: `path` from the edge row, to a record of type `record`.

    The id stands in column `fk` of the row of crossing `parent` (-1: of the edge row itself). `positions` are the columns of
    `record` that are read there. `lookup` finds the edge rows below given ids of `record`.
    """

    path: tuple[str, ...]
    record: str
    parent: int
    fk: int
    positions: tuple[int, ...]
    lookup: Statement
    exclusive: bool  # lock mode when first touched: FOR NO KEY UPDATE instead of FOR SHARE


@dataclass(frozen=True, slots=True)
class View:
    """What must be loaded beside a row to evaluate expressions on it: the row's own columns read, and the crossings in order."""

    record: str
    positions: tuple[int, ...]
    crossings: tuple[Crossing, ...]


@dataclass(frozen=True, slots=True)
class AggregatePlan:
    """One aggregate inside a group: its rule, and where its slots begin in the contribution."""

    name: str
    model: Aggregate
    rule: Rule
    first_slot: int


@dataclass(frozen=True, slots=True)
class Group:
    """Aggregates of one host type that share their edges and stratum.

    `contribute(edge row, *crossing rows)` gives `(host id, slot values…)`. `plus`, `minus` and `change` fold contributions into an
    accumulator made by `fresh`: per slot one number (`delta`), or two entries: amount and whether one was retracted (`exact`),
    best gained and best lost (`max`, `min`), or `REPLACE` in place of the second.
    `reread` gives, for given hosts, the host id and the slots that can need it.
    """

    view: View
    aggregates: tuple[AggregatePlan, ...]
    slots: tuple[Slot, ...]
    contribute: Callable[..., tuple[Any, ...]]
    fresh: Callable[[], list[Any]]
    cells: Callable[[list[Any]], tuple[Any, ...]]  # an accumulator as the cells of a vector
    idle: tuple[Any, ...]  # the cells of an accumulator over nothing
    plus: Callable[[list[Any], tuple[Any, ...]], None]
    minus: Callable[[list[Any], tuple[Any, ...]], None]
    change: Callable[[list[Any], tuple[Any, ...], tuple[Any, ...]], None]
    entry_of: tuple[int, ...]
    reread_slots: tuple[int, ...]
    reread: Compiled | None
    reread_decode: Callable[[Sequence[Any]], Row] | None


@dataclass(frozen=True, slots=True)
class UpdatePlan:
    """An UPDATE of hosts, with and without the new rows returned, and how vectors (`[id, slot values…]`) become its parameters."""

    quiet: Statement
    returning: Statement
    bind: Callable[[Sequence[Any]], Sequence[Any]]


@dataclass(frozen=True, slots=True)
class HostStep:
    """Move all derived columns of one host type in one stratum, with one UPDATE.

    A vector is the host's id, then per slot its amount or candidate, followed for slots other than `delta` by 1 if it replaces
    the state. `limits`: the cells of a vector that hold a sum's amount, each with the largest that one parameter takes;
    `floats`: those that hold a sum of floats, which must be finite.
    `needs_rows`: something later reads what changes here.
    """

    record: str
    groups: tuple[Group, ...]
    sources: frozenset[str]
    columns: tuple[int, ...]  # positions of the columns assigned
    update_one: UpdatePlan
    update_many: UpdatePlan
    limits: tuple[tuple[int, Any], ...]
    floats: tuple[int, ...]
    needs_rows: bool
    globals: bool = False


@dataclass(frozen=True, slots=True)
class FormulaStep:
    """Assign formulas that cross links or read derived columns. `evaluate(row, *crossing rows)` gives their values in order."""

    record: str
    view: View
    sources: frozenset[str]
    columns: tuple[int, ...]
    evaluate: Callable[..., tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class CustomStep:
    """Call a Custom's function for the records whose declared inputs changed."""

    record: str
    name: str
    column: int
    model: CustomModel
    view: View
    edges: tuple[Group, ...]  # contributions are not used, only which hosts an edge belongs to
    sources: frozenset[str]


@dataclass(frozen=True, slots=True)
class TransformStep:
    """Keep the records derived from other records. `evaluate` gives the mapped columns; None when a function is called."""

    record: str
    model: TransformModel
    view: View
    sources: frozenset[str]
    fields: tuple[str, ...]
    evaluate: Callable[..., tuple[Any, ...]] | None


Step = HostStep | FormulaStep | CustomStep | TransformStep


@dataclass(frozen=True, slots=True)
class Referrer:
    """A link of another record type that points here, and what happens to its rows on delete."""

    record: str
    link: str
    position: int
    on_delete: Literal["cascade", "restrict", "detach"]
    select: Statement  # rows of `record` whose link is among given ids


@dataclass(frozen=True, slots=True)
class TransitionPlan:
    """A transition with its trigger compiled. `matches(new or old row, *crossings)`; `of` are column positions."""

    model: TransitionModel
    of: tuple[int, ...]
    view: View
    matches: Callable[..., bool] | None


@dataclass(frozen=True, slots=True)
class MachinePlan:
    """A state machine on `record`: positions of its value and its state, and its transitions by trigger (record, change)."""

    record: str
    name: str
    value: int
    state: int
    check: Callable[[Any], Any]  # of the values that functions of states give
    model: Machine
    transitions: Mapping[tuple[str, str], tuple[TransitionPlan, ...]]


@dataclass(frozen=True, slots=True)
class EffectPlan:
    """A side effect compiled for its record: column positions of `of`, and the expressions as functions of the event's row."""

    model: EffectModel
    of: tuple[int, ...]
    where_view: View
    where: Callable[..., bool] | None
    order_view: View
    order_by: Callable[..., Any] | None
    delay_view: View
    delay: Callable[..., Any] | None  # of one that depends on the record


@dataclass(slots=True)
class RecordPlan:
    """One record type: its columns, how values become a row, and its statements.

    `admit(values, now)` checks and completes what a user gave and returns the row with id None (or the given id).
    `local(row)` recomputes the formulas over the row's own columns. `initial_formulas` are the others, in order.
    `normalise_any` turn a value of a member into what its column holds, or raise ValueError; `normalise` are those of the members
    that a write may give.
    """

    name: str
    model: RecordModel
    table: sa.Table
    columns: tuple[ColumnPlan, ...]
    index: Mapping[str, int]
    admit: Callable[[Mapping[str, Any], Any], list[Any]]
    normalise: Mapping[str, Callable[[Any], Any]]
    normalise_any: Mapping[str, Callable[[Any], Any]]
    local: Callable[[list[Any]], None] | None
    encode: Callable[[Sequence[Any]], Row] | None
    decode: Callable[[Sequence[Any]], Row] | None
    statements: RecordStatements
    id_family: str
    initial_view: View | None = None
    initial_formulas: tuple[tuple[int, Callable[..., Any]], ...] = ()
    referrers: tuple[Referrer, ...] = ()
    effects: tuple[EffectPlan, ...] = ()
    customs: tuple[tuple[int, CustomModel], ...] = ()
    computes: bool = False  # a Custom has a `compute`
    awaits_initial: bool = False  # a Custom has an async `initial`
    source_position: int | None = None  # of `ensue_source`, for records derived from records
    machines: tuple[MachinePlan, ...] = ()
    snapshot: Callable[[Row], Any] = field(default=repr)
    triggers: Mapping[str, tuple[MachinePlan, ...]] = field(default_factory=dict[str, tuple[MachinePlan, ...]])
    settled_before: frozenset[str] = frozenset()  # changes whose events show derived columns to a state machine
    watched: bool = False  # an effect or a state machine listens to it: net changes are kept


@dataclass(frozen=True, slots=True)
class RecordStatements:
    """The fixed statements of one record type. `…_many` take all ids as one parameter."""

    insert_one: Statement
    insert_many: Callable[[int], Statement] | Statement  # SQLite: by number of rows; PostgreSQL: columns as arrays
    insert_rows_max: int
    select: Mapping[LockMode, Statement]
    select_many: Mapping[LockMode, Statement]
    delete_many: Statement


LockMode = Literal["none", "share", "update", "delete"]


@dataclass(frozen=True, slots=True)
class Reached:
    """Rows that a change leads to: of type `record`, by column `fk` of those of entry `parent` (-1: of the row that changes)."""

    record: str
    parent: int
    fk: int


@dataclass(frozen=True, slots=True)
class LockOrder:
    """The rows to lock before a change is written, table by table in the order of `tables`; `positions`: by which columns."""

    tables: tuple[str, ...]
    reached: tuple[Reached, ...]
    positions: frozenset[int]


References = tuple[str, LockMode, tuple[int, ...]]
"""A record type that another refers to, how its rows are locked then, and in which columns their ids stand."""


@dataclass(frozen=True, slots=True)
class Below:
    """Rows of `record`, which has a lock order, that read columns `positions` of a row they refer to; `lookup` finds them."""

    record: str
    positions: frozenset[int]
    lookup: Statement


@dataclass(slots=True)
class Plan:
    """One app's schema compiled for one dialect."""

    model: Model
    dialect: Dialect
    metadata: sa.MetaData
    records: Mapping[str, RecordPlan]
    strata: tuple[tuple[Step, ...], ...]
    heights: Mapping[tuple[str, str], int]
    reach: Mapping[str, frozenset[str]]  # record type -> those that a change of it may update in the same transaction
    references: Mapping[str, tuple[References, ...]]  # by record type, in the order in which they are locked
    lock_orders: Mapping[str, LockOrder]  # empty where the database has one writer
    locked_below: Mapping[str, tuple[Below, ...]]  # by the record type that is referred to
    derived_from_events: Mapping[str, tuple[str, ...]]  # interaction -> record types that a Transform creates from it
    effect_records: frozenset[str]  # record types with side effects
    delete_reach: Mapping[str, frozenset[str]]  # listened-to types that a deletion of each can change, itself included
    derived_listeners: tuple[str, ...]  # record types on whose changes by propagation a state machine may move
    ddl: tuple[Statement, ...]
    fingerprint: Mapping[str, Any]
    by_table: Mapping[str, RecordPlan] = field(default_factory=dict[str, RecordPlan])
    # By the name of the constraint: record and field.
    checks: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    statements: dict[Any, Statement] = field(default_factory=dict[Any, Statement])
    assigns: dict[Any, tuple[Statement, Callable[[Sequence[Row]], Sequence[Any]]]] = field(
        default_factory=dict[Any, Any]
    )

    def record(self, name: str, /) -> sa.Table:
        """The table of a record type."""
        return self.records[name].table
