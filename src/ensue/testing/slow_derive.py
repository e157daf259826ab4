"""Derived values from scratch: forget all of them, then recompute until nothing changes any more.

Decides the value of every aggregate, formula and derived record of a traced Transform. Leaves states to
`slow_events` and Python computations (`Custom`) to nobody: they are not compared. Invariant: the result depends on
`Tables.rows` alone.
"""

from collections import defaultdict
from typing import Any

from ensue.errors import InternalError
from ensue.schema.model import Aggregate, FieldModel, Formula, RecordModel, TransformModel
from ensue.testing.slow_tables import GLOBAL_ID, Tables
from ensue.testing.slow_values import aggregate, evaluate, fitted, follow


def settle(tables: Tables) -> None:
    """Make `tables.derived` and the derived records right. Raises `InternalError` if they never come to rest."""
    records = tables.model.records.values()
    for record in records:
        tables.derived[record.name] = {row: {} for row in tables.rows[record.name]}
    computations = [(record, item) for record in records for item in record.fields.values() if derived_in_place(item)]
    # A pass settles at least one more stratum, so this bound is never reached without a cycle.
    for _ in range(len(computations) + len(tables.model.records) + 2):
        changed = [_derive_records(tables, record) for record in records]
        changed += [_derive_field(tables, record, item) for record, item in computations]
        if not any(changed):
            return
    raise InternalError("The slow model found no fixed point: computations depend on each other in a cycle.")


def derived_in_place(item: FieldModel) -> bool:
    """Whether the field is an aggregate or a formula."""
    return isinstance(item.computation, Aggregate | Formula)


def _derive_field(tables: Tables, record: RecordModel, item: FieldModel) -> bool:
    computation = item.computation
    rows = tables.rows[record.name]
    if isinstance(computation, Formula):
        values = {row: fitted(evaluate(computation.value, tables, (record.name, row)), item.type) for row in rows}
    elif isinstance(computation, Aggregate):
        contributions = _contributions(tables, computation)
        values = {row: aggregate(computation.kind, contributions.get(row, []), item.type) for row in rows}
    else:
        raise InternalError(f"{record.name}.{item.name} is not derived in place.")
    derived = tables.derived[record.name]
    changed = any(item.name not in derived[row] or derived[row][item.name] != value for row, value in values.items())
    for row, value in values.items():
        derived[row][item.name] = value
    return changed


def _contributions(tables: Tables, computation: Aggregate) -> dict[int, list[Any]]:
    """What the matching edges contribute, by host."""
    found: dict[int, list[Any]] = defaultdict(list)
    for row in tables.rows[computation.edge]:
        place = (computation.edge, row)
        host = follow(tables, place, computation.host_path)
        if host is None or (computation.where is not None and evaluate(computation.where, tables, place) is not True):
            continue
        value = None if computation.value is None else evaluate(computation.value, tables, place)
        found[host[1] if computation.host_path else GLOBAL_ID].append(value)
    return found


def _derive_records(tables: Tables, record: RecordModel) -> bool:
    """One derived record per source record; whether anything changed."""
    transform = record.transform
    if transform is None or transform.mapping is None or transform.event:
        return False
    present = {owner: row for (name, row), owner in tables.owners.items() if name == record.name}
    sources = tables.rows[transform.source]
    changed = False
    for source, row in present.items():
        if source not in sources:
            tables.remove((record.name, row))
            tables.derived[record.name].pop(row, None)
            changed = True
    for source in list(sources):
        values = _mapped(tables, transform, source)
        if source in present:
            changed |= bool(tables.assign(record.name, present[source], values))
        else:
            row = tables.allocate(record.name)
            tables.owners[record.name, row] = source
            tables.insert(record.name, row, values)
            tables.derived[record.name][row] = {}
            changed = True
    return changed


def _mapped(tables: Tables, transform: TransformModel, source: int) -> dict[str, Any]:
    place = (transform.source, source)
    return {name: evaluate(node, tables, place) for name, node in (transform.mapping or {}).items()}
