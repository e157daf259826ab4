"""`compile_plan`: from a frozen model to a plan, in ordered passes.

Decides the order of the passes; each is a module of its own. Invariant: after it returns, the engine needs neither the model's
expressions nor any name look-up to run.
"""

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from ensue.errors import InternalError
from ensue.expression.nodes import Node
from ensue.expression.python import compile_function, source
from ensue.plan.admit import compile_admit, compile_local, given, normalisers
from ensue.plan.ddl import ddl_statements, fingerprint
from ensue.plan.lock_order import lock_orders, lock_ranks, locked_below, references
from ensue.plan.plan import EffectPlan, MachinePlan, Plan, RecordPlan, Referrer, Step, TransitionPlan, View
from ensue.plan.statements import record_statements, row_encoder, row_function, select_by_link
from ensue.plan.steps.build import compile_steps
from ensue.plan.strata import Heights, Influence
from ensue.plan.tables import SOURCE_COLUMN, build_tables, column_plans, link_of, short_name
from ensue.plan.values import normaliser
from ensue.plan.views import Layout, ViewBuilder, empty_view, function_of
from ensue.schema.model import CustomModel, EffectModel, Formula, Machine, Model, RecordModel, TransitionModel
from ensue.schema.record import make_record
from ensue.store.driver import Dialect
from ensue.store.system_tables import define_system_tables


def compile_plan(model: Model, dialect: Dialect) -> Plan:
    """The plan of `model` for databases of `dialect`."""
    layout = _layout(model, dialect)
    heights = Heights(model)
    machines = _machines(layout)
    derived = _derived_from_events(model)
    records = {name: _record(layout, heights, item, machines) for name, item in model.records.items()}
    # Listeners before steps: whether a step must give its rows back depends on who listens.
    watched = _watched(model, machines)
    for name in watched:
        records[name].watched = True
    moves = [
        Influence(frozenset(source for source, _ in machine.transitions), machine.record)
        for items in machines.values()
        for machine in items
    ]
    moves += [Influence(frozenset({source}), name) for source, names in derived.items() for name in names]
    strata, reach = compile_steps(layout, heights, watched, read=_read_by_listeners(records), moves=moves)
    for record in records.values():
        _initial_formulas(layout, heights, record, exclusive=reach[record.name])
        record.settled_before = _settled_before(record, strata)
    ranks = lock_ranks(model)
    orders = lock_orders(layout, derived, ranks) if dialect == "postgresql" else {}
    return Plan(
        model=model,
        dialect=dialect,
        metadata=layout.metadata,
        records=records,
        strata=strata,
        heights=heights.found,
        reach=reach,
        references={name: references(layout, name, ranks, reach[name]) for name in model.records},
        lock_orders=orders,
        locked_below=locked_below(strata, orders),
        derived_from_events=derived,
        effect_records=frozenset(effect.record for effect in model.effects.values()),
        delete_reach=_delete_reach(records),
        derived_listeners=tuple(
            name for name, record in records.items() if record.triggers and record.model.kind != "event"
        ),
        ddl=tuple(ddl_statements(layout)),
        fingerprint=fingerprint(layout),
        by_table={record.table.name: record for record in records.values()},
        checks={
            short_name(f"ck_{record.table}_{field.column}"): (record.name, field.name)
            for record in model.records.values()
            for field in record.fields.values()
            if field.check is not None
        },
    )


def _derived_from_events(model: Model) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = defaultdict(list)
    for record in model.records.values():
        if record.transform is not None and record.transform.event:
            found[record.transform.source].append(record.name)
    return {name: tuple(items) for name, items in found.items()}


def _delete_reach(records: Mapping[str, RecordPlan]) -> dict[str, frozenset[str]]:
    """For each record type, the listened-to types whose rows go or change when one of its rows is deleted."""

    def reach(name: str, seen: set[str]) -> set[str]:
        if name in seen:
            return seen
        seen.add(name)
        for referrer in records[name].referrers:
            if referrer.on_delete == "cascade":
                reach(referrer.record, seen)
            elif referrer.on_delete == "detach":
                seen.add(referrer.record)
        return seen

    listened = {name for name, record in records.items() if record.watched or record.triggers or record.effects}
    return {name: frozenset(reach(name, set()) & listened) for name in records}


def _layout(model: Model, dialect: Dialect) -> Layout:
    metadata = sa.MetaData()
    columns = {name: column_plans(record, dialect) for name, record in model.records.items()}
    build_tables(model, columns, metadata, dialect)
    define_system_tables(metadata)
    index = {name: {column.name: n for n, column in enumerate(items)} for name, items in columns.items()}
    return Layout(model, dialect, metadata, columns, index)


def _record(
    layout: Layout, heights: Heights, record: RecordModel, machines: Mapping[str, tuple[MachinePlan, ...]]
) -> RecordPlan:
    columns = layout.columns[record.name]
    table = layout.table(record.name)
    checks = normalisers(layout.model, record)
    writable = given(record, checks)
    local = compile_local(heights, record, columns)
    customs = [
        (layout.position(record.name, field.name), field.computation)
        for field in record.fields.values()
        if isinstance(field.computation, CustomModel)
    ]
    plan = RecordPlan(
        name=record.name,
        model=record,
        table=table,
        columns=columns,
        index=layout.index[record.name],
        admit=compile_admit(record, columns, writable, {name: item.cls for name, item in layout.model.records.items()}),
        normalise=writable,
        normalise_any=checks,
        local=local,
        encode=row_encoder(columns, layout.dialect),
        decode=row_function([column.decode for column in columns]),
        statements=record_statements(table, columns, layout.dialect),
        id_family=record.table,
        referrers=tuple(_referrers(layout, record)),
        effects=tuple(
            _effect(layout, effect) for effect in layout.model.effects.values() if effect.record == record.name
        ),
        customs=tuple(customs),
        computes=any(custom.compute is not None for _, custom in customs),
        awaits_initial=any(inspect.iscoroutinefunction(custom.initial) for _, custom in customs),
        source_position=layout.index[record.name].get(SOURCE_COLUMN),
        machines=tuple(item for items in machines.values() for item in items if item.record == record.name),
        triggers=_triggers(record, machines),
    )
    plan.snapshot = _snapshot(layout, record)
    return plan


def _snapshot(layout: Layout, record: RecordModel) -> Any:
    """A function from a row to an instance that holds its visible columns."""
    columns = enumerate(layout.columns[record.name])
    cells = ", ".join(f"{column.name!r}: row[{n}]" for n, column in columns if column.role != "hidden")
    constants: dict[str, Any] = {"make_record": make_record, "cls": record.cls, "model": layout.model}
    return compile_function("snapshot", ("row",), f"make_record(cls, {{{cells}}}, model)", constants)


def _initial_formulas(layout: Layout, heights: Heights, plan: RecordPlan, *, exclusive: frozenset[str]) -> None:
    """Formulas over other records are part of the INSERT too: which, in order, and what they cross to."""
    crossing = [
        field
        for field in plan.model.fields.values()
        if isinstance(field.computation, Formula) and not heights.is_local(plan.name, field.computation.value)
    ]
    if not crossing:
        return
    builder = ViewBuilder(layout, plan.name)
    formulas: list[tuple[int, Any]] = []
    for field in sorted(crossing, key=lambda item: heights.of(plan.name, item.name)):
        assert isinstance(field.computation, Formula)
        formulas.append((layout.position(plan.name, field.name), _over(builder, field.computation)))
    # Every function takes all crossings of the shared view, in order.
    parameters = builder.parameters
    plan.initial_formulas = tuple((position, make(parameters)) for position, make in formulas)
    plan.initial_view = builder.build(exclusive=exclusive)


def _over(builder: ViewBuilder, formula: Formula) -> Any:
    constants: dict[str, Any] = {}
    text = source(formula.value, builder.source, constants)

    def make(parameters: tuple[str, ...]) -> Callable[..., Any]:
        return compile_function("initial", parameters, text, constants)

    return make


def _referrers(layout: Layout, record: RecordModel) -> list[Referrer]:
    found: list[Referrer] = []
    for other in layout.model.records.values():
        for link in other.links.values():
            if link.target != record.name or link.on_delete is None:
                continue
            position = layout.position(other.name, link.name)
            columns = layout.columns[other.name]
            select = select_by_link(layout.table(other.name), columns, columns[position], layout.dialect)
            found.append(Referrer(other.name, link.name, position, link.on_delete, select))
    return found


# --- Listeners --------------------------------------------------------------------------------------------------------


def _machines(layout: Layout) -> dict[str, tuple[MachinePlan, ...]]:
    found: dict[str, tuple[MachinePlan, ...]] = {}
    for record in layout.model.records.values():
        machines = [
            _machine(layout, record, field.name, field.computation)
            for field in record.fields.values()
            if isinstance(field.computation, Machine)
        ]
        if machines:
            found[record.name] = tuple(machines)
    return found


def _machine(layout: Layout, record: RecordModel, name: str, machine: Machine) -> MachinePlan:
    transitions: dict[tuple[str, str], list[TransitionPlan]] = defaultdict(list)
    for transition in machine.transitions:
        trigger = transition.trigger
        if trigger.record not in layout.model.records:
            raise InternalError(
                f"The state machine {record.name}.{name} listens to {trigger.record}, which is no record type."
            )
        transitions[trigger.record, trigger.change].append(_transition(layout, transition))
    index = layout.index[record.name]
    return MachinePlan(
        record=record.name,
        name=name,
        value=index[name],
        state=index[f"{name}__state"],
        check=normaliser(record.fields[name].type, optional=record.fields[name].optional),
        model=machine,
        transitions={key: tuple(items) for key, items in transitions.items()},
    )


def _transition(layout: Layout, transition: TransitionModel) -> TransitionPlan:
    trigger = transition.trigger
    of = tuple(layout.position(trigger.record, name) for name in trigger.of)
    if trigger.where is None:
        return TransitionPlan(transition, of, empty_view(trigger.record), None)
    view, matches = function_of(layout, trigger.record, trigger.where, predicate=True)
    return TransitionPlan(transition, of, view, matches)


def _triggers(
    record: RecordModel, machines: Mapping[str, tuple[MachinePlan, ...]]
) -> dict[str, tuple[MachinePlan, ...]]:
    """Change -> the machines that listen to it on this record type."""
    found: dict[str, list[MachinePlan]] = defaultdict(list)
    for items in machines.values():
        for machine in items:
            for trigger, change in machine.transitions:
                if trigger == record.name:
                    found[change].append(machine)
    return {change: tuple(items) for change, items in found.items()}


def _watched(model: Model, machines: Mapping[str, tuple[MachinePlan, ...]]) -> frozenset[str]:
    """Record types whose derived changes somebody wants to see whole: side effects, and state machines on their updates."""
    listened = {effect.record for effect in model.effects.values()}
    for items in machines.values():
        listened |= {source for machine in items for source, _ in machine.transitions}
    return frozenset(name for name in listened if model.records[name].kind != "event")


def _read_by_listeners(records: Mapping[str, RecordPlan]) -> Iterator[tuple[str, int]]:
    """The columns of crossed rows that conditions and order keys read: the images of changed rows must hold them."""
    for record in records.values():
        for view in _views_of_listeners(record):
            yield from ((crossing.record, position) for crossing in view.crossings for position in crossing.positions)


def _views_of_listeners(record: RecordPlan) -> Iterator[View]:
    for effect in record.effects:
        yield effect.where_view
        yield effect.order_view
        yield effect.delay_view
    for change in record.triggers:
        yield from (transition.view for transition in _transitions(record, change))


def _transitions(record: RecordPlan, change: str) -> Iterator[TransitionPlan]:
    for machine in record.triggers[change]:
        yield from machine.transitions[record.name, change]


def _settled_before(record: RecordPlan, strata: tuple[tuple[Step, ...], ...]) -> frozenset[str]:
    """The changes of a record type before which everything must be propagated, because its state machines see what derives."""
    moving = {step.record for stratum in strata for step in stratum}

    def sees(change: str) -> bool:
        crossed = {item.record for plan in _transitions(record, change) for item in plan.view.crossings}
        return not moving.isdisjoint(crossed) or (change != "create" and record.name in moving)

    return frozenset(change for change in record.triggers if sees(change))


def _effect(layout: Layout, effect: EffectModel) -> EffectPlan:
    record = effect.record
    model = layout.model.records[record]
    where_view, where = empty_view(record), None
    order_view, order_by = empty_view(record), None
    if effect.where is not None:
        where_view, where = function_of(layout, record, effect.where, predicate=True)
    if effect.order_by is not None:
        order_view, order_by = function_of(layout, record, effect.order_by)
    delay_view, delay = empty_view(record), None
    if isinstance(effect.delay, Node):
        delay_view, delay = function_of(layout, record, effect.delay)
    of = tuple(layout.position(record, link_of(model, name)) for name in effect.of)
    return EffectPlan(effect, of, where_view, where, order_view, order_by, delay_view, delay)
