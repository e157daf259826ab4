"""What is particular to SQLite: other processes on the same file, damaged files, and endings of every kind."""

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import apsw
import pytest

from ensue.errors import Conflict, InternalError, Unavailable
from ensue.store.drivers.sqlite import SqliteDriver
from ensue.store.statement import Call, Request, Run, Statement
from ensue.store.url import parse_database_url

CREATE = Statement("t.create", "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER NOT NULL) STRICT")
INSERT = Statement("t.insert", "INSERT INTO t (n) VALUES (1)")
COUNT = Statement("t.count", "SELECT count(*) FROM t", rows=True)


def work(*statements: Statement) -> Generator[Request, Any, Any]:
    rows = None
    for statement in statements:
        rows = yield Run(statement)
    return rows


def make(path: Path | str, **options: Any) -> SqliteDriver:
    return SqliteDriver(parse_database_url(f"sqlite:///{path}?synchronous=off"), **options)


async def test_the_file_is_set_up_for_safety(tmp_path: Path) -> None:
    driver = SqliteDriver(parse_database_url(f"sqlite:///{tmp_path}/a.db"))
    await driver.open()
    for run in (driver.write, driver.read):
        for pragma, expected in (("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)):
            assert await run(work(Statement(pragma, f"PRAGMA {pragma}", rows=True))) == [(expected,)]
    with pytest.raises(Unavailable, match="can't be written"):
        await driver.read(work(CREATE))
    await driver.close()


async def test_what_hears_of_commits_may_fail_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    driver, other, heard = make(tmp_path / "a.db", watch_seconds=0.01), make(tmp_path / "a.db"), asyncio.Event()
    calls = 0

    def fail_twice(_: str) -> None:
        nonlocal calls
        calls += 1
        if calls <= 2:
            raise KeyError("payload")
        heard.set()

    await driver.open()
    await driver.script([CREATE])
    await other.open()
    await driver.watch(fail_twice)
    while not heard.is_set():
        await other.write(work(INSERT))
        await asyncio.sleep(0.005)
    await other.close()
    await driver.close()
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("ensue.store", "ERROR")


async def test_another_process_that_writes_is_waited_for(tmp_path: Path) -> None:
    driver = make(tmp_path / "a.db", wait_seconds=0.4)
    await driver.open()
    await driver.script([CREATE])
    other = apsw.Connection(str(tmp_path / "a.db"))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="another process") as caught:
        await driver.write(work(INSERT))
    assert not isinstance(caught.value, Conflict)
    waiting = asyncio.create_task(driver.write(work(INSERT)))
    await asyncio.sleep(0.1)
    other.execute("COMMIT")
    await waiting
    assert await driver.read(work(COUNT)) == [(1,)]
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(driver.write(work(INSERT)))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    other.execute("COMMIT")
    assert await driver.read(work(COUNT)) == [(1,)]
    await driver.close()
    other.close()


async def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database, but long enough to be looked at as one. " * 20)
    for path in (tmp_path / "text.db", tmp_path / "missing" / "a.db"):
        with pytest.raises(Unavailable, match=str(path)) as caught:
            await make(path).open()
        assert not caught.value.retryable


async def test_a_full_disk_is_unavailable(tmp_path: Path) -> None:
    driver = make(tmp_path / "a.db")
    await driver.open()
    await driver.script([CREATE, Statement("limit", "PRAGMA max_page_count = 8", rows=True)])
    filling = Statement(
        "t.fill",
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 20000) "
        "INSERT INTO t (n) SELECT x FROM c",
    )
    with pytest.raises(Unavailable, match="disk is full"):
        await driver.write(work(INSERT, filling))
    await driver.write(work(INSERT))
    assert await driver.read(work(COUNT)) == [(1,)]
    await driver.close()


async def test_functions_are_registered_on_every_connection(tmp_path: Path) -> None:
    driver = make(tmp_path / "a.db", functions={"ensue_upper": str.upper})
    await driver.open()
    call = Statement("upper", "SELECT ensue_upper('ä')", rows=True)
    assert await driver.read(work(call)) == await driver.write(work(call)) == [("Ä",)]
    with pytest.raises(InternalError, match="SELECT ensue_upper"):
        await driver.read(work(Statement("upper", "SELECT ensue_upper(1)", rows=True)))
    await driver.close()


async def test_close_rolls_back_a_transaction_that_does_not_end(tmp_path: Path) -> None:
    driver = make(tmp_path / "a.db", wait_seconds=0.2)
    await driver.open()
    await driver.script([CREATE])

    closed = asyncio.Event()

    async def hold() -> None:
        async with driver.transaction() as session:
            await session.run(work(INSERT))
            await closed.wait()
            await session.run(work(INSERT))

    async def wait() -> None:
        await driver.write(work(INSERT))

    holding, waiting = asyncio.create_task(hold()), asyncio.create_task(wait())
    await asyncio.sleep(0.05)
    await driver.close()
    closed.set()
    for task in (waiting, holding):
        with pytest.raises(Unavailable):
            await task
    await driver.open()
    assert await driver.read(work(COUNT)) == [(0,)]
    await driver.close()


async def test_no_thread_is_left_behind() -> None:
    before = threading.active_count()
    driver = make(":memory:")
    await driver.open()
    assert [thread.name for thread in threading.enumerate() if "ensue" in thread.name] == ["ensue-sqlite-writer"]
    await driver.close()
    assert not [thread.name for thread in threading.enumerate() if "ensue" in thread.name]
    assert threading.active_count() <= before + 1  # asyncio keeps the thread that waited


def test_a_loop_that_dies_in_a_transaction_leaves_it_rolled_back(tmp_path: Path) -> None:
    driver = make(tmp_path / "a.db")

    async def start() -> None:
        await driver.open()
        await driver.script([CREATE])

    def forever() -> Generator[Request, Any, None]:
        yield Run(INSERT)
        yield Call(lambda _: asyncio.Event().wait())

    loop = asyncio.new_event_loop()
    loop.run_until_complete(start())
    coroutine = driver.write(forever())
    task = loop.create_task(coroutine)
    loop.run_until_complete(asyncio.sleep(0.05))
    # What garbage collection does to a task whose loop was abandoned.
    coroutine.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    del task
    gc.collect()

    async def look() -> None:
        assert await asyncio.wait_for(driver.read(work(COUNT)), 5) == [(0,)]
        await asyncio.wait_for(driver.write(work(INSERT)), 5)
        await driver.close()

    asyncio.run(look())


KILLED = """
import asyncio, os, signal, sys
from tests.store.test_sqlite import CREATE, INSERT, make, work
# A process that was started in the background ignores interrupts from the start.
signal.signal(signal.SIGINT, signal.default_int_handler)
async def main():
    driver = make(sys.argv[1])
    await driver.open()
    await driver.script([CREATE])
    await driver.write(work(INSERT))
    async with driver.transaction() as session:
        await session.run(work(INSERT))
        os.kill(os.getpid(), signal.SIGKILL if sys.argv[2] == "kill" else signal.SIGINT)
        await asyncio.sleep(10)
asyncio.run(main())
"""


@pytest.mark.parametrize("ending", ["kill", "interrupt"])
async def test_a_process_that_ends_in_a_transaction(tmp_path: Path, ending: str) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "a.db"), ending]
    finished = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=30, check=False)
    assert finished.returncode == (-9 if ending == "kill" else -2), finished.stderr
    driver = make(tmp_path / "a.db")
    await driver.open()
    assert await driver.read(work(COUNT)) == [(1,)]
    await driver.write(work(INSERT))
    await driver.close()
