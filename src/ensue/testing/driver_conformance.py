"""What every database driver must do, as plain coroutine functions: `for case in CASES: await case(factory)`.

Decides what "conforms" means; knows a driver only by `ensue.store.driver` and needs no test framework.
`factory(wait_seconds=…)` gives a driver that is not open, on a database that is empty at the start of a case;
`wait_seconds` bounds its waiting for a writer or connection. `SHARED_CASES` call the factory again for a second driver
on the same database, which an in-memory one can't be. Invariant: a case ends with all that it opened closed, and
raises `AssertionError` if the driver does not conform.
"""

import asyncio
from collections.abc import Generator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from ensue.errors import ConstraintViolated, InternalError, InvalidValue, Unavailable, UsageError
from ensue.store.driver import Driver, Session
from ensue.store.statement import Call, Request, Run, Statement
from ensue.store.transaction import current_session
from ensue.testing.driver_life import LIFE_CASES
from ensue.testing.driver_workbench import (
    INT64_MAX,
    INT64_MIN,
    TASKS_MAX,
    WAIT_SECONDS,
    Boom,
    Case,
    Factory,
    Tables,
    do,
    many,
    numbers,
    opened,
    raises,
)

# --- Transactions ----------------------------------------------------------------------------------------------------


async def a_write_commits_or_leaves_nothing(factory: Factory) -> None:
    async with opened(factory) as (driver, tables):

        def failing() -> Generator[Request, Any, None]:
            yield Run(tables.add, (5, 1))
            raise Boom

        def returning() -> Generator[Request, Any, str]:
            assert (yield Run(tables.add, (1, 1))) == []
            rows = yield Run(tables.all)
            return f"seen {rows!r}"

        await raises(Boom, driver.write(failing()))
        assert await numbers(driver, tables) == [0]
        assert await driver.write(returning()) == "seen [(1, 1, 'x')]"
        assert await numbers(driver, tables) == [1]
        assert await driver.write(do()) == []


async def a_transaction_commits_or_leaves_nothing(factory: Factory) -> None:
    async with opened(factory) as (driver, tables):
        async with driver.transaction() as session:
            await session.run(do((tables.add, (1, 1))))
            assert (await session.run(do((tables.all, ())))) == [(1, 1, "x")]

        async def failing() -> None:
            async with driver.transaction() as session:
                await session.run(do((tables.add, (1, 1))))
                raise Boom

        await raises(Boom, failing())
        assert await numbers(driver, tables) == [1]


async def savepoints_nest(factory: Factory) -> None:
    async with opened(factory) as (driver, tables):

        async def rolled_back(session: Any, depth: int) -> None:
            async with session.savepoint():
                await session.run(do((tables.add, (10**depth, 1))))
                if depth < 3:
                    await raises(Boom, rolled_back(session, depth + 1))
                raise Boom

        async with driver.transaction() as session:
            await session.run(do((tables.add, (1, 1))))
            await raises(Boom, rolled_back(session, 1))
            async with session.savepoint():
                await session.run(do((tables.add, (2, 1))))
                async with session.savepoint():
                    await session.run(do((tables.add, (4, 1))))
                await raises(Boom, rolled_back(session, 1))
        assert await numbers(driver, tables) == [7]


async def a_failed_statement_can_be_undone_by_a_savepoint_only(factory: Factory) -> None:
    async with opened(factory) as (driver, tables):
        taken = (1, 0, "again")

        async def swallowing() -> None:
            async with driver.transaction() as session:
                await session.run(do((tables.add, (1, 1))))
                await raises(ConstraintViolated, session.run(do((tables.insert, taken))))
                await raises(UsageError, session.run(do((tables.add, (1, 1)))))

        def swallowing_work() -> Generator[Request, Any, None]:
            yield Run(tables.add, (1, 1))
            try:
                yield Run(tables.insert, taken)
            except ConstraintViolated:
                return

        await raises(UsageError, swallowing())
        await raises(UsageError, driver.write(swallowing_work()))
        assert await numbers(driver, tables) == [0]

        async def failing(session: Any) -> None:
            async with session.savepoint():
                await session.run(do((tables.insert, taken)))

        async with driver.transaction() as session:
            await raises(ConstraintViolated, failing(session))
            await session.run(do((tables.add, (3, 1))))
        assert await numbers(driver, tables) == [3]


async def a_transaction_belongs_to_its_task(factory: Factory) -> None:
    async with opened(factory) as (driver, tables):
        async with driver.transaction() as session:
            foreign = asyncio.create_task(session.run(do((tables.add, (1, 1)))), name="stranger")
            error = await raises(UsageError, foreign)
            assert "stranger" in str(error), error
            await raises(UsageError, driver.write(do((tables.add, (1, 1)))))
            await raises(UsageError, driver.transaction().__aenter__())
            await session.run(do((tables.add, (1, 1))))
        await raises(UsageError, session.run(do((tables.add, (1, 1)))))
        assert await numbers(driver, tables) == [1]


# --- Calls -----------------------------------------------------------------------------------------------------------


async def a_call_runs_in_the_callers_task(factory: Factory) -> None:
    async with opened(factory) as (driver, tables):
        seen: list[object] = []

        async def function(_: Session) -> str:
            await asyncio.sleep(0)
            seen.append(asyncio.current_task())
            return "answer"

        def work() -> Generator[Request, Any, list[Any]]:
            first = yield Call(function)
            rows = yield Run(tables.all)
            return [first, rows, (yield Call(function))]

        expected = ["answer", [(1, 0, "x")], "answer"]
        assert await driver.write(work()) == expected
        assert await driver.read(work()) == expected
        async with driver.transaction() as session:
            assert await session.run(work()) == expected
        assert seen == [asyncio.current_task()] * 6


async def an_exception_in_a_call_is_raised_at_its_yield(factory: Factory) -> None:
    async with opened(factory) as (driver, tables):

        async def failing(_: Session) -> None:
            raise Boom

        def catching() -> Generator[Request, Any, str]:
            yield Run(tables.add, (1, 1))
            try:
                yield Call(failing)
            except Boom:
                yield Run(tables.add, (2, 1))
            return "went on"

        assert await driver.write(catching()) == "went on"

        def letting() -> Generator[Request, Any, None]:
            yield Run(tables.add, (100, 1))
            yield Call(failing)

        await raises(Boom, driver.write(letting()))
        assert await numbers(driver, tables) == [3]


async def a_call_reads_inside_the_transaction_it_interrupts(factory: Factory) -> None:
    async with opened(factory) as (driver, tables):

        async def looking(session: Session) -> list[Any]:
            assert current_session(driver) is session
            await raises(UsageError, driver.write(do((tables.add, (1, 1)))))
            return await session.run(do((tables.all, ())))

        def work() -> Generator[Request, Any, list[Any]]:
            yield Run(tables.add, (1, 1))
            return (yield Call(looking))

        assert await driver.write(work()) == [(1, 1, "x")]
        async with driver.transaction() as session:
            assert await session.run(work()) == [(1, 2, "x")]
        assert current_session(driver) is None

        async def reading(session: Session) -> list[Any]:
            return await session.run(do((tables.all, ())))

        def nested() -> Generator[Request, Any, list[Any]]:
            return (yield Call(reading))

        assert await driver.read(nested()) == [(1, 2, "x")]


async def nothing_of_others_runs_during_a_call(factory: Factory) -> None:
    async with opened(factory) as (driver, tables):

        async def pausing(_: Session) -> None:
            await asyncio.sleep(0.01)

        def work() -> Generator[Request, Any, None]:
            ((_, n, _),) = yield Run(tables.all)
            yield Call(pausing)
            yield Run(tables.add, (1, 1))
            rows = yield Run(tables.all)
            assert tables.sqlite is False or rows[0][1] == n + 1

        await asyncio.gather(*(driver.write(work()) for _ in range(8)))
        assert await numbers(driver, tables) == [8]


# --- Statements ------------------------------------------------------------------------------------------------------


async def many_runs_once_for_each(factory: Factory) -> None:
    async with opened(factory, rows=3) as (driver, tables):
        await driver.write(many(tables.add, [(number, number) for number in (1, 2, 3)]))
        assert await numbers(driver, tables) == [1, 2, 3]
        await raises(ConstraintViolated, driver.write(many(tables.insert, [(4, 0, "x"), (4, 0, "y")])))
        assert await numbers(driver, tables) == [1, 2, 3]
        await driver.write(many(tables.add, []))


async def observers_see_every_statement(factory: Factory) -> None:
    async with opened(factory) as (driver, tables):
        seen: list[tuple[str, int]] = []
        driver.observers.append(lambda statement, count: seen.append((statement.name, count)))
        await driver.write(do((tables.add, (1, 1)), (tables.all, ())))
        assert seen == [("begin", 1), ("parent.add", 1), ("parent.all", 1), ("commit", 1)], seen
        seen.clear()
        await driver.read(do((tables.all, ())))
        assert seen == [("parent.all", 1)], seen
        seen.clear()
        await raises(ConstraintViolated, driver.write(many(tables.insert, [(7, 0, "x"), (7, 0, "x")])))
        assert seen == [("begin", 1), ("parent.insert", 2), ("rollback", 1)], seen
        seen.clear()
        async with driver.transaction() as session, session.savepoint():
            await session.run(do((tables.all, ())))
        names = ["begin", "savepoint", "parent.all", "release", "commit"]
        assert seen == [(name, 1) for name in names], seen


async def values_round_trip(factory: Factory) -> None:
    async with opened(factory) as (driver, tables):
        columns: list[tuple[str, str, list[Any]]] = [
            ("INTEGER", "bigint", [INT64_MIN, INT64_MAX, 0, -1, None]),
            ("REAL", "double precision", [0.1, -1e308, 5e-324, None]),
            ("TEXT", 'text COLLATE "C"', ["", "ä€😀", "a'b\"c\\", "\x01\n", "x" * 100_000, None]),
            ("BLOB", "bytea", [b"", b"\x00\xff", None]),
        ]
        if not tables.sqlite:
            columns += [
                ("", "boolean", [True, False, None]),
                ("", "numeric(38, 4)", [Decimal("1234567890123456789012345678901234.5678"), Decimal("-0.0001"), None]),
                (
                    "",
                    "timestamptz",
                    [datetime(2, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 0, 0, 0, 999_999, tzinfo=UTC), None],
                ),
                ("", "date", [date(1, 1, 1), date(9999, 12, 31), None]),
                ("", "uuid", [UUID(int=0), UUID(int=2**128 - 1), None]),
                ("", "jsonb", ['{"a": [1, null, "ä"]}', "null", '"x"', None]),
            ]
        for number, (sqlite, postgres, values) in enumerate(columns):
            table, kind = f"value_{number}", sqlite if tables.sqlite else postgres
            strict = " STRICT" if tables.sqlite else ""
            big = "INTEGER" if tables.sqlite else "bigint"
            await driver.script(
                [Statement("value.create", f"CREATE TABLE {table} (id {big} PRIMARY KEY, v {kind}){strict}")]
            )
            insert = tables.of("value.insert", f"INSERT INTO {table} (id, v) VALUES (%, %)")
            await driver.write(many(insert, list(enumerate(values))))
            select = tables.of("value.all", f"SELECT v FROM {table} ORDER BY id", rows=True)
            rows = await driver.read(do((select, ())))
            assert rows == [(value,) for value in values], (kind, rows)
            assert all(type(row) is tuple for row in rows), "rows are tuples"


# --- Errors ----------------------------------------------------------------------------------------------------------


async def refused_writes_name_the_constraint(factory: Factory) -> None:
    async with opened(factory) as (driver, tables):
        await driver.write(do((tables.child, (1, 1, 1, 2))))

        async def refused(statement: Statement, *params: Any) -> tuple[str, str, set[str]]:
            error = await raises(ConstraintViolated, driver.write(do((statement, params))))
            return error.reason, error.constraint, set(error.fields)

        assert await refused(tables.insert, 1, 0, "x") == ("unique", "parent(id)", {"id"})
        assert await refused(tables.child, 2, 1, 1, 2) == ("unique", "child(a,b)", {"a", "b"})
        assert await refused(tables.child, 2, 1, -1, 2) == ("check", "ck_child_positive", set())
        assert await refused(tables.insert, 2, None, "x") == ("not_null", "parent(n)", {"n"})
        # SQLite does not tell which reference it was.
        assert (await refused(tables.child, 2, 99, 5, 5))[0] == "reference"
        assert (await refused(tables.remove, 1))[0] == "reference"
        assert await numbers(driver, tables) == [0]


async def values_that_cannot_be_stored_are_invalid(factory: Factory) -> None:
    async with opened(factory) as (driver, tables):
        await driver.write(do((tables.add, (INT64_MAX, 1))))
        for statement, params in (
            (tables.add, (1, 1)),
            (tables.add, (INT64_MAX + 1, 1)),
            (tables.insert, (2, INT64_MIN - 1, "x")),
            (tables.insert, (2, 0, "a\0b")),
            (tables.insert, (2, 0, "\ud800")),
        ):
            await raises(InvalidValue, driver.write(do((statement, params))))
            await raises(InvalidValue, driver.write(many(statement, [params])))
        assert await numbers(driver, tables) == [INT64_MAX]


async def a_broken_statement_is_a_defect(factory: Factory) -> None:
    async with opened(factory) as (driver, tables):
        for broken, params in (
            (Statement("broken.syntax", "SELEC 1", rows=True), ()),
            (Statement("broken.table", "SELECT 1 FROM nowhere", rows=True), ()),
            (Statement("broken.count", tables.add.text), (1,)),
            (Statement("broken.type", tables.add.text), (object(), 1)),
        ):
            for run in (driver.write, driver.read):
                error = await raises(InternalError, run(do((broken, params))))
                assert broken.name in str(error), error
                assert broken.text in str(error), error


# --- Concurrency -----------------------------------------------------------------------------------------------------


async def concurrent_writers_lose_nothing(factory: Factory) -> None:
    async with opened(factory) as (driver, tables):

        async def in_transaction() -> None:
            async with driver.transaction() as session:
                await session.run(do((tables.add, (1, 1))))
                await asyncio.sleep(0)
                await session.run(do((tables.add, (1, 1))))

        writes = [driver.write(do((tables.add, (1, 1)))) for _ in range(TASKS_MAX)]
        reads = [driver.read(do((tables.all, ()))) for _ in range(TASKS_MAX)]
        await asyncio.gather(*writes, *(in_transaction() for _ in range(TASKS_MAX)), *reads)
        assert await numbers(driver, tables) == [3 * TASKS_MAX]


async def a_read_never_sees_what_is_not_committed(factory: Factory) -> None:
    async with opened(factory) as (driver, tables):
        async with driver.transaction() as session:
            await session.run(do((tables.add, (1, 1))))
            reading = asyncio.create_task(numbers(driver, tables))
            await asyncio.wait([reading], timeout=0.2)
            early = reading.done()
            assert not early or reading.result() == [0], reading.result()
        assert await reading == [0 if early else 1]
        assert await numbers(driver, tables) == [1]


async def waiting_ends_with_an_error_that_names_the_holder(factory: Factory) -> None:
    async with opened(factory, wait_seconds=0.3) as (driver, tables):
        done = asyncio.Event()

        async def holding() -> None:
            async with driver.transaction() as session:
                await session.run(do((tables.all, ())))
                await done.wait()

        tasks = [asyncio.create_task(holding(), name=f"holder-{number}") for number in range(TASKS_MAX)]
        await asyncio.wait(tasks, timeout=WAIT_SECONDS, return_when=asyncio.FIRST_EXCEPTION)
        error = await raises(Unavailable, driver.write(do((tables.add, (1, 1)))))
        done.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert error.retryable
        assert "'holder-" in str(error), error
        assert "driver_conformance.py:" in str(error), error
        await driver.write(do((tables.add, (1, 1))))
        assert await numbers(driver, tables) == [1]


async def cancellation_leaves_nothing_open(factory: Factory) -> None:
    async with opened(factory, wait_seconds=WAIT_SECONDS) as (driver, tables):

        async def forever(_: Session) -> None:
            await asyncio.Event().wait()

        def in_call() -> Generator[Request, Any, None]:
            yield Run(tables.add, (1, 1))
            yield Call(forever)

        async def in_body() -> None:
            async with driver.transaction() as session:
                await session.run(do((tables.add, (1, 1))))
                await forever(session)

        async def in_savepoint() -> None:
            async with driver.transaction() as session, session.savepoint():
                await session.run(in_call())

        slow = (tables.add, (1, 1)), (tables.slow, ()), (tables.add, (1, 1))
        for start in (
            lambda: driver.write(in_call()),
            lambda: driver.write(do(*slow)),
            lambda: driver.read(do((tables.slow, ()))),
            lambda: driver.read(do((tables.slow, ()), (tables.slow, ()))),
            in_body,
            in_savepoint,
        ):
            task = asyncio.ensure_future(start())
            await asyncio.sleep(0.05)
            task.cancel()
            await raises(asyncio.CancelledError, asyncio.wait_for(task, WAIT_SECONDS))
            assert await asyncio.wait_for(numbers(driver, tables), WAIT_SECONDS) == [0]
        await driver.write(do((tables.add, (1, 1))))
        assert await numbers(driver, tables) == [1]


async def cancellation_at_any_step_leaves_nothing_open(factory: Factory) -> None:
    async with opened(factory, rows=2) as (driver, tables):
        done = 0
        for steps in range(30):
            async with asyncio.timeout(WAIT_SECONDS):
                task = asyncio.ensure_future(_transfer(driver, tables))
                for _ in range(steps):
                    await asyncio.sleep(0 if steps % 2 else 0.0003)
                task.cancel()
                await asyncio.wait([task])
                assert task.cancelled() or task.exception() is None, repr(task.exception())
                ((_, first, _), (_, second, _)) = await driver.read(do((tables.all, ())))
                assert first + second == 0, "half of a transaction was committed"
                done += 1
        assert done == 30


async def _transfer(driver: Driver, tables: Tables) -> None:
    async def pausing(_: Session) -> None:
        await asyncio.sleep(0)

    def work() -> Generator[Request, Any, None]:
        yield Run(tables.add, (1, 1))
        yield Call(pausing)
        yield Run(tables.add, (-1, 2))

    await driver.write(work())
    async with driver.transaction() as session:
        async with session.savepoint():
            await session.run(do((tables.add, (1, 1))))
        await session.run(do((tables.add, (-1, 2))))


async def queued_work_can_be_cancelled(factory: Factory) -> None:
    async with opened(factory) as (driver, tables):
        async with driver.transaction() as session:
            await session.run(do((tables.add, (1, 1))))
            queued = [asyncio.create_task(driver.write(do((tables.add, (1, 1))))) for _ in range(TASKS_MAX)]
            await asyncio.sleep(0.05)
            for task in queued:
                task.cancel()
            await asyncio.wait(queued)
            assert all(task.cancelled() for task in queued)
        assert await numbers(driver, tables) == [1]


# --- Several drivers --------------------------------------------------------------------------------------------------


async def a_second_driver_sees_what_was_committed(factory: Factory) -> None:
    async with opened(factory) as (driver, tables):
        other = factory()
        await other.open()
        try:
            await driver.write(do((tables.add, (1, 1))))
            assert await numbers(other, tables) == [1]
            writers = [each.write(do((tables.add, (1, 1)))) for each in (driver, other) * TASKS_MAX]
            await asyncio.gather(*writers)
            assert await numbers(driver, tables) == await numbers(other, tables) == [1 + 2 * TASKS_MAX]
        finally:
            await other.close()


async def watching_hears_of_other_processes(factory: Factory) -> None:
    async with opened(factory) as (driver, tables):
        heard = asyncio.Event()
        await driver.watch(lambda _: heard.set())
        notify = [] if tables.sqlite else [(Statement("notify", "SELECT pg_notify('ensue', 'x')", rows=True), ())]
        other = factory()
        await other.open()
        try:
            for _ in range(3):
                heard.clear()
                await other.write(do((tables.add, (1, 1)), *notify))
                await asyncio.wait_for(heard.wait(), WAIT_SECONDS)
        finally:
            await other.close()


CASES: tuple[Case, ...] = (
    a_write_commits_or_leaves_nothing,
    a_transaction_commits_or_leaves_nothing,
    savepoints_nest,
    a_failed_statement_can_be_undone_by_a_savepoint_only,
    a_transaction_belongs_to_its_task,
    a_call_runs_in_the_callers_task,
    an_exception_in_a_call_is_raised_at_its_yield,
    a_call_reads_inside_the_transaction_it_interrupts,
    nothing_of_others_runs_during_a_call,
    many_runs_once_for_each,
    observers_see_every_statement,
    values_round_trip,
    refused_writes_name_the_constraint,
    values_that_cannot_be_stored_are_invalid,
    a_broken_statement_is_a_defect,
    concurrent_writers_lose_nothing,
    a_read_never_sees_what_is_not_committed,
    waiting_ends_with_an_error_that_names_the_holder,
    cancellation_leaves_nothing_open,
    cancellation_at_any_step_leaves_nothing_open,
    queued_work_can_be_cancelled,
    *LIFE_CASES,
)
SHARED_CASES: tuple[Case, ...] = (a_second_driver_sees_what_was_committed, watching_hears_of_other_processes)
