"""Write rows: insert and assign, each with its images noted for propagation and its events handed to the state machines.

Decides which statements a write takes and in which order rows are locked; leaves what follows from the change to `propagate` and
`machines`. Invariant: an old image is read under the row's lock, and every write that goes to the database is noted, once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ensue.engine.propagation.changes import note, note_created
from ensue.engine.propagation.locking import lock_in_order
from ensue.engine.propagation.view import NEW, id_list, load_crossings
from ensue.engine.transaction import Transaction
from ensue.errors import Conflict, ConstraintViolated, InvalidValue, NotFound, Rejected
from ensue.plan.plan import LockMode, RecordPlan, Row, View
from ensue.plan.statements import Text
from ensue.plan.writes import assign_statement, encode_rows
from ensue.schema.model import computation_word
from ensue.store.statement import Run, Statement, Work
from ensue.store.violations import constraint_name

IDS_SHOWN = 5
"""How many ids an error lists of the references that a write gave."""

Assign = Callable[[list[Any]], None]
"""Changes a row, given as a list, in place."""


def insert_rows(
    tx: Transaction, plan: RecordPlan, drafts: list[list[Any]], *, unless: tuple[str, ...] = ()
) -> Work[list[Row]]:
    """Insert admitted rows (id None: allot one), with the initial values of what derives from other records.

    With `unless`, members that are unique together, one row is inserted unless there is one with the same values: then none is
    returned, and nothing was done. On PostgreSQL another transaction that is inserting it is waited for.
    """
    chosen = yield from _allot_ids(tx, plan, drafts)
    if plan.local is not None:
        for draft in drafts:
            plan.local(draft)
    yield from lock_in_order(tx, plan, drafts)
    if plan.initial_view is not None:
        yield from _initial_formulas(tx, plan, drafts)
    rows: list[Row] = [tuple(draft) for draft in drafts]
    if unless:
        if not (yield from _insert_new(tx, plan, rows[0], unless)):
            return []
    else:
        yield from _insert_each(tx, plan, rows, chosen)
    note_created(tx.pending, plan.name, rows)
    if plan.customs:
        tx.born.update(((plan.name, row[0]), row) for row in rows)
    return rows


def _insert_new(tx: Transaction, plan: RecordPlan, row: Row, unless: tuple[str, ...]) -> Work[bool]:
    encoded = row if plan.encode is None else plan.encode(row)
    try:
        return bool((yield Run(_insert_unless(tx, plan, unless), encoded)))
    except ConstraintViolated as error:
        if error.code == "reference":
            raise _missing_reference(plan, [row], error.constraint) from error
        raise


def _insert_unless(tx: Transaction, plan: RecordPlan, unless: tuple[str, ...]) -> Statement:
    key = (plan.name, "insert_unless", *unless)
    statement = tx.plan.statements.get(key)
    if statement is None:
        quote = Text(tx.plan.dialect).quote
        columns = ", ".join(quote(plan.columns[plan.index[name]].column) for name in unless)
        insert = plan.statements.insert_one
        text = f"{insert.text} ON CONFLICT ({columns}) DO NOTHING RETURNING id"
        statement = tx.plan.statements[key] = Statement(insert.name, text, rows=True)
    return statement


def _allot_ids(tx: Transaction, plan: RecordPlan, drafts: list[list[Any]]) -> Work[set[int]]:
    """Give ids to rows that have none; the ids that are the caller's and not ours."""
    unnamed = [draft for draft in drafts if draft[0] is None]
    given: list[int] = []
    if len(unnamed) < len(drafts):
        given = [draft[0] for draft in drafts if draft[0] is not None and (plan.name, draft[0]) not in tx.allotted]
        if given:
            yield from tx.ids.reserve(plan.id_family, max(given))
    if unnamed:
        ids = yield from tx.ids.take(plan.id_family, len(unnamed), tx.frame.families)
        for draft, id_ in zip(unnamed, ids, strict=True):
            draft[0] = id_
    return set(given)


def _initial_formulas(tx: Transaction, plan: RecordPlan, drafts: list[list[Any]]) -> Work[None]:
    view = plan.initial_view
    assert view is not None
    resolve = yield from load_crossings(tx, view, tx.pending, [(None, draft) for draft in drafts])
    for draft in drafts:
        if _leads_nowhere(plan, view, draft, resolve(draft, NEW)):
            # The database would say so, but only after a formula was asked about a record that is not there.
            raise _missing_reference(plan, [tuple(draft)])
    for position, evaluate in plan.initial_formulas:
        for draft in drafts:
            draft[position] = evaluate(draft, *resolve(draft, NEW))


def _leads_nowhere(plan: RecordPlan, view: View, draft: list[Any], found: list[Row | None]) -> bool:
    """Whether a reference of a new row is to nothing; one to its own kind may be to a row of the same batch."""
    return any(
        row is None and crossing.parent < 0 and draft[crossing.fk] is not None and crossing.record != plan.name
        for crossing, row in zip(view.crossings, found, strict=False)
    )


def _insert_each(tx: Transaction, plan: RecordPlan, rows: list[Row], chosen: set[int]) -> Work[None]:
    """Insert rows, those with ids of the caller by themselves: only an id of ours that is taken is our mistake."""
    if not chosen:
        yield from _insert(tx, plan, rows, allotted=True)
        return
    yield from _insert(tx, plan, [row for row in rows if row[0] in chosen], allotted=False)
    if others := [row for row in rows if row[0] not in chosen]:
        yield from _insert(tx, plan, others, allotted=True)


def _insert(tx: Transaction, plan: RecordPlan, rows: list[Row], *, allotted: bool) -> Work[None]:
    statements = plan.statements
    encode = plan.encode
    encoded = rows if encode is None else [encode(row) for row in rows]
    try:
        if len(encoded) == 1:
            yield Run(statements.insert_one, encoded[0])
            return
        for start in range(0, len(encoded), statements.insert_rows_max):
            chunk = encoded[start : start + statements.insert_rows_max]
            insert = statements.insert_many
            yield Run(
                insert if isinstance(insert, Statement) else insert(len(chunk)), encode_rows(tx.plan.dialect, chunk)
            )
    except ConstraintViolated as error:
        if allotted and error.code == "unique" and error.constraint == f"{plan.table.name}(id)":
            tx.ids.found_in_use(plan.id_family, max(row[0] for row in rows))
            raise Conflict(f"An id of {plan.name} was already in use; the block of ids was dropped.") from error
        if error.code == "reference":
            raise _missing_reference(plan, rows, error.constraint) from error
        raise


def _missing_reference(
    plan: RecordPlan, rows: Sequence[Row], constraint: str = "", positions: Sequence[int] | None = None
) -> ConstraintViolated:
    """A reference leads nowhere. SQLite does not say which, nor PostgreSQL in which row: name those that were given."""
    links = [
        (n, column)
        for n, column in enumerate(plan.columns)
        if column.role == "link" and (positions is None or n in positions)
    ]
    told = [link for link in links if constraint == constraint_name(plan.table.name, [link[1].column])]
    given = {column: sorted({row[n] for row in rows if row[n] is not None}) for n, column in told or links}
    shown = ", ".join(f"{column.name}={_listed(ids)}" for column, ids in given.items())
    fields = {
        column.name: f"is there a {column.target} with id {_listed(ids)}?" for column, ids in given.items() if ids
    }
    message = f"{plan.name} refers to a record that does not exist; given: {shown}."
    return ConstraintViolated("reference", message, constraint=constraint, fields=fields)


def _listed(ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, ids[:IDS_SHOWN])) or "None"
    more = len(ids) - IDS_SHOWN
    return f"{shown} or {more} more" if more > 0 else " or ".join(shown.rsplit(", ", 1))


def lock_rows(tx: Transaction, plan: RecordPlan, ids: Sequence[int], mode: LockMode = "update") -> Work[list[Row]]:
    """The current rows of `ids` (those that exist, by id), locked for writing."""
    if len(ids) == 1:
        found: list[Any] = yield Run(plan.statements.select[mode], (ids[0],))
    else:
        found = yield Run(plan.statements.select_many[mode], (id_list(tx, sorted(ids)),))
    decode = plan.decode
    return found if decode is None else [decode(row) for row in found]


def held_rows(tx: Transaction, plan: RecordPlan, ids: Sequence[int]) -> Work[list[Row]]:
    """As `lock_rows`, but rows that were read under an exclusive lock, and not written since, are taken as they were."""
    known, exclusive = tx.rows.get(plan.name, {}), tx.exclusive.get(plan.name, ())
    held = [known[id_] for id_ in ids if id_ in exclusive and id_ in known]
    if len(held) == len(ids):
        return held
    missing = [id_ for id_ in ids if id_ not in exclusive or id_ not in known]
    return [*held, *(yield from lock_rows(tx, plan, missing))]


def assign_rows(tx: Transaction, plan: RecordPlan, rows: list[Row], assign: Assign) -> Work[list[tuple[Row, Row]]]:
    """Change locked rows in place by `assign`, write what differs, and return the (old, new) pairs that do."""
    pairs: list[tuple[Row, Row]] = []
    for old in rows:
        draft = list(old)
        assign(draft)
        if plan.local is not None:
            plan.local(draft)
        new = tuple(draft)
        if new != old:
            pairs.append((old, new))
    yield from write_pairs(tx, plan, pairs)
    return pairs


def write_pairs(tx: Transaction, plan: RecordPlan, pairs: Sequence[tuple[Row, Row]]) -> Work[None]:
    """Write the new side of locked rows where it differs from the old, in one statement, and note the changes."""
    if not pairs:
        return
    width = len(plan.columns)
    positions = tuple(i for i in range(1, width) if any(old[i] != new[i] for old, new in pairs))
    order = tx.plan.lock_orders.get(plan.name)
    if order is not None and not order.positions.isdisjoint(positions):
        yield from lock_in_order(tx, plan, [row for pair in pairs for row in pair])
    rows = [new for _, new in pairs]
    try:
        yield from write_columns(tx, plan, positions, rows)
    except ConstraintViolated as error:
        if error.code == "reference":
            raise _missing_reference(plan, rows, error.constraint, positions) from error
        raise
    cached = tx.rows.get(plan.name)
    for old, new in pairs:
        note(tx.pending, plan.name, old, new)
        if cached:
            cached.pop(new[0], None)


def write_columns(tx: Transaction, plan: RecordPlan, positions: tuple[int, ...], rows: Sequence[Row]) -> Work[None]:
    """Set the columns at `positions` of the given rows to what the rows say."""
    statement, bind = assign_statement(tx.plan, plan, positions, many=len(rows) > 1)
    yield Run(statement, bind(rows))


def require(plan: RecordPlan, id_: int, rows: Sequence[Row]) -> Row:
    """The one row that was asked for by id, or `NotFound`."""
    if not rows:
        raise NotFound(f"There is no {plan.name} with id {id_}.")
    return rows[0]


def writable_values(plan: RecordPlan, values: Mapping[str, Any]) -> dict[int, Any]:
    """Values given to an update, checked and by position. Refuses unknown, derived and wrong ones, all at once."""
    assigned: dict[int, Any] = {}
    wrong: dict[str, str] = {}
    for name, value in values.items():
        normalise = plan.normalise.get(name)
        if normalise is None:
            wrong[name] = refusal(plan, name)
            continue
        try:
            assigned[plan.index[name]] = normalise(value)
        except (ValueError, TypeError) as error:
            wrong[name] = str(error)
    if wrong:
        raise invalid(plan.name, wrong)
    return assigned


def refusal(plan: RecordPlan, name: str) -> str:
    """Why a member can't be written."""
    if name == "id":
        return "an id never changes"
    field = plan.model.fields.get(name)
    if field is not None and field.computation is not None:
        return (
            f"is derived ({computation_word(field.computation)}, declared at {field.origin}) and can't be written; change what it "
            "derives from, or create an event record that its state machine listens to"
        )
    if name in plan.model.fields or name in plan.model.links:
        return f"is owned by the Transform that derives {plan.name} and can't be written; change the record it derives from"
    known = ", ".join(sorted(plan.normalise))
    return f"is no stored property or link of {plan.name}; there are: {known}"


def invalid(record: str, wrong: Mapping[str, str]) -> Rejected:
    """One error for all wrong values of a write."""
    listed = "; ".join(f"{name}: {why}" for name, why in wrong.items())
    return InvalidValue(f"{record} does not accept: {listed}.", fields=wrong)
