"""Pass: computations must not depend on each other in a circle.

Decides what counts as a dependency: the columns that an aggregate, a Computed, a Custom with `uses` or a traced
Transform reads. State machines, Transforms of interactions and Customs without `uses` are driven by events and don't
count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ensue.expression.nodes import Column, columns
from ensue.schema.model import Aggregate, CustomModel, FieldModel, Formula, TransformModel
from ensue.schema.passes.build import Build

Key = tuple[str, str]


def refuse_cycles(build: Build, transforms: Mapping[str, TransformModel]) -> None:
    """Report every circle, once."""
    graph = {
        (record, name): tuple(dict.fromkeys(_inputs(build, record, field, transforms.get(record))))
        for record, fields in build.fields.items()
        for name, field in fields.items()
    }
    done: set[Key] = set()
    for start in graph:
        if start not in done:
            _visit(build, graph, start, done)


def _visit(build: Build, graph: Mapping[Key, tuple[Key, ...]], start: Key, done: set[Key]) -> None:
    path: list[Key] = [start]
    pending: list[Iterator[Key]] = [iter(graph[start])]
    while pending:
        following = next(pending[-1], None)
        if following is None:
            pending.pop()
            done.add(path.pop())
        elif following in path:
            circle = [*path[path.index(following) :], following]
            build.report(build.cycle(circle), "", build.origin(*following))
        elif following in graph and following not in done:
            path.append(following)
            pending.append(iter(graph[following]))


def _inputs(build: Build, record: str, field: FieldModel, transform: TransformModel | None) -> Iterator[Key]:
    computation = field.computation
    if isinstance(computation, Formula):
        yield from _read(build, record, columns(computation.value))
    elif isinstance(computation, Aggregate):
        for node in (computation.where, computation.value):
            if node is not None:
                yield from _read(build, computation.edge, columns(node))
    elif isinstance(computation, CustomModel):
        yield from _read(build, record, computation.columns)
        for edge in computation.edges:
            yield from _read(build, edge.edge, edge.columns)
    elif computation is None and transform is not None and transform.mapping is not None:
        node = transform.mapping.get(field.name)
        if node is not None:
            yield from _read(build, transform.source, columns(node))


def _read(build: Build, record: str, found: tuple[Column, ...]) -> Iterator[Key]:
    for column in found:
        at = record
        for link in column.path:
            at = build.links[at][link].target
        yield at, column.field
