"""`ensue migrate --additive`: bring an older database to the app's schema, as long as that only adds or recomputes.

Decides what may be applied to which difference; the statements of columns are in `columns`, the right values of what derives come
from the recompute that an audit repairs by. Invariants: all of it is one transaction, or nothing; afterwards the database is as a
fresh one would be with the same data; applied again, it does nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from ensue.clock import SystemClock
from ensue.engine.audit import repair_all
from ensue.engine.engine import Engine
from ensue.errors import ConstraintViolated
from ensue.migrate.catalogue import (
    Catalogue,
    Fingerprint,
    lock_catalogue,
    mismatch,
    read_catalogue,
    store_fingerprint,
)
from ensue.migrate.columns import Fill, add_column
from ensue.migrate.difference import Difference, differences
from ensue.migrate.install import foreign
from ensue.plan.ddl import constraint_ddl, globals_row, index_ddl, sequence_ddl, tables_ddl
from ensue.plan.plan import Plan
from ensue.plan.recompute import Check, TransformCheck, layout_of, recomputable, recomputes
from ensue.plan.statements import Text
from ensue.schema.model import CustomModel, Machine
from ensue.store.driver import Driver
from ensue.store.statement import Run, Statement, Work

SYSTEM_PREFIXES = ("ensue_effect", "ensue_id", "ensue_inbox", "ensue_task", "ensue_meta")
"""Of the names of ensue's own tables; those of events begin with ensue_event and belong to the app."""

ADOPT = "and then run `ensue migrate module:app --adopt`"


@dataclass(slots=True)
class AdditivePlan:
    """What a migration does. `refused` holds what it can't, each with what to do; `notes` what one should know.

    `statements` run in order, `late` after the values are filled and recomputed. `changed` are the (table, column) whose values
    are computed anew.
    """

    differences: tuple[Difference, ...] = ()
    statements: list[Statement] = field(default_factory=list[Statement])
    late: list[Statement] = field(default_factory=list[Statement])
    fills: list[Fill] = field(default_factory=list[Fill])
    refused: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])
    changed: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    emptied: list[tuple[Statement, str]] = field(default_factory=list[tuple[Statement, str]])

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.differences

    def __str__(self) -> str:
        if self.empty:
            return "The database fits the app: nothing to do."
        lines = [item.text for item in self.differences]
        if self.refused:
            lines += ["It can't be applied:", *self.refused]
        else:
            lines += [f"{item.text};" for item in (*self.statements, *self.late)]
            lines += (
                [f"Compute anew: {', '.join(sorted(f'{t}.{c}' for t, c in self.changed))}."] if self.changed else []
            )
        return "\n".join([*lines, *self.notes])


async def plan_additive(plan: Plan, driver: Driver) -> AdditivePlan:
    """What `apply_additive` would do; changes nothing. Raises `SchemaMismatch` for a database that is not ensue's."""
    return await driver.read(_planned(plan))


async def apply_additive(plan: Plan, driver: Driver) -> AdditivePlan:
    """Add what the database of `driver` lacks and compute what derives, in one transaction; returns what was done.

    Raises `SchemaMismatch`, having changed nothing, if any difference can't be applied, naming each, or if a row that is there
    breaks a constraint that is new.
    """
    try:
        return await driver.write(_apply(plan, Engine(plan, driver, SystemClock())))
    except ConstraintViolated as violated:
        raise mismatch(
            "What the database holds doesn't fit what would be added; nothing was changed.",
            f"Constraint {violated.constraint}: {violated.message} Change the rows by hand, and migrate again.",
        ) from violated


async def adopt(plan: Plan, driver: Driver) -> None:
    """Take over a database that was changed by hand: check its columns, recompute everything derived, store the fingerprint.

    Raises `SchemaMismatch` naming every table and column that lacks, is too many in a table, or differs in being nullable.
    """
    await driver.write(_adopt(plan, Engine(plan, driver, SystemClock())))


def _apply(plan: Plan, engine: Engine) -> Work[AdditivePlan]:
    yield from lock_catalogue(plan.dialect)
    additive = yield from _planned(plan)
    if additive.empty:
        return additive
    if additive.refused:
        raise mismatch(
            "The database can't be brought to this schema by adding alone; nothing was changed.", *additive.refused
        )
    yield from _lock_tables(plan, additive)
    for statement in additive.statements:
        yield Run(statement)
    for fill in additive.fills:
        yield from _fill(plan, fill)
    yield from repair_all(engine, _affected(plan, additive))
    for statement in additive.late:
        yield Run(statement)
    yield from store_fingerprint(plan.dialect, plan.fingerprint)
    return additive


def _planned(plan: Plan) -> Work[AdditivePlan]:
    catalogue = yield from read_catalogue(plan.dialect)
    additive = _plan(plan, catalogue)
    for statement, refusal in additive.emptied:
        rows: list[Any] = yield Run(statement)
        if rows:
            additive.refused.append(refusal)
    return additive


def _plan(plan: Plan, catalogue: Catalogue) -> AdditivePlan:
    if catalogue.fingerprint is None and catalogue.tables:
        raise foreign(catalogue)
    old: Fingerprint = catalogue.fingerprint or {"version": plan.fingerprint["version"], "tables": {}}
    additive = AdditivePlan(differences(old, plan.fingerprint))
    if additive.differences:
        _Planner(plan, additive).run()
    return additive


class _Planner:
    """Turns differences into statements and refusals."""

    def __init__(self, plan: Plan, additive: AdditivePlan) -> None:
        self._plan = plan
        self._layout = layout_of(plan)
        self._to = additive
        self._tables = plan.metadata.tables
        self._added = {(d.table, d.name) for d in additive.differences if d.kind == "added" and d.part == "column"}

    def run(self) -> None:
        to = self._to
        new = [self._tables[d.table] for d in to.differences if d.part == "table" and d.kind == "added"]
        to.statements.extend(tables_ddl(self._layout, new))
        to.changed.update((table.name, column.name) for table in new for column in table.columns)
        to.statements.extend(sequence_ddl(self._layout))
        for difference in to.differences:
            self._one(difference)
        records = self._plan.records.values()
        fresh = {table.name for table in new}
        to.statements.extend(
            globals_row(self._layout, item.name)
            for item in records
            if item.model.kind == "globals" and item.table.name in fresh
        )

    def _one(self, item: Difference) -> None:
        if item.part == "definition":
            self._definition(item)
        elif item.kind == "added":
            additions: dict[str, Callable[[Difference], None]] = {
                "column": self._column,
                "constraint": self._constraint,
                "index": self._index,
            }
            if item.part in additions:
                additions[item.part](item)
        elif item.part == "index" and item.table.startswith(SYSTEM_PREFIXES):
            self._own_index(item)
        else:
            self._refuse(item, "It holds data or rules that only you can decide about. Change the database by hand")

    def _refuse(self, item: Difference, why: str) -> None:
        self._to.refused.append(f"{item.text} {why}, {ADOPT}.")

    def _column(self, item: Difference) -> None:
        addition = add_column(self._plan, self._tables[item.table], item.name)
        if addition.refused:
            self._to.refused.append(addition.refused)
            return
        self._to.statements.extend(addition.statements)
        self._to.changed.add((item.table, item.name))
        if addition.fill is not None:
            self._to.fills.append(addition.fill)
        for record in self._plan.records.values():
            if record.table.name == item.table:
                found = record.model.fields.get(item.name)
                computation = None if found is None else found.computation
                if isinstance(computation, CustomModel) and not recomputable(computation):
                    self._to.notes.append(
                        f"{record.name}.{item.name} is a Custom: existing records hold its default until something that it "
                        "uses changes."
                    )

    def _constraint(self, item: Difference) -> None:
        table = self._tables[item.table]
        constraint = next(c for c in table.constraints if str(c.name) == item.name)
        assert isinstance(constraint, sa.UniqueConstraint | sa.CheckConstraint | sa.ForeignKeyConstraint)
        if isinstance(constraint, sa.ForeignKeyConstraint) and self._is_new(item.table, constraint):
            return
        if self._plan.dialect == "postgresql":
            self._to.late.append(constraint_ddl(self._layout, constraint))
        elif isinstance(constraint, sa.UniqueConstraint):
            index = sa.Index(item.name, *constraint.columns, unique=True)
            self._to.late.append(index_ddl(self._layout, index))
            table.indexes.discard(index)
        elif not self._checked_with_column(item):
            self._refuse(item, "SQLite can't add it to existing columns. Make the table anew by hand with the data")

    def _is_new(self, table: str, constraint: sa.ForeignKeyConstraint) -> bool:
        return all((table, column.name) in self._added for column in constraint.columns)

    def _checked_with_column(self, item: Difference) -> bool:
        return any(f"ck_{table}_{column}" == item.name for table, column in self._added)

    def _index(self, item: Difference) -> None:
        index = next(i for i in self._tables[item.table].indexes if str(i.name) == item.name)
        self._to.late.append(index_ddl(self._layout, index))

    def _own_index(self, item: Difference) -> None:
        """An index of ensue's own tables: it holds nothing, and another version looks for things in other ways."""
        text = Text(self._plan.dialect)
        self._to.late.append(Statement(f"{item.name}.drop_index", f"DROP INDEX {text.quote(item.name)}"))
        if item.kind == "changed":
            self._index(item)

    # --- Definitions ------------------------------------------------------------------------------------------------------

    def _definition(self, item: Difference) -> None:
        if item.kind == "added" and (item.table, item.name) in self._added:
            return
        if item.kind != "changed":
            what = (
                "Its values were given and would be lost"
                if item.kind == "added"
                else "Its values would no longer be kept"
            )
            self._refuse(item, f"{what}. Decide what becomes of them by hand")
            return
        record = next(r for r in self._plan.records.values() if r.table.name == item.table)
        computation = None
        if item.name != "*":
            computation = next(f for f in record.model.fields.values() if f.column == item.name).computation
        if isinstance(computation, Machine):
            self._machine(item, computation)
        elif isinstance(computation, CustomModel) and not recomputable(computation):
            self._refuse(item, "Only Python code knows its values. Set them by hand")
        else:
            self._to.changed.add((item.table, item.name))

    def _machine(self, item: Difference, machine: Machine) -> None:
        if not str(item.old).startswith("state machine"):
            self._refuse(item, "Existing records have no state. Give them one by hand")
            return
        text = Text(self._plan.dialect)
        states = ", ".join("'" + state.replace("'", "''") + "'" for state in machine.states)
        state = text.quote(f"{item.name}__state")
        sql = f"SELECT id FROM {text.quote(item.table)} WHERE {state} NOT IN ({states}) LIMIT 1"
        refusal = (
            f"{item.text} Some records are in states that are gone. Move them to others first, with the app as it was."
        )
        self._to.emptied.append((Statement(f"{item.table}.gone_states", sql, rows=True), refusal))


def _affected(plan: Plan, additive: AdditivePlan) -> list[Check]:
    """The checks to repair by: from the first that something new or changed concerns, as all later ones may read it."""
    checks = list(recomputes(plan))
    for n, check in enumerate(checks):
        name = check.step.record if isinstance(check, TransformCheck) else check.record
        table = plan.records[name].table.name
        columns = {column.column for column in check.columns}
        if isinstance(check, TransformCheck):
            columns.add("*")
        if any((table, column) in additive.changed for column in columns):
            return checks[n:]
    return []


def _lock_tables(plan: Plan, additive: AdditivePlan) -> Work[None]:
    """On PostgreSQL nobody writes meanwhile: what is computed anew stays right until the commit."""
    if plan.dialect != "postgresql":
        return
    text = Text(plan.dialect)
    new = {item.table for item in additive.differences if item.part == "table"}
    names = sorted(record.table.name for record in plan.records.values() if record.table.name not in new)
    if names:
        listed = ", ".join(text.quote(name) for name in names)
        yield Run(Statement("migrate.lock", f"LOCK TABLE {listed} IN SHARE ROW EXCLUSIVE MODE"))


def _fill(plan: Plan, fill: Fill) -> Work[None]:
    """One call of the default for each existing row."""
    text = Text(plan.dialect)
    table, column = text.quote(fill.record.table.name), text.quote(fill.column.column)
    rows: list[tuple[int]] = yield Run(Statement("migrate.ids", f"SELECT id FROM {table} ORDER BY id", rows=True))
    encode = fill.column.encode
    values: list[tuple[Any, int]] = []
    for (id_,) in rows:
        value = fill.value()
        values.append((value if encode is None or value is None else encode(value), id_))
    if values:
        id_parameter = "$2" if plan.dialect == "postgresql" else "?2"
        sql = f"UPDATE {table} SET {column} = {text.parameter(1, fill.column)} WHERE id = {id_parameter}"
        yield Run(Statement("migrate.fill", sql), values, many=True)


# --- Changed by hand --------------------------------------------------------------------------------------------------

_COLUMNS = {
    "sqlite": Statement(
        "catalogue.columns",
        'SELECT t.name, c.name, NOT c."notnull" AND NOT c.pk FROM sqlite_schema t, pragma_table_info(t.name) c '
        "WHERE t.type = 'table'",
        rows=True,
    ),
    "postgresql": Statement(
        "catalogue.columns",
        "SELECT table_name::text, column_name::text, is_nullable = 'YES' FROM information_schema.columns "
        "WHERE table_schema = current_schema()",
        rows=True,
    ),
}


def _adopt(plan: Plan, engine: Engine) -> Work[None]:
    yield from lock_catalogue(plan.dialect)
    yield from _lock_tables(plan, AdditivePlan())
    found: list[tuple[str, str, Any]] = yield Run(_COLUMNS[plan.dialect])
    actual = {(table, column): bool(nullable) for table, column, nullable in found}
    wrong = list(_unlike(plan, actual))
    if wrong:
        raise mismatch("The database does not have the tables of this schema yet; nothing was changed.", *wrong)
    yield from repair_all(engine, recomputes(plan))
    yield from store_fingerprint(plan.dialect, plan.fingerprint)


def _unlike(plan: Plan, actual: dict[tuple[str, str], bool]) -> Iterator[str]:
    tables = plan.metadata.tables
    wanted = {(t.name, c.name): bool(c.nullable) for t in tables.values() for c in t.columns}
    for table, column in sorted(wanted.keys() - actual.keys()):
        yield f"Column {table}.{column} is missing."
    for table, column in sorted(actual.keys() - wanted.keys()):
        if table in tables:
            yield f"Column {table}.{column} is not in the app. Drop it."
    for key in sorted(wanted.keys() & actual.keys()):
        if wanted[key] != actual[key]:
            yield f"Column {key[0]}.{key[1]} must {'' if wanted[key] else 'not '}be nullable."
