"""Keep derived records: one (or several) per source record for a Transform over records, new ones for each interaction.

Over records, an output is found by its source and slot, so it keeps its id while its source lives. Invariant: after a step, the
outputs of every affected source are exactly what the mapping (or function) says of it.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from ensue.engine.callbacks import invoke
from ensue.engine.propagation.changes import Changes, Images
from ensue.engine.propagation.customs import fill_initial
from ensue.engine.propagation.view import NEW, id_list, load_crossings
from ensue.engine.transaction import Transaction
from ensue.engine.writing.apply import insert_rows, invalid, write_pairs
from ensue.engine.writing.deletes import delete_rows
from ensue.errors import InvalidValue, WrongResult
from ensue.plan.admit import is_required
from ensue.plan.plan import RecordPlan, Row, TransformStep
from ensue.plan.statements import Text
from ensue.plan.tables import SLOT_COLUMN, SOURCE_COLUMN
from ensue.schema.model import NO_DEFAULT, NOW
from ensue.store.statement import Run, Statement, Work

Outputs = dict[tuple[int, int], dict[str, Any]]
"""(source id, slot) -> values by name."""


def run_transform(tx: Transaction, step: TransformStep, edges: dict[int, Images], work: Changes) -> Work[None]:
    """Create, update and delete the records derived from the affected sources."""
    plan = tx.plan.records[step.record]
    wanted = yield from _wanted(tx, step, edges, work)
    existing = yield from _existing(tx, plan, [id_ for id_, (old, _) in edges.items() if old is not None])
    gone = [row[0] for key, row in existing.items() if key not in wanted]
    if gone:
        yield from delete_rows(tx, plan, gone)
    pairs: list[tuple[Row, Row]] = []
    fresh: list[list[Any]] = []
    for key, values in wanted.items():
        row = existing.get(key)
        if row is None:
            fresh.append(_draft(tx, plan, key, values))
        elif (changed := _changed(plan, row, values)) != row:
            pairs.append((row, changed))
    yield from write_pairs(tx, plan, pairs)
    if fresh:
        if plan.customs:
            yield from fill_initial(tx, plan, fresh)
        yield from insert_rows(tx, plan, fresh)


def _wanted(tx: Transaction, step: TransformStep, edges: dict[int, Images], work: Changes) -> Work[Outputs]:
    wanted: Outputs = {}
    sources = [new for _, new in edges.values() if new is not None]
    if step.evaluate is not None:
        resolve = yield from load_crossings(tx, step.view, work, edges.values())
        for row in sources:
            wanted[row[0], 0] = dict(zip(step.fields, step.evaluate(row, *resolve(row, NEW)), strict=True))
        return wanted
    source = tx.plan.records[step.model.source]
    assert step.model.function is not None
    plan = tx.plan.records[step.record]
    defaults, needed = _defaults(plan), _needed(plan)
    for row in sources:
        result = yield from invoke(tx, step.model.function, source.snapshot(row))
        for slot, values in enumerate(mappings(result, plan)):
            if missing := needed - values.keys():
                raise _lacking(plan, missing)
            wanted[row[0], slot] = {**defaults, **values}
    return wanted


def _needed(plan: RecordPlan) -> set[str]:
    fields, links = plan.model.fields.values(), plan.model.links
    stored = [item.name for item in fields if item.computation is None]
    return {name for name in (*stored, *links) if is_required(plan.model, name)}


def _defaults(plan: RecordPlan) -> dict[str, Any]:
    """What a function that leaves members out says of them; a default that is made anew each time is given at creation only."""
    fields = plan.model.fields.values()
    return {
        item.name: item.default
        for item in fields
        if item.computation is None and item.default not in (NO_DEFAULT, NOW) and not callable(item.default)
    } | {link.name: None for link in plan.model.links.values() if link.has_default}


def mappings(result: Any, plan: RecordPlan) -> Sequence[Mapping[str, Any]]:
    """What the function of the Transform that derives `plan`'s records gave, as a list of mappings."""
    if result is None:
        return ()
    if isinstance(result, Mapping):
        return (result,)  # pyright: ignore[reportUnknownVariableType]  # a user's mapping
    if isinstance(result, list | tuple):
        items = cast("Sequence[Any]", result)
        if all(isinstance(item, Mapping) for item in items):
            return items
    raise _wrong(plan, f"gave {cast(Any, result)!r}; expected a mapping of values, a list of them, or None")


def admitted(plan: RecordPlan, values: Mapping[str, Any], now: datetime) -> list[Any]:
    """A new row of what the function gave.

    Raises WrongResult for names, which are the function's alone, and InvalidValue for values, which may come from the client.
    """
    try:
        return plan.admit(values, now)
    except InvalidValue as error:
        known = ", ".join(sorted(plan.normalise))
        for name in values:
            if name not in plan.normalise and name != "id":
                raise _wrong(plan, f"gave {name!r}; what it may give of {plan.name} is: {known}") from error
        if missing := _needed(plan) - values.keys():
            raise _lacking(plan, missing) from error
        raise


def _lacking(plan: RecordPlan, missing: set[str]) -> WrongResult:
    return _wrong(plan, f"gave no {' and no '.join(sorted(missing))}, which {plan.name} needs")


def _wrong(plan: RecordPlan, found: str) -> WrongResult:
    return WrongResult(f"The Transform that derives {plan.name} ({plan.model.origin}) {found}.")


def _existing(tx: Transaction, plan: RecordPlan, sources: list[int]) -> Work[dict[tuple[int, int], Row]]:
    if not sources:
        return {}
    found: list[Any] = yield Run(_by_source(tx, plan), (id_list(tx, sorted(sources)),))
    position, slot = plan.index[SOURCE_COLUMN], plan.index[SLOT_COLUMN]
    rows = found if plan.decode is None else map(plan.decode, found)
    return {(row[position], row[slot]): row for row in rows}


def _by_source(tx: Transaction, plan: RecordPlan) -> Statement:
    key = (plan.name, "by_source")
    statement = tx.plan.statements.get(key)
    if statement is None:
        text = Text(tx.plan.dialect)
        listed = ", ".join(text.quote(column.column) for column in plan.columns)
        where = text.in_ids(SOURCE_COLUMN)
        sql = f"SELECT {listed} FROM {text.quote(plan.table.name)} WHERE {where} ORDER BY id{text.lock('update')}"
        statement = tx.plan.statements[key] = Statement(f"{plan.table.name}.by_source", sql, rows=True)
    return statement


def _draft(tx: Transaction, plan: RecordPlan, key: tuple[int, int], values: Mapping[str, Any]) -> list[Any]:
    given = {name: value for name, value in values.items() if name not in plan.normalise}
    free = {name: value for name, value in values.items() if name in plan.normalise}
    draft = admitted(plan, free, tx.now)
    for position, value in _owned(plan, given).items():
        draft[position] = value
    draft[plan.index[SOURCE_COLUMN]], draft[plan.index[SLOT_COLUMN]] = key
    return draft


def _changed(plan: RecordPlan, row: Row, values: Mapping[str, Any]) -> Row:
    draft = list(row)
    for position, value in _owned(plan, values).items():
        draft[position] = value
    if plan.local is not None:
        plan.local(draft)
    return tuple(draft)


def _owned(plan: RecordPlan, values: Mapping[str, Any]) -> dict[int, Any]:
    """Mapped values checked as any write's would be, by position."""
    found: dict[int, Any] = {}
    wrong: dict[str, str] = {}
    for name, value in values.items():
        check = plan.normalise_any.get(name)
        field = plan.model.fields.get(name)
        if check is None or (field is not None and field.computation is not None):
            raise _wrong(plan, f"gave {name!r}, which is no stored property or link of {plan.name}")
        try:
            found[plan.index[name]] = check(value)
        except (ValueError, TypeError) as error:
            wrong[name] = str(error)
    if wrong:
        raise invalid(plan.name, wrong)
    return found
