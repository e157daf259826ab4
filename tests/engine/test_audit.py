"""An audit of right data is clean; whatever derived value is corrupted behind the engine's back is found, named and repaired."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import pytest

from ensue import AnyOf, App, Average, Computed, Custom, Entity, Globals, Many, One, Property
from ensue.app import AppRun
from ensue.engine.audit import AuditReport, audit, differs, format_report
from ensue.errors import UsageError
from ensue.expression.sql import literal, sqlalchemy_dialect
from ensue.plan.plan import ColumnPlan
from ensue.plan.recompute import Recompute, recomputes
from ensue.plan.statements import Text
from ensue.store.statement import Run, Statement
from tests.agreement import schemas as s
from tests.engine.filled import running


async def sql(run: AppRun, text: str) -> list[Any]:
    def work() -> Generator[Run, Any, Any]:
        return (yield Run(Statement("test", text, rows=True)))

    return await run.driver.write(work())


def other_value(column: ColumnPlan, stored: Any) -> Any:
    """A value of the column's type that is not `stored`."""
    kind = column.type.base
    if kind == "bool":
        return not stored
    if stored is None:
        return {"int": 7, "float": 1.5, "str": "zz"}[kind]
    if kind in ("int", "decimal", "float"):
        return stored + 1
    if kind == "str":
        return stored + "?"
    return stored.replace(year=1999)


def corruption(run: AppRun, check: Recompute, row: tuple[Any, ...]) -> str:
    """The UPDATE that corrupts all columns of a computation in one row, behind the engine's back."""
    plan = run.plan.records[check.record]
    text, dialect = Text(run.plan.dialect), sqlalchemy_dialect(run.plan.dialect)
    changes: list[str] = []
    for column in check.columns:
        value = other_value(column, row[plan.index[column.name]])
        wrong = literal(value, column.type, run.plan.dialect).compile(dialect=dialect)
        changes.append(f"{text.quote(column.column)} = {wrong}")
    return f"UPDATE {text.quote(plan.table.name)} SET {', '.join(changes)} WHERE id = {row[0]}"


async def first_row(run: AppRun, record: str) -> tuple[Any, ...]:
    plan = run.plan.records[record]
    rows = await sql(run, plan.statements.select_many["none"].text.split(" WHERE ")[0] + " ORDER BY id LIMIT 1")
    return rows[0] if plan.decode is None else plan.decode(rows[0])


@pytest.mark.parametrize("schema", s.FIXED, ids=str)
async def test_every_corrupted_column_is_found_and_repaired(schema: s.FixedSchema, database_url: str) -> None:
    async with running(schema, database_url) as run:
        report = await audit(run.controller.engine)
        assert report.clean, format_report(report)
        for check in recomputes(run.plan):
            if isinstance(check, Recompute):
                await corrupt_and_repair(run, check)


async def corrupt_and_repair(run: AppRun, check: Recompute) -> None:
    row = await first_row(run, check.record)
    await run.driver.script([Statement("corrupt", corruption(run, check, row))])
    report = await audit(run.controller.engine)
    index = run.plan.records[check.record].index
    for column in check.columns:
        key = (check.record, row[0], column.name)
        (found,) = [item for item in report.findings if (item.record, item.id, item.column) == key]
        stored = row[index[column.name]]
        assert not differs(found.stored, other_value(column, stored)), key
        assert not differs(found.right, stored), key
    repaired = await audit(run.plan, run.driver, repair=True)
    assert repaired.repaired
    after = await audit(run.controller.engine)
    assert after.clean, format_report(after)
    assert await first_row(run, check.record) == row


async def audited(run: AppRun, *corruptions: str, repair: bool = False) -> AuditReport:
    await run.driver.script([Statement("corrupt", text) for text in corruptions])
    return await audit(run.controller.engine, repair=repair)


async def test_state_machines(database_url: str) -> None:
    async with running(s.SHOP, database_url) as run:
        paid = (await sql(run, "SELECT id FROM \"order\" WHERE status = 'paid'"))[0][0]
        report = await audited(run, f"UPDATE \"order\" SET status = 'pending' WHERE id = {paid}")
        assert ("Order", paid, "status", "pending", "paid") in [
            (item.record, item.id, item.column, item.stored, item.right) for item in report.findings
        ]
        await audit(run.controller.engine, repair=True)
        assert (await audit(run.controller.engine)).clean
        report = await audited(run, f"UPDATE \"order\" SET status__state = 'lost' WHERE id = {paid}", repair=True)
        assert [(item.column, item.stored, item.repaired) for item in report.findings] == [
            ("status__state", "lost", False)
        ]
        assert not report.repaired


async def test_derived_records(database_url: str) -> None:
    async with running(s.CLUB, database_url) as run:
        before = await sql(run, "SELECT text, flagged, group_name FROM notification ORDER BY ensue_source")
        report = await audited(
            run,
            "UPDATE notification SET text = 'other' WHERE ensue_source = (SELECT min(id) FROM message)",
            "DELETE FROM notification WHERE ensue_source = (SELECT max(id) FROM message)",
            "INSERT INTO notification (id, text, flagged, group_name, message_id, ensue_source, ensue_slot) "
            "SELECT 999, 'x', flagged, 'y', message_id, ensue_source, 7 FROM notification "
            "WHERE ensue_source = (SELECT min(id) FROM message)",
        )
        assert {(item.record, item.id is None, item.column) for item in report.findings} >= {
            ("Notification", True, "ensue_source"),
            ("Notification", False, "ensue_source"),
            ("Notification", False, "text"),
        }
        assert (await audit(run.controller.engine, repair=True)).repaired
        assert (await audit(run.controller.engine)).clean
        assert await sql(run, "SELECT text, flagged, group_name FROM notification ORDER BY ensue_source") == before


async def test_missing_globals_row_comes_back_filled(database_url: str) -> None:
    async with running(s.BLOG, database_url) as run:
        before = await first_row(run, "Site")
        report = await audited(run, "DELETE FROM site")
        assert [(item.record, item.column) for item in report.findings] == [("Site", "id")]
        assert (await audit(run.controller.engine, repair=True)).repaired
        assert await first_row(run, "Site") == before


async def test_dangling_reference_is_reported(sqlite_url: str) -> None:
    import apsw

    async with running(s.BLOG, sqlite_url) as run:
        connection: Any = apsw.Connection(sqlite_url.removeprefix("sqlite:///").partition("?")[0])
        connection.execute("UPDATE post SET editor_id = 12345 WHERE id = 1").fetchall()
        connection.close()
        report = await audit(run.controller.engine, repair=True)
        assert ("Post", 1, "editor", 12345, False) in [
            (item.record, item.id, item.column, item.stored, item.repaired) for item in report.findings
        ]


async def test_a_sample_checks_a_part(database_url: str) -> None:
    async with running(s.BLOG, database_url) as run:
        whole = await audit(run.controller.engine)
        assert whole.checked["Post"] == 3
        assert (await audit(run.controller.engine, sample=1.0)).checked == whole.checked
        assert (await audit(run.controller.engine, sample=1e-12)).checked["Post"] == 0
        await run.driver.script([Statement("corrupt", "UPDATE post SET comment_count = 77 WHERE id = 1")])
        assert not (await audit(run.controller.engine, sample=1.0)).clean
        assert (await audit(run.controller.engine, sample=1e-12)).clean
        with pytest.raises(UsageError, match="sample=2"):
            await audit(run.controller.engine, sample=2)


async def test_a_database_in_motion_is_never_found_wrong(database_url: str) -> None:
    async with running(s.BLOG, database_url) as run:
        store = run.controller.store

        async def write() -> None:
            for n in range(15):
                await store.create(s.Comment(text="t", score=n, post=s.Post.ref(1), author=s.User.ref(1)))

        async def look(*, repair: bool) -> None:
            for _ in range(4):
                report = await audit(run.controller.engine, repair=repair)
                assert report.clean, format_report(report)

        await asyncio.gather(write(), write(), look(repair=False), look(repair=True))
        assert (await audit(run.controller.engine)).clean


async def test_a_report_can_be_read(database_url: str) -> None:
    async with running(s.BLOG, database_url) as run:
        assert "everything derived is right" in format_report(await audit(run.controller.engine))
        report = await audited(run, 'UPDATE "user" SET post_count = 9 WHERE id = 1')
        assert "User 1.post_count holds 9, expected 3" in format_report(report)
        assert "1 wrong value(s)." in format_report(report)


class Shot(Entity):
    value: Property[int | None] = Property(default=None)
    first: Property[bool] = Property(default=False)
    second: Property[bool] = Property(default=False)


class Range(Globals):
    mean = Average(lambda: Shot, lambda s: s.value, where=lambda s: s.first | s.second)
    lucky = AnyOf(lambda: Shot, lambda s: s.first | s.second)


async def test_a_filter_with_or_is_one_condition_where_it_meets_another(database_url: str) -> None:
    """Nulls don't count in an Average: the audit's own condition must not bind to one side of the filter's `|` alone."""
    app = App(entities=[Shot], globals=[Range], database=database_url)
    async with app:
        store = app.controller.store
        await store.create(Shot(first=True))
        await store.create(Shot(second=True, value=4))
        report = await audit(app.controller.engine)
        assert report.clean, format_report(report)
        assert (await store.globals(Range)).mean == 4.0


class Folder(Entity):
    name: Property[str]
    sheets = Many(lambda: Sheet, inverse="folder")
    listing = Custom[str](
        compute=lambda folder, inputs: folder.name + ": " + ", ".join(sorted(sheet.text for sheet in inputs.sheets)),
        uses=lambda folder: [folder.name, folder.sheets.fields(Sheet.text)],
    )
    title = Computed[str](lambda folder: folder.listing + "!")
    born = Custom[str](initial=lambda folder: folder.name)


class Sheet(Entity):
    text: Property[str]
    folder: One[Folder]


async def test_a_function_is_called_again_and_its_column_repaired_before_what_reads_it(database_url: str) -> None:
    async with App(entities=[Folder], database=database_url).run() as run:
        store = run.controller.store
        folders = await store.create_many([Folder(name=f"f{n}") for n in range(3)])
        await store.create_many([Sheet(text=text, folder=folders[0]) for text in ("b", "a")])
        report = await audited(run, f"UPDATE folder SET listing = 'lost', title = 'x' WHERE id = {folders[0].id}")
        assert report.unchecked == ("Folder.born",)
        assert ("listing", "lost", "f0: a, b") in [(item.column, item.stored, item.right) for item in report.findings]
        assert (await audit(run.controller.engine, repair=True)).repaired
        assert (await audit(run.controller.engine)).clean
        found = await store.get(Folder, folders[0].id)
        assert (found.listing, found.title) == ("f0: a, b", "f0: a, b!")
