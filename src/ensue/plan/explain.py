"""`explain`: how one derived column (or record) is kept, in words and SQL: what it reads, its state, and what each change runs.

Decides the words; everything said is read from the plan that the engine runs, so it can't differ from what happens. Invariant:
equal plans explain themselves in equal words.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from ensue.errors import UsageError
from ensue.expression.nodes import columns
from ensue.plan.ddl import definition, transform_definition
from ensue.plan.plan import (
    Crossing,
    CustomStep,
    FormulaStep,
    Group,
    HostStep,
    Plan,
    RecordPlan,
    Step,
    TransformStep,
    View,
)
from ensue.plan.strata import reads
from ensue.plan.writes import assign_statement
from ensue.schema.model import Aggregate, CustomModel, FieldModel, Formula, Machine, computation_word
from ensue.schema.written.names import suggestion
from ensue.store.statement import Statement


def explain(plan: Plan, name: str) -> str:
    """How `name` (`"Post.approved_score"`, or a record type such as `"Post"`) is kept, as text of several lines.

    Raises `UsageError` for a name that is none, with a suggestion.
    """
    record_name, dot, member = name.partition(".")
    record = plan.records.get(record_name)
    if record is None:
        raise UsageError(f"There is no record type {record_name!r} to explain.{suggestion(record_name, plan.records)}")
    writer = _Writer(plan, record)
    if not dot:
        return writer.record_text()
    field = record.model.fields.get(member)
    if field is None:
        known = [item.name for item in record.model.fields.values()]
        raise UsageError(f"{record_name} has no property {member!r} to explain.{suggestion(member, known)}")
    return writer.field_text(field)


class _Writer:
    """Collects lines, and the statements that they name, whose text comes at the end."""

    def __init__(self, plan: Plan, record: RecordPlan) -> None:
        self._plan = plan
        self._record = record
        self._lines: list[str] = []
        self._statements: dict[str, str] = {}

    # --- Parts --------------------------------------------------------------------------------------------------------

    def _say(self, text: str, depth: int = 1) -> None:
        self._lines.append("  " * depth + text)

    def _when(self, text: str) -> None:
        self._lines += ["", f"When {text}:"]

    def _run(self, statement: Statement, why: str) -> None:
        # The text of a name may differ by its columns; what is shown belongs to this explanation.
        self._statements.setdefault(statement.name, statement.text)
        self._say(f"{statement.name}: {why}")

    def _text(self) -> str:
        if self._statements:
            self._lines += ["", "Statements:"]
            for name, sql in self._statements.items():
                self._say(f"{name}:")
                self._lines += [f"    {line.strip()}" for line in sql.splitlines()]
        return "\n".join(self._lines) + "\n"

    def _names(self, record: str, positions: Iterable[int]) -> str:
        return ", ".join(self._plan.records[record].columns[position].name for position in positions)

    def _locking(self) -> str:
        if self._plan.dialect == "sqlite":
            return "Locks: the one writer (BEGIN IMMEDIATE); rows need none."
        return "Locks: hosts FOR NO KEY UPDATE in id order; crossed rows as said above, at first touch."

    # --- Records ------------------------------------------------------------------------------------------------------

    def record_text(self) -> str:
        record = self._record.model
        self._lines.append(
            f"{record.name}: {record.kind}, table {self._record.table.name}, declared at {record.origin}"
        )
        if record.transform is not None:
            self._say(f"{transform_definition(record.transform)}, declared at {record.transform.origin}")
        for field in record.fields.values():
            what = "stored" if field.computation is None else definition(field.computation)
            self._say(f"{field.name}: {what}")
        step = next((item for _, item in self._steps() if isinstance(item, TransformStep)), None)
        if step is not None:
            self._transform(step)
        elif record.transform is not None:
            self._when(f"{record.transform.source} is dispatched")
            self._say("the function is called with the event, and what it gives is inserted")
            self._run(self._record.statements.insert_one, "one derived record")
        return self._text()

    def _steps(self) -> Iterator[tuple[int, Step]]:
        for number, stratum in enumerate(self._plan.strata, start=1):
            for step in stratum:
                if step.record == self._record.name:
                    yield number, step

    def _transform(self, step: TransformStep) -> None:
        plan, statements = self._plan, self._record.statements
        source = step.model.source
        self._say(
            f"stratum {self._stratum(step)} of {len(plan.strata)}; found again by ensue_source and ensue_slot (unique)"
        )
        self._when(f"a {source} is created")
        self._crossings(step.view)
        self._run(statements.insert_one, f"the derived {self._record.name} (insert_many for several)")
        self._when(f"a {source} is updated ({self._names(source, step.view.positions)})")
        self._say("its derived records are read by source and locked, and written where they differ; their ids stay")
        self._assigned([self._record.index[name] for name in step.fields])
        self._when(f"a {source} is deleted")
        self._run(statements.delete_many, "its derived records, with what on_delete says of those that point at them")
        self._crossed(step.view, f"the derived {self._record.name} records are written where they differ")
        self._lines += ["", self._locking()]

    def _stratum(self, wanted: Step) -> int:
        return next(number for number, step in self._steps() if step is wanted)

    # --- Columns ------------------------------------------------------------------------------------------------------

    def field_text(self, field: FieldModel) -> str:
        computation = field.computation
        record = self._record
        column = record.columns[record.index[field.name]]
        self._lines.append(f"{record.name}.{field.name}: {field.type}{', or null' if column.optional else ''}")
        if computation is None:
            self._stored(field)
        else:
            self._say(f"{computation_word(computation)}: {definition(computation)}")
        self._say(f"declared at {field.origin}")
        self._say(f"column {record.table.name}.{column.column}")
        match computation:
            case Aggregate():
                self._aggregate(field, computation)
            case Formula():
                self._formula(field, computation)
            case Machine():
                self._machine(field, computation)
            case CustomModel():
                self._custom(field, computation)
            case None:
                pass
        return self._text()

    def _stored(self, field: FieldModel) -> None:
        transform = self._record.model.transform
        if transform is None:
            self._say("stored: given by writes")
        elif transform.event:
            self._say(f"stored: given by the Transform at first, then by writes; see explain {self._record.name}")
        elif transform.mapping is None:
            self._say(f"given by the Transform's function; see explain {self._record.name}")
        else:
            mapped = field.name in transform.mapping
            self._say(
                f"mapped by the Transform; see explain {self._record.name}" if mapped else "stored: given by writes"
            )

    def _height(self, field: FieldModel, step: Step | None) -> None:
        height = self._plan.heights.get((self._record.name, field.name), 0)
        where = (
            "with the write itself" if step is None else f"stratum {self._stratum(step)} of {len(self._plan.strata)}"
        )
        self._say(f"height {height}; {where}")

    def _state(self, field: FieldModel, initial: str) -> None:
        record = self._record
        hidden = [c for c in record.columns if c.role == "hidden" and c.name.startswith(f"{field.name}__")]
        self._say(f"hidden state: {', '.join(f'{c.column} ({c.type})' for c in hidden) or 'none'}")
        self._say(f"initially {initial}, as part of the INSERT of {record.name}")

    # --- Aggregates ---------------------------------------------------------------------------------------------------

    def _aggregate(self, field: FieldModel, aggregate: Aggregate) -> None:
        step, group = self._group(field)
        plan = next(item for item in group.aggregates if item.name == field.name)
        nodes = [node for node in (aggregate.where, aggregate.value) if node is not None]
        pairs = [pair for node in nodes for pair in reads(self._plan.model, aggregate.edge, node)]
        found = list(dict.fromkeys(f"{name}.{member}" for name, member in pairs))
        route = ".".join((aggregate.edge, *aggregate.host_path))
        self._say(f"reads: {', '.join([*found, f'{route} (whose edge it is)' if aggregate.host_path else route])}")
        self._height(field, step)
        self._state(field, repr(self._record.columns[self._record.index[field.name]].initial))
        others = [c.name for c in map(self._record.columns.__getitem__, step.columns) if c.role != "hidden"]
        self._say(
            f"moves in one UPDATE with: {', '.join(name for name in others if name != field.name) or 'nothing else'}"
        )
        kinds = {plan.rule.slots[n].kind for n in range(len(plan.rule.slots))} - {"delta"}
        self._changes(step, group, aggregate, bool(kinds))
        self._lines += ["", self._reread(group, kinds), self._locking()]

    def _group(self, field: FieldModel) -> tuple[HostStep, Group]:
        for _, step in self._steps():
            if isinstance(step, HostStep):
                for group in step.groups:
                    if any(item.name == field.name for item in group.aggregates):
                        return step, group
        raise UsageError(f"{self._record.name}.{field.name} has no step; the plan was not compiled from this model.")

    def _changes(self, step: HostStep, group: Group, aggregate: Aggregate, lossy: bool) -> None:
        edge = aggregate.edge
        host = "the one row" if step.globals else f"its {self._record.name}"
        self._when(f"a {edge} is created")
        self._crossings(group.view)
        self._move(step, f"{host}, by what the new {edge} contributes")
        if group.view.positions:
            self._when(f"a {edge} is updated ({self._names(edge, group.view.positions)})")
            self._crossings(group.view)
            self._move(step, f"{host}, by the new side minus the old; nothing if they are equal")
        self._when(f"a {edge} is deleted")
        self._crossings(group.view)
        self._move(step, f"{host}, by minus what it contributed{', or by what was re-read' if lossy else ''}")
        if aggregate.host_path:
            self._when(f"a {edge} is re-parented ({'.'.join(aggregate.host_path)})")
            self._run(step.update_many.quiet, f"both {self._record.name} records at once")
        self._crossed(group.view, f"the {self._record.name} records of the {edge} rows found move together")
        self._when(f"a {self._record.name} is created")
        self._say("nothing: it has no edges yet" if not step.globals else "it is made with the tables")

    def _move(self, step: HostStep, what: str) -> None:
        if step.needs_rows:
            self._run(self._record.statements.select["update"], "the host's row, as something is computed from it")
        move = step.update_one.returning if step.needs_rows else step.update_one.quiet
        self._run(move, f"{what} ({self._record.table.name}.derive_many for several)")

    def _reread(self, group: Group, kinds: set[Any]) -> str:
        if not kinds or group.reread is None:
            return "Re-reads: never; the deltas are exact."
        self._statements.setdefault(group.reread.statement.name, group.reread.statement.text)
        name = group.reread.statement.name
        if kinds == {"exact"}:
            return f"Re-reads: {name}, for hosts from which a float was taken away (adding and removing floats is not exact)."
        return f"Re-reads: {name}, for hosts that lose the value that is the {'/'.join(sorted(kinds))} so far."

    def _crossings(self, view: View) -> None:
        for crossing in view.crossings:
            mode = "update" if crossing.exclusive else "share"
            statements = self._plan.records[crossing.record].statements.select
            self._run(
                statements[mode], f"{'.'.join(crossing.path)}, unless known in this transaction{self._mode(crossing)}"
            )

    def _mode(self, crossing: Crossing) -> str:
        if self._plan.dialect == "sqlite":
            return ""
        return ", FOR NO KEY UPDATE (this transaction may update it)" if crossing.exclusive else ", FOR SHARE"

    def _crossed(self, view: View, then: str) -> None:
        for crossing in view.crossings:
            names = self._names(crossing.record, crossing.positions)
            if not names:
                continue
            self._when(f"a {crossing.record} that is a {view.record}'s {'.'.join(crossing.path)} changes ({names})")
            self._run(crossing.lookup, f"the {view.record} rows it reaches")
            self._say(then)

    # --- Formulas, machines, Customs ----------------------------------------------------------------------------------

    def _formula(self, field: FieldModel, formula: Formula) -> None:
        record = self._record
        position = record.index[field.name]
        step = next((s for _, s in self._steps() if isinstance(s, FormulaStep) and position in s.columns), None)
        pairs = reads(self._plan.model, record.name, formula.value)
        self._say(f"reads: {', '.join(dict.fromkeys(f'{name}.{member}' for name, member in pairs)) or 'nothing'}")
        self._height(field, step)
        self._state(field, "its value")
        if step is None:
            names = ", ".join(dict.fromkeys(node.field for node in columns(formula.value)))
            self._when(f"a {record.name} is created or updated ({names})")
            self._say("computed with the row and part of the same INSERT or UPDATE: no statement of its own")
            return
        self._when(f"a {record.name} is created")
        self._crossings(step.view)
        self._say("computed from these and part of the INSERT")
        self._when(f"a {record.name} is updated ({self._names(record.name, step.view.positions)})")
        self._crossings(step.view)
        self._assigned(step.columns)
        self._crossed(step.view, "computed for each, and written where it differs")
        self._lines += ["", "Re-reads: never.", self._locking()]

    def _assigned(self, positions: Iterable[int]) -> None:
        one, _ = assign_statement(self._plan, self._record, tuple(positions), many=False)
        self._run(
            one, "written where it differs, all of these columns or those that do (one statement for several rows)"
        )

    def _machine(self, field: FieldModel, machine: Machine) -> None:
        self._height(field, None)
        self._state(field, f"state {machine.initial!r}")
        self._say(f"states: {', '.join(machine.states)}")
        for transition in machine.transitions:
            trigger = transition.trigger
            what = f"{trigger.record} is dispatched" if trigger.event else f"a {trigger.record} is {trigger.change}d"
            of = f" ({', '.join(trigger.of)})" if trigger.of else ""
            where = " and its where= holds" if trigger.where is not None else ""
            self._when(f"{what}{of}{where} [{transition.origin}]")
            states = "any state" if "*" in transition.sources else " or ".join(transition.sources)
            self._say(f"the {self._record.name} that record= names goes from {states} to {transition.target}")
            self._run(
                self._record.statements.select_many["update"], "all records named by the events of one write, locked"
            )
            found = next(item for item in self._record.machines if item.name == field.name)
            self._assigned((found.value, found.state))
        self._lines += [
            "",
            "Re-reads: never. The first declared transition that matches wins, once per event.",
            self._locking(),
        ]

    def _custom(self, field: FieldModel, custom: CustomModel) -> None:
        position = self._record.index[field.name]
        step = next((s for _, s in self._steps() if isinstance(s, CustomStep) and s.column == position), None)
        uses = [".".join((self._record.name, *column.path, column.field)) for column in custom.columns]
        uses += [f"{use.edge} rows by {'.'.join(use.host_path)}" for use in custom.edges]
        self._say(f"uses: {', '.join(uses) or 'nothing'}")
        self._height(field, step)
        self._state(field, "what initial= gives" if custom.initial is not None else "its default")
        if step is not None:
            self._when("something that it uses changes")
            self._run(self._record.statements.select_many["update"], "the records concerned, locked")
            called = "incremental=" if custom.incremental is not None else "compute="
            self._say(f"{called} is called for each record concerned, its inputs read in one query")
            self._assigned((position,))
        self._lines += ["", "Re-reads: the inputs of each call.", self._locking()]
