"""Every derived value from scratch, as SQL: which rows hold another value than its definition gives, and the UPDATE that repairs
them.

This is the independent path: it comes from the nodes of the model by `lower`, and shares nothing with the deltas but the rules'
`recompute`. Leaves running it to the audit and to migrations. Invariant: run in order, each computation reads only columns that
the ones before it have made right.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import sqlalchemy as sa

from ensue.errors import DeclarationError
from ensue.expression.nodes import Node, columns
from ensue.expression.python import compile_function, source
from ensue.expression.sql import Compiled, compile_statement, literal
from ensue.plan.plan import (
    AggregatePlan,
    ColumnPlan,
    CustomStep,
    FormulaStep,
    Group,
    HostStep,
    Plan,
    RecordPlan,
    TransformStep,
)
from ensue.plan.statements import Text, row_function
from ensue.plan.steps.groups import GLOBALS_ID, ID_LIST, enclosed, lowered
from ensue.plan.tables import SLOT_COLUMN, SOURCE_COLUMN, Located, link_of
from ensue.plan.views import Layout
from ensue.schema.model import CustomModel, Formula
from ensue.store.statement import Statement

FLOAT_TOLERANCE = 1e-9
"""Relative: sums of floats depend on the order of adding, and deltas add in another order than a recompute."""

_CACHE_KEY: Final = ("recompute", "checks")

DOUBLE: sa.Double[float] = sa.Double()
Element = sa.ColumnElement[Any]


@dataclass(frozen=True, slots=True)
class Recompute:
    """Columns of one host type that one statement computes from scratch.

    `check` gives `(id, stored values…, right values…)` of the rows where they differ, `check_of` of those among the ids in its
    one parameter `ids`; `decode` makes Python values of such a row. `repair` and `repair_of` set the right values. When
    `evaluate` is given, the database can't compute the (one) value: `check` then gives `(id, stored value, inputs…)` of all
    rows, `evaluate(row)` the right value, and `repair_of` is a plain statement that takes `(id, right value)`.
    """

    record: str
    columns: tuple[ColumnPlan, ...]
    check: Compiled
    check_of: Compiled
    repair: Compiled | None
    repair_of: Compiled | Statement
    decode: Callable[[Sequence[Any]], tuple[Any, ...]] | None
    evaluate: Callable[[Sequence[Any]], Any] | None = None


@dataclass(frozen=True, slots=True)
class TransformCheck:
    """Records derived from records.

    `extra` gives `(id, source, slot)` of derived rows without a source (or beyond its one slot). `differing` gives
    `(source id, derived id or null, stored values…, right values…)` where a derived row lacks or differs; None when only the
    user's function knows what is right.
    """

    step: TransformStep
    columns: tuple[ColumnPlan, ...]
    extra: Compiled
    differing: Compiled | None
    decode: Callable[[Sequence[Any]], tuple[Any, ...]] | None


@dataclass(frozen=True, slots=True)
class CustomCheck:
    """A column whose right values a plain Python function knows, called anew for every record."""

    record: str
    columns: tuple[ColumnPlan, ...]
    step: CustomStep


Check = Recompute | TransformCheck | CustomCheck


def recomputable(custom: CustomModel) -> bool:
    """Whether the function alone says what the value is: not what it was at the start, what it was before, or the outside."""
    plain = custom.compute is not None and not inspect.iscoroutinefunction(custom.compute)
    return plain and custom.initial is None and custom.incremental is None


def layout_of(plan: Plan) -> Layout:
    """The layout that a plan was compiled from."""
    records = plan.records
    return Layout(
        plan.model,
        plan.dialect,
        plan.metadata,
        {name: record.columns for name, record in records.items()},
        {name: record.index for name, record in records.items()},
    )


def recomputes(plan: Plan) -> tuple[Check, ...]:
    """Every check of a plan, in the order in which repairs must be made. State machines have none, nor have most Customs."""
    # Compiled once: a tenth of a second for a large schema, which an audit after every write of a test would notice.
    cache = cast("dict[Any, Any]", plan.statements)
    if _CACHE_KEY not in cache:
        cache[_CACHE_KEY] = tuple(_recomputes(plan))
    return cache[_CACHE_KEY]


def _recomputes(plan: Plan) -> Iterator[Check]:
    layout = layout_of(plan)
    for record in plan.records.values():
        for position in _local_formulas(plan, record):
            yield _formula(layout, record, record.columns[position])
    for stratum in plan.strata:
        for step in stratum:
            if isinstance(step, HostStep):
                for group in step.groups:
                    yield _aggregates(layout, plan.records[step.record], group)
            elif isinstance(step, FormulaStep):
                record = plan.records[step.record]
                for position in step.columns:
                    yield _formula(layout, record, record.columns[position])
            elif isinstance(step, TransformStep):
                yield _transform(layout, plan, step)
            elif recomputable(step.model):
                yield CustomCheck(step.record, (plan.records[step.record].columns[step.column],), step)


def _local_formulas(plan: Plan, record: RecordPlan) -> Iterator[int]:
    """Positions of the formulas over a row's own columns, those that others read first."""
    assigned = {
        position
        for stratum in plan.strata
        for step in stratum
        if isinstance(step, FormulaStep) and step.record == record.name
        for position in step.columns
    }
    local = {
        field.name: field.computation.value
        for field in record.model.fields.values()
        if isinstance(field.computation, Formula) and record.index[field.name] not in assigned
    }
    done: set[str] = set()

    def visit(name: str) -> Iterator[int]:
        if name not in done:
            done.add(name)
            for node in columns(local[name]):
                if node.field in local:
                    yield from visit(node.field)
            yield record.index[name]

    for name in local:
        yield from visit(name)


# --- Aggregates -------------------------------------------------------------------------------------------------------


def _aggregates(layout: Layout, record: RecordPlan, group: Group) -> Recompute:
    plans = tuple(_group_columns(record, group))

    def query(ids: Element | None) -> sa.Select[Any]:
        edges = _edges(layout, record, group, ids)
        host = record.table.alias("h")
        pairs = [(host.c[plan.column], _right(layout, plan, edges.c[plan.column])) for plan in plans]
        scales = [edges.c.get(f"{plan.column}__scale") for plan in plans]
        joined = host.outerjoin(edges, edges.c.host == host.c.id)
        return _differing(host.c.id, pairs, plans, scales).select_from(joined)

    return _recompute(layout, record, plans, query)


def _group_columns(record: RecordPlan, group: Group) -> Iterator[ColumnPlan]:
    for aggregate in group.aggregates:
        for state in aggregate.rule.columns:
            yield record.columns[record.index[aggregate.name + state.suffix]]


def _edges(layout: Layout, record: RecordPlan, group: Group, ids: Element | None) -> sa.Subquery:
    """One row per host that has edges: its id and every state column."""
    model = group.aggregates[0].model
    located = Located(layout.model, layout.metadata, model.edge, alias="e")
    host: Element = sa.literal_column(str(GLOBALS_ID))
    if model.host_path:
        table, at = located.at(model.host_path[:-1])
        host = table.c[at.links[link_of(at, model.host_path[-1])].column]
    selected = [item for plan in group.aggregates for item in _states(layout, record, located, plan)]
    query = sa.select(host.label("host"), *selected).select_from(located.source)
    if model.host_path:
        query = query.group_by(host)
        if ids is not None:
            query = query.where(_among(layout, host, ids))
    return query.subquery("x")


def _states(layout: Layout, record: RecordPlan, located: Located, plan: AggregatePlan) -> Iterator[sa.Label[Any]]:
    where, value = lowered(layout, located, plan.model)
    column = record.model.fields[plan.name].column
    for suffix, element in plan.rule.recompute(where, value).items():
        yield element.label(column + suffix)
    if plan.model.kind in ("sum", "average") and plan.rule.slots[0].type.kind == "float":
        # How far rounding may carry a sum depends on what was added, not on what is left after adding.
        size: Element = sa.func.abs(value)
        for suffix in [""] if plan.model.kind == "sum" else ["", "__sum"]:
            total, n = (
                found if where is None else found.filter(where) for found in (sa.func.sum(size), sa.func.count(size))
            )
            # PostgreSQL's avg keeps a sum of squares, which overflows long before the sum does.
            mean = plan.model.kind == "average" and not suffix
            yield (total / sa.func.nullif(n, 0) if mean else total).label(f"{column}{suffix}__scale")


def _right(layout: Layout, plan: ColumnPlan, element: Element) -> Element:
    if plan.initial is not None:
        element = sa.func.coalesce(element, literal(plan.initial, plan.type, layout.dialect))
    if plan.type.base == "int" and layout.dialect == "postgresql":
        # A sum of bigint is a numeric.
        element = sa.cast(element, sa.BigInteger())
    return element


# --- Formulas ---------------------------------------------------------------------------------------------------------


def _formula(layout: Layout, record: RecordPlan, plan: ColumnPlan) -> Recompute:
    computation = record.model.fields[plan.name].computation
    assert isinstance(computation, Formula)
    value = computation.value

    def query(ids: Element | None) -> sa.Select[Any]:
        located = Located(layout.model, layout.metadata, record.name, alias="e")
        right = enclosed(layout, located, value)
        id_, stored = located.root.c.id, located.root.c[plan.column]
        return _differing(id_, [(stored, right)], (plan,)).select_from(located.source)

    try:
        return _recompute(layout, record, (plan,), query)
    except DeclarationError:
        # `upper` and `lower` are Python's, and PostgreSQL has no such functions.
        return _evaluated(layout, record, plan, value)


def _evaluated(layout: Layout, record: RecordPlan, plan: ColumnPlan, value: Node) -> Recompute:
    located = Located(layout.model, layout.metadata, record.name, alias="e")
    inputs = columns(value)
    selected = [located.column(node) for node in inputs]
    query = sa.select(located.root.c.id, located.root.c[plan.column], *selected).select_from(located.source)
    ids = sa.bindparam("ids", type_=ID_LIST)
    table = record.table.name
    positions = {node: f"row[{position}]" for position, node in enumerate(inputs, start=2)}
    constants: dict[str, Any] = {}
    text = source(value, positions.__getitem__, constants)
    sql = Text(layout.dialect)
    column, by_id = sql.quote(plan.column), "$1" if layout.dialect == "postgresql" else "?1"
    decoders = [None, plan.decode, *(_node_decoder(layout, record.name, node) for node in inputs)]
    return Recompute(
        record.name,
        (plan,),
        check=compile_statement(query, layout.dialect, f"{table}.check", rows=True),
        check_of=compile_statement(
            query.where(_among(layout, located.root.c.id, ids)), layout.dialect, f"{table}.check_of", rows=True
        ),
        repair=None,
        repair_of=Statement(
            f"{table}.repair_one",
            f"UPDATE {sql.quote(table)} SET {column} = {sql.parameter(2, plan)} WHERE id = {by_id}",
        ),
        decode=row_function(decoders),
        evaluate=compile_function("evaluate", ("row",), text, constants),
    )


def _node_decoder(layout: Layout, record: str, node: Any) -> Any:
    at = layout.model.records[record]
    for step in node.path:
        at = layout.model.records[at.links[link_of(at, step)].target]
    return layout.columns[at.name][layout.position(at.name, node.field)].decode


# --- Transforms -------------------------------------------------------------------------------------------------------


def _transform(layout: Layout, plan: Plan, step: TransformStep) -> TransformCheck:
    record = plan.records[step.record]
    derived = record.table.alias("d")
    origin = plan.records[step.model.source].table.alias("s")
    beyond = origin.c.id.is_(None)
    if step.evaluate is not None:
        beyond = sa.or_(beyond, derived.c[SLOT_COLUMN] != sa.literal_column("0"))
    extra = (
        sa.select(derived.c.id, derived.c[SOURCE_COLUMN], derived.c[SLOT_COLUMN])
        .select_from(derived.outerjoin(origin, origin.c.id == derived.c[SOURCE_COLUMN]))
        .where(beyond)
        .order_by(derived.c.id)
    )
    name = record.table.name
    columns_ = tuple(record.columns[record.index[field]] for field in step.fields)
    return TransformCheck(
        step,
        columns_,
        compile_statement(extra, layout.dialect, f"{name}.check_extra", rows=True),
        _mapped(layout, record, step, columns_),
        row_function([None, None, *(plan.decode for plan in columns_), *(plan.decode for plan in columns_)]),
    )


def _mapped(layout: Layout, record: RecordPlan, step: TransformStep, columns_: Sequence[ColumnPlan]) -> Compiled | None:
    mapping = step.model.mapping
    if mapping is None:
        return None
    located = Located(layout.model, layout.metadata, step.model.source, alias="e")
    derived = record.table.alias("d")
    pairs: list[tuple[Element, Element]] = []
    for field, plan in zip(step.fields, columns_, strict=True):
        pairs.append((derived.c[plan.column], enclosed(layout, located, mapping[field])))
    joined = located.source.outerjoin(
        derived,
        sa.and_(derived.c[SOURCE_COLUMN] == located.root.c.id, derived.c[SLOT_COLUMN] == sa.literal_column("0")),
    )
    stored, right = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    wrong = [_differs(pair, plan) for pair, plan in zip(pairs, columns_, strict=True)]
    query = (
        sa.select(located.root.c.id, derived.c.id, *stored, *right)
        .select_from(joined)
        .where(sa.or_(derived.c.id.is_(None), *wrong))
        .order_by(located.root.c.id)
    )
    return compile_statement(query, layout.dialect, f"{record.table.name}.check", rows=True)


# --- Statements -------------------------------------------------------------------------------------------------------


def _recompute(
    layout: Layout, record: RecordPlan, plans: tuple[ColumnPlan, ...], query: Callable[[Element | None], sa.Select[Any]]
) -> Recompute:
    name = record.table.name
    ids = sa.bindparam("ids", type_=ID_LIST)
    whole, some = query(None), query(ids)
    some = some.where(_among(layout, some.selected_columns[0], ids))

    def text(statement: Any, what: str, *, rows: bool) -> Compiled:
        return compile_statement(statement, layout.dialect, f"{name}.{what}", rows=rows)

    decoders = [plan.decode for plan in plans]
    return Recompute(
        record.name,
        plans,
        check=text(whole.order_by(whole.selected_columns[0]), "check", rows=True),
        check_of=text(some.order_by(some.selected_columns[0]), "check_of", rows=True),
        repair=text(_repair(record, plans, whole), "repair", rows=False),
        repair_of=text(_repair(record, plans, some), "repair_of", rows=False),
        decode=row_function([None, *decoders, *decoders]),
    )


def _repair(record: RecordPlan, plans: Sequence[ColumnPlan], query: sa.Select[Any]) -> sa.Update:
    wrong = query.subquery("ensue_wrong")
    values = {plan.column: wrong.c[f"r{n}"] for n, plan in enumerate(plans)}
    return sa.update(record.table).values(values).where(record.table.c.id == wrong.c.id)


def _differing(
    id_: Element,
    pairs: Sequence[tuple[Element, Element]],
    plans: Sequence[ColumnPlan],
    scales: Sequence[Element | None] | None = None,
) -> sa.Select[Any]:
    stored = [pair[0].label(f"s{n}") for n, pair in enumerate(pairs)]
    right = [pair[1].label(f"r{n}") for n, pair in enumerate(pairs)]
    wrong = [
        _differs(pair, plan, None if scales is None else scales[n])
        for n, (pair, plan) in enumerate(zip(pairs, plans, strict=True))
    ]
    return sa.select(id_.label("id"), *stored, *right).where(sa.or_(*wrong))


def _differs(pair: tuple[Element, Element], plan: ColumnPlan, scale: Element | None = None) -> Element:
    # As plain operators: ensue's column types would have SQLAlchemy treat numbers as text.
    stored, right = (sa.type_coerce(item, sa.Integer()) for item in pair)
    differs = stored.is_distinct_from(right)
    if plan.type.kind != "float":
        return differs
    stored, right = (sa.type_coerce(item, DOUBLE) for item in pair)
    size: Element = _abs(stored) + _abs(right)
    if scale is not None:
        size = size + sa.func.coalesce(scale, sa.literal_column("0.0", DOUBLE))
    distance: Element = stored - right
    close = _abs(distance) <= size * sa.literal_column(repr(FLOAT_TOLERANCE), DOUBLE)
    no: Element = sa.literal_column("0")
    yes: Element = sa.literal_column("1")
    # Unless both are numbers it is not known whether they are close, and they differ.
    return sa.and_(differs, sa.case((close, no), else_=yes) == yes)


def _abs(element: Element) -> Element:
    return sa.func.abs(element, type_=DOUBLE)


def _among(layout: Layout, element: Element, ids: Element) -> Element:
    if layout.dialect == "postgresql":
        return element == sa.func.any(ids)
    return element.in_(sa.select(sa.func.json_each(ids).table_valued("value").c.value))
