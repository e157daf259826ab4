"""Lay the derived columns of a model out as steps in strata, each with all that it needs to run.

First the readings of every step are collected, because two decisions need them all: whether a step's new rows must be read back
(something above reads them, or a listener wants them), and whether a crossed row is locked exclusively at first touch (the same
transaction may have to update it).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ensue.expression.nodes import Node
from ensue.expression.python import compile_function, source
from ensue.plan.plan import CustomStep, FormulaStep, HostStep, Step, TransformStep
from ensue.plan.rules.rule import Slot
from ensue.plan.steps.groups import GroupBuilder, Named
from ensue.plan.steps.updates import host_updates
from ensue.plan.strata import EXISTENCE, Heights, Influence, Reach, derived_fields, reach_of, read_columns
from ensue.plan.views import Layout, ViewBuilder
from ensue.schema.model import Aggregate, CustomModel, Formula, RecordModel, TransformModel

Build = Callable[["Context"], Step]


@dataclass(frozen=True, slots=True)
class Context:
    """What a step learns once all are known."""

    layout: Layout
    read_above: frozenset[tuple[str, int]]  # (record, position) read by some step, in any stratum
    images: frozenset[str]  # record types whose changes a listener wants whole
    reach: Reach


@dataclass(frozen=True, slots=True)
class Draft:
    """A step before the context is known: what it reads and assigns, and how it is finished."""

    stratum: int
    record: str
    sources: frozenset[str]
    reads: tuple[tuple[str, int], ...]
    build: Build


def compile_steps(
    layout: Layout,
    heights: Heights,
    images: frozenset[str],
    *,
    read: Iterable[tuple[str, int]],
    moves: Iterable[Influence],
) -> tuple[tuple[tuple[Step, ...], ...], Reach]:
    """All steps, by stratum, lowest first, those of Globals classes in the last; and what a change of each record type reaches.

    `read` are the (record type, position) pairs that listeners read, `moves` the record types that state machines write, and on
    whose changes.
    """
    drafts = [*_host_drafts(layout, heights), *_formula_drafts(layout, heights)]
    drafts += [*_custom_drafts(layout, heights), *_transform_drafts(layout, heights)]
    context = Context(
        layout=layout,
        read_above=frozenset(pair for draft in drafts for pair in draft.reads) | frozenset(read),
        images=images,
        reach=reach_of(layout.model.records, [*moves, *(Influence(draft.sources, draft.record) for draft in drafts)]),
    )
    strata: dict[int, list[Step]] = defaultdict(list)
    for draft in drafts:
        strata[draft.stratum].append(draft.build(context))
    return tuple(tuple(strata[height]) for height in sorted(strata)), context.reach


LAST = 1_000_000


def _host_drafts(layout: Layout, heights: Heights) -> Iterable[Draft]:
    by_host: dict[tuple[int, str], list[Named]] = defaultdict(list)
    top = _top_heights(layout, heights)
    read = read_columns(layout.model)
    for record, field in derived_fields(layout.model):
        if isinstance(field.computation, Aggregate):
            globals_ = layout.model.records[record].kind == "globals"
            # A leaf waits for the highest of its host: the host's rows are then locked once, in order, and written once.
            own = heights.of(record, field.name) if (record, field.name) in read else top[record]
            by_host[LAST if globals_ else own, record].append((field.name, field.computation))
    for (stratum, record), named in by_host.items():
        yield _host_draft(layout, stratum, record, named)


def _top_heights(layout: Layout, heights: Heights) -> dict[str, int]:
    """The highest stratum in which each record type is a host."""
    top: dict[str, int] = {}
    for record, field in derived_fields(layout.model):
        if isinstance(field.computation, Aggregate):
            top[record] = max(top.get(record, 0), heights.of(record, field.name))
    return top


def _host_draft(layout: Layout, stratum: int, record: str, named: Sequence[Named]) -> Draft:
    by_edges: dict[tuple[str, tuple[str, ...]], list[Named]] = defaultdict(list)
    for name, aggregate in named:
        by_edges[aggregate.edge, aggregate.host_path].append((name, aggregate))
    builders = [GroupBuilder(layout, group) for group in by_edges.values()]
    sources = frozenset[str]().union(*(builder.view.sources for builder in builders))
    columns = tuple(
        position
        for position, column in enumerate(layout.columns[record])
        if any(column.name == name or column.name.startswith(f"{name}__") for name, _ in named)
    )

    cells = tuple(_cells(builders))

    def build(context: Context) -> Step:
        one, many = host_updates(layout, record, builders)
        return HostStep(
            record=record,
            groups=tuple(builder.build(exclusive=context.reach[builder.edge]) for builder in builders),
            sources=sources,
            columns=columns,
            update_one=one,
            update_many=many,
            limits=tuple((at, slot.limit) for at, slot in cells if slot.limit is not None),
            floats=tuple(at for at, slot in cells if slot.kind == "exact"),
            needs_rows=record in context.images
            or any((record, position) in context.read_above for position in columns),
            globals=layout.model.records[record].kind == "globals",
        )

    reads = tuple(pair for builder in builders for pair in builder.view.reads())
    return Draft(stratum, record, sources, reads, build)


def _cells(builders: Sequence[GroupBuilder]) -> Iterator[tuple[int, Slot]]:
    """Where in a vector each slot's amount or candidate is."""
    at = 1
    for slot in (slot for builder in builders for slot in builder.slots):
        yield at, slot
        at += 1 if slot.kind == "delta" else 2


def _formula_drafts(layout: Layout, heights: Heights) -> Iterable[Draft]:
    by_record: dict[tuple[int, str], list[tuple[str, Node]]] = defaultdict(list)
    for record, field in derived_fields(layout.model):
        if isinstance(field.computation, Formula) and not heights.is_local(record, field.computation.value):
            by_record[heights.of(record, field.name), record].append((field.name, field.computation.value))
    for (stratum, record), formulas in by_record.items():
        yield _formula_draft(layout, stratum, record, formulas)


def _formula_draft(layout: Layout, stratum: int, record: str, formulas: Sequence[tuple[str, Node]]) -> Draft:
    builder = ViewBuilder(layout, record)
    evaluate = _tuple_function(builder, [value for _, value in formulas])

    def build(context: Context) -> Step:
        return FormulaStep(
            record=record,
            view=builder.build(exclusive=context.reach[record], locking=True),
            sources=builder.sources,
            columns=tuple(layout.position(record, name) for name, _ in formulas),
            evaluate=evaluate,
        )

    return Draft(stratum, record, builder.sources, tuple(builder.reads()), build)


def _tuple_function(builder: ViewBuilder, nodes: Sequence[Node]) -> Callable[..., tuple[Any, ...]]:
    constants: dict[str, Any] = {}
    cells = [source(node, builder.source, constants) for node in nodes]
    return compile_function("evaluate", builder.parameters, f"({''.join(f'{cell}, ' for cell in cells)})", constants)


def _custom_drafts(layout: Layout, heights: Heights) -> Iterable[Draft]:
    for record, field in derived_fields(layout.model):
        custom = field.computation
        if isinstance(custom, CustomModel) and (custom.columns or custom.edges):
            yield _custom_draft(layout, heights.of(record, field.name), record, (field.name, custom))


def _custom_draft(layout: Layout, stratum: int, record: str, named: tuple[str, CustomModel]) -> Draft:
    name, custom = named
    builder = ViewBuilder(layout, record)
    for column in custom.columns:
        builder.source(column)
    edges: list[GroupBuilder] = []
    for use in custom.edges:
        marker = Aggregate("count", use.edge, use.host_path, (), None, None)
        group = GroupBuilder(layout, [(name, marker)])
        for column in use.columns:
            group.view.source(column)
        edges.append(group)
    sources = builder.sources.union(*(group.view.sources for group in edges))
    reads = (*builder.reads(), *(pair for group in edges for pair in group.view.reads()))

    def build(context: Context) -> Step:
        return CustomStep(
            record=record,
            name=name,
            column=layout.position(record, name),
            model=custom,
            view=builder.build(exclusive=context.reach[record], locking=True),
            edges=tuple(group.build(exclusive=context.reach[group.edge]) for group in edges),
            sources=sources,
        )

    return Draft(stratum, record, sources, reads, build)


def _transform_drafts(layout: Layout, heights: Heights) -> Iterable[Draft]:
    for record in layout.model.records.values():
        if record.transform is not None and not record.transform.event:
            yield _transform_draft(layout, heights.of(record.name, EXISTENCE), record, record.transform)


def _transform_draft(layout: Layout, stratum: int, record: RecordModel, transform: TransformModel) -> Draft:
    builder = ViewBuilder(layout, transform.source)
    fields = tuple(transform.mapping or ())
    evaluate = None
    if transform.mapping is not None:
        evaluate = _tuple_function(builder, list(transform.mapping.values()))
    else:
        for position, column in enumerate(layout.columns[transform.source]):
            if position:
                builder.value((), column.name)

    def build(context: Context) -> Step:
        return TransformStep(
            record=record.name,
            model=transform,
            view=builder.build(exclusive=context.reach[transform.source]),
            sources=builder.sources,
            fields=fields,
            evaluate=evaluate,
        )

    return Draft(stratum, record.name, builder.sources, tuple(builder.reads()), build)
