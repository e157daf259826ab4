"""`audit`: compare everything derived with its definition, computed from scratch in the database, and repair what differs.

Decides the snapshot, the order of repairs and the locks; the statements are `plan.recompute`'s, the rules beside them
`invariants`'. Invariants: an audit that only reads sees one state of the database, so a live one is never found wrong by
being in motion; a repair computes a host's values in a later statement than the one that locked it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ensue.clock import SystemClock
from ensue.engine.audit.invariants import check_invariants, missing_globals
from ensue.engine.audit.report import AuditReport, Finding, format_report
from ensue.engine.engine import Engine
from ensue.engine.propagation.customs import recomputed
from ensue.engine.propagation.transforms import run_transform
from ensue.engine.transaction import Transaction
from ensue.engine.writing.apply import lock_rows, write_pairs
from ensue.engine.writing.deletes import delete_rows
from ensue.errors import UsageError
from ensue.plan.ddl import globals_row
from ensue.plan.plan import Plan
from ensue.plan.recompute import (
    FLOAT_TOLERANCE,
    Check,
    CustomCheck,
    Recompute,
    TransformCheck,
    layout_of,
    recomputable,
    recomputes,
)
from ensue.plan.statements import Text
from ensue.schema.model import CustomModel
from ensue.store.driver import Dialect, Driver
from ensue.store.effect_table import notify_statement
from ensue.store.retry import with_retry
from ensue.store.statement import Run, Statement, Work
from ensue.store.transaction import COMMIT

__all__ = ["AuditReport", "Finding", "audit", "differs", "format_report", "repair_all"]

CALLED_AT_ONCE = 1000
"""Records whose inputs are in memory at a time while a Custom's function is called for all."""

_SNAPSHOT = Statement("begin_snapshot", "BEGIN")
_REPEATABLE = Statement("begin_snapshot", "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
_SAMPLED: Mapping[Dialect, str] = {
    "sqlite": "SELECT id FROM {} WHERE abs(random() / 9223372036854775808.0) < ?1 ORDER BY id",
    "postgresql": "SELECT id FROM {} WHERE random() < $1 ORDER BY id",
}


async def audit(
    of: Engine | Plan, driver: Driver | None = None, *, repair: bool = False, sample: float | None = None
) -> AuditReport:
    """Compare every stored derived value with its definition.

    `of` is an engine, or a plan with its `driver`. With `sample` (0 to 1) only that share of the host records is compared. With
    `repair` wrong values are set right in one write transaction, without side effects; what can't be (an undeclared state, a
    dangling reference) is reported with `repaired` false. Raises `UsageError` for a `sample` out of range.

    >>> report = await audit(app.controller.engine)
    >>> report.clean
    True
    """
    engine = _engine(of, driver)
    if sample is not None and not 0 < sample <= 1:
        raise UsageError(f"audit(sample={sample!r}): expected a share above 0 and up to 1, such as 0.01.")
    if repair:
        return await with_retry(lambda _: engine.driver.write(_Audit(engine, sample, repair=True).work()))
    return await _read(engine.driver, _Audit(engine, sample).work())


def _engine(of: Engine | Plan, driver: Driver | None) -> Engine:
    if isinstance(of, Engine):
        return of
    if driver is None:
        raise UsageError("audit(plan) was given no driver. Call audit(plan, driver), or audit(engine).")
    return Engine(of, driver, SystemClock())


async def _read(driver: Driver, work: Work[AuditReport]) -> AuditReport:
    """Drive `work` on one snapshot of the database, holding nobody up."""

    def snapshot() -> Work[AuditReport]:
        # An error leaves the transaction to the driver, which rolls back.
        if driver.dialect == "sqlite":
            yield Run(_SNAPSHOT)
            report = yield from work
            yield Run(COMMIT)
            return report
        yield Run(_REPEATABLE)
        return (yield from work)

    return await (driver.read(snapshot()) if driver.dialect == "sqlite" else driver.write(snapshot()))


def repair_all(engine: Engine, checks: Iterable[Check]) -> Work[None]:
    """Set everything right that `checks` cover, in order, without saying what was wrong; for migrations."""
    tx = engine.begin()
    for check in checks:
        if isinstance(check, TransformCheck):
            yield from _Audit(engine, None, repair=True).transform(check, every=True)
        elif isinstance(check, CustomCheck):
            yield from _Audit(engine, None, repair=True).custom(check)
        elif check.repair is not None:
            yield Run(check.repair.statement, check.repair.bind({}))
        else:
            yield from _Audit(engine, None, repair=True).recompute(check)
    tx.pending = {}


@dataclass(slots=True)
class _Audit:
    """One run: what it has found so far."""

    engine: Engine
    sample: float | None
    repair: bool = False
    findings: list[Finding] = field(default_factory=list[Finding])
    checked: dict[str, int] = field(default_factory=dict[str, int])
    sampled: dict[str, list[int]] = field(default_factory=dict[str, list[int]])

    @property
    def plan(self) -> Plan:
        return self.engine.plan

    def work(self) -> Work[AuditReport]:
        plan = self.plan
        yield from self._globals()
        # First, as more is computed from what they repair.
        broken = yield from check_invariants(plan, repair=self.repair)
        for check in recomputes(plan):
            yield from self._count(check.step.record if isinstance(check, TransformCheck) else check.record)
            if isinstance(check, TransformCheck):
                yield from self.transform(check)
            elif isinstance(check, CustomCheck):
                yield from self.custom(check)
            else:
                yield from self.recompute(check)
        known = {(item.record, item.id, item.column) for item in self.findings}
        self.findings.extend(item for item in broken if (item.record, item.id, item.column) not in known)
        notify = notify_statement(plan.dialect)
        if self.repair and self.findings and notify is not None:
            yield Run(notify, ("",))
        return AuditReport(tuple(self.findings), self.checked, tuple(_unchecked(plan)))

    def _globals(self) -> Work[None]:
        for name in (yield from missing_globals(self.plan)):
            self.findings.append(Finding(name, 1, "id", None, 1, repaired=self.repair))
            if self.repair:
                yield Run(globals_row(layout_of(self.plan), name))

    def _count(self, record: str) -> Work[None]:
        if record in self.checked:
            return
        name = self.plan.records[record].table.name
        quoted = Text(self.plan.dialect).quote(name)
        if self.sample is None:
            count = Statement(f"{name}.count", f"SELECT count(*) FROM {quoted}", rows=True)
            rows: list[tuple[int]] = yield Run(count)
            self.checked[record] = rows[0][0]
            return
        text = _SAMPLED[self.plan.dialect].format(quoted)
        rows = yield Run(Statement(f"{name}.sample", text, rows=True), (self.sample,))
        self.sampled[record] = [row[0] for row in rows]
        self.checked[record] = len(rows)

    # --- Columns --------------------------------------------------------------------------------------------------------

    def recompute(self, check: Recompute) -> Work[None]:
        """Compare one computation (or several that share their edges), and repair it."""
        wrong = yield from self._wrong(check, self.sampled.get(check.record))
        if wrong and self.repair:
            # Locked first and compared again afterwards: what a writer did meanwhile is then seen whole.
            record = self.plan.records[check.record]
            yield from lock_rows(self.engine.begin(), record, sorted(wrong))
            wrong = yield from self._wrong(check, sorted(wrong))
            yield from self._mend(check, wrong)
        for id_, (stored, right) in sorted(wrong.items()):
            for column, old, new in zip(check.columns, stored, right, strict=True):
                if differs(old, new):
                    self.findings.append(Finding(check.record, id_, column.name, old, new, repaired=self.repair))

    def _wrong(self, check: Recompute, ids: Sequence[int] | None) -> Work[dict[int, tuple[Any, Any]]]:
        """By id: stored and right values of the rows that differ."""
        statement, values = (check.check, {}) if ids is None else (check.check_of, {"ids": ids})
        found: list[Any] = yield Run(statement.statement, statement.bind(values))
        rows = found if check.decode is None else map(check.decode, found)
        width = len(check.columns)
        if check.evaluate is None:
            return {row[0]: (row[1 : 1 + width], row[1 + width :]) for row in rows}
        pairs = ((row[0], row[1], check.evaluate(row)) for row in rows)
        return {id_: ((stored,), (right,)) for id_, stored, right in pairs if differs(stored, right)}

    def _mend(self, check: Recompute, wrong: Mapping[int, tuple[Any, Any]]) -> Work[None]:
        if not wrong:
            return
        if not isinstance(check.repair_of, Statement):
            yield Run(check.repair_of.statement, check.repair_of.bind({"ids": sorted(wrong)}))
            return
        encode = check.columns[0].encode
        rows = [
            (id_, right[0] if encode is None or right[0] is None else encode(right[0]))
            for id_, (_, right) in sorted(wrong.items())
        ]
        yield Run(check.repair_of, rows, many=True)

    # --- Functions ------------------------------------------------------------------------------------------------------

    def custom(self, check: CustomCheck) -> Work[None]:
        """Call a Custom's function for every record, and compare."""
        record, step = self.plan.records[check.record], check.step
        ids = self.sampled.get(check.record)
        if ids is None:
            table = Text(self.plan.dialect).quote(record.table.name)
            found: list[Any] = yield Run(Statement("custom.ids", f"SELECT id FROM {table} ORDER BY id", rows=True))
            ids = [row[0] for row in found]
        for start in range(0, len(ids), CALLED_AT_ONCE):
            part = ids[start : start + CALLED_AT_ONCE]
            tx = self.engine.begin()
            rows = yield from lock_rows(tx, record, part, "update" if self.repair else "none")
            wrong = yield from recomputed(tx, step, rows)
            if self.repair:
                yield from write_pairs(tx, record, wrong)
            column = check.columns[0].name
            self.findings.extend(
                Finding(check.record, old[0], column, old[step.column], new[step.column], repaired=self.repair)
                for old, new in wrong
                if differs(old[step.column], new[step.column])
            )

    # --- Derived records --------------------------------------------------------------------------------------------------

    def transform(self, check: TransformCheck, *, every: bool = False) -> Work[None]:
        """Compare the records of a Transform with their sources, and repair them. `every`: run it for all sources."""
        name = check.step.record
        extra: list[tuple[int, int, int]] = yield Run(check.extra.statement, check.extra.bind({}))
        for id_, source, _ in extra:
            self.findings.append(Finding(name, id_, "ensue_source", source, None, repaired=self.repair))
        sources: set[int] = {source for _, source, _ in extra}
        if check.differing is not None:
            rows: list[Any] = yield Run(check.differing.statement, check.differing.bind({}))
            for row in rows if check.decode is None else map(check.decode, rows):
                sources.add(row[0])
                self._note_derived(check, row)
        if every and check.differing is None:
            table = Text(self.plan.dialect).quote(self.plan.records[check.step.model.source].table.name)
            rows = yield Run(Statement("transform.sources", f"SELECT id FROM {table} ORDER BY id", rows=True))
            sources.update(row[0] for row in rows)
        if self.repair and sources:
            yield from _derive(self.engine.begin(), check, sorted(sources), [row[0] for row in extra])

    def _note_derived(self, check: TransformCheck, row: Sequence[Any]) -> None:
        name = check.step.record
        source, id_ = row[0], row[1]
        if id_ is None:
            self.findings.append(Finding(name, None, "ensue_source", None, source, repaired=self.repair))
            return
        width = len(check.columns)
        for column, old, new in zip(check.columns, row[2 : 2 + width], row[2 + width :], strict=True):
            if differs(old, new):
                self.findings.append(Finding(name, id_, column.name, old, new, repaired=self.repair))


def _derive(tx: Transaction, check: TransformCheck, sources: Sequence[int], extra: Sequence[int]) -> Work[None]:
    """Make the derived records of these sources right. What follows from that is recomputed by the checks after this one."""
    step = check.step
    if extra:
        yield from delete_rows(tx, tx.plan.records[step.record], extra)
    rows = yield from lock_rows(tx, tx.plan.records[step.model.source], sources)
    yield from run_transform(tx, step, {row[0]: (row, row) for row in rows}, {})


def differs(stored: Any, right: Any) -> bool:
    """Whether two values of a column are different; floats may differ by rounding."""
    if isinstance(stored, float) and isinstance(right, float):
        return abs(stored - right) > FLOAT_TOLERANCE * (abs(stored) + abs(right))
    return type(stored) is not type(right) or stored != right


def _unchecked(plan: Plan) -> Iterable[str]:
    for record in plan.records.values():
        for item in record.model.fields.values():
            if isinstance(item.computation, CustomModel) and not recomputable(item.computation):
                yield f"{record.name}.{item.name}"
        transform = record.model.transform
        if transform is not None and not transform.event and transform.mapping is None:
            yield record.name
