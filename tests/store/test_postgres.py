"""What is particular to PostgreSQL: connections that break, servers that go, conflicts between transactions."""

import asyncio
import logging
import socket
import sys
from collections.abc import Generator, Sequence
from typing import Any

import pytest

from ensue.errors import Conflict, DeclarationError, InvalidValue, Unavailable
from ensue.store.driver import Driver
from ensue.store.drivers import postgres, postgres_connect, postgres_listen
from ensue.store.retry import LOST_BEFORE_LINE, stand_in_line, with_retry
from ensue.store.statement import Request, Run, Statement
from ensue.store.url import open_driver, parse_database_url
from ensue.testing import FaultProxy
from tests.services import PostgresServer

CREATE = Statement("t.create", "CREATE TABLE t (id bigint PRIMARY KEY, n bigint NOT NULL)")
ROWS = Statement("t.rows", "INSERT INTO t VALUES (1, 0), (2, 0)")
ADD = Statement("t.add", "UPDATE t SET n = n + 1 WHERE id = $1")
ALL = Statement("t.all", "SELECT n FROM t ORDER BY id", rows=True)
KILL = Statement(
    "kill",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> $1",
    rows=True,
)
WAIT_SECONDS = 10.0
ALL_PIDS = Statement("pids", "SELECT pg_backend_pid(), pg_sleep(0.05)", rows=True)
PID = Statement("pid", "SELECT pg_backend_pid()", rows=True)


def work(statement: Statement, params: Sequence[Any] = ()) -> Generator[Request, Any, Any]:
    return (yield Run(statement, params))


async def opened(url: str) -> Driver:
    driver = open_driver(url)
    await driver.open()
    return driver


async def kill_others(driver: Driver) -> None:
    """End every connection to the database but the one that does it."""

    def killing() -> Generator[Request, Any, None]:
        ((pid,),) = yield Run(PID)
        yield Run(KILL, (pid,))

    await driver.read(killing())


async def test_killed_connections_are_replaced(postgres_url: str) -> None:
    driver, killer = await opened(postgres_url), await opened(postgres_url)
    await driver.script([CREATE, ROWS])

    async def killed_in_the_middle(then: int) -> None:
        async with driver.transaction() as session:
            await session.run(work(ADD, (1,)))
            await kill_others(killer)
            for _ in range(then):
                await session.run(work(ADD, (1,)))

    with pytest.raises(Unavailable) as caught:
        await killed_in_the_middle(1)
    assert caught.value.retryable
    with pytest.raises(Unavailable, match="not known") as caught:
        await killed_in_the_middle(0)
    assert not caught.value.retryable
    slow = asyncio.create_task(driver.write(work(Statement("slow", "SELECT pg_sleep(20)", rows=True))))
    await asyncio.sleep(0.2)
    await kill_others(killer)
    with pytest.raises(Unavailable):
        await slow
    for _ in range(3):
        await driver.write(work(ADD, (2,)))
    assert await driver.read(work(ALL)) == [(0,), (3,)]
    await driver.close()
    await killer.close()


async def test_a_server_that_goes_and_comes_back(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ensue.store")
    monkeypatch.setattr(postgres_listen, "PAUSE_MAX_SECONDS", 0.2)
    url = postgres_server.url.replace("ensue@", "ensue:hunter2@")
    driver, heard = await opened(url), asyncio.Event()
    await driver.script([CREATE, ROWS])
    payloads: list[str] = []
    await driver.watch(lambda payload: (payloads.append(payload), heard.set()))
    await asyncio.to_thread(postgres_server.kill)
    for attempt in (driver.read(work(ALL)), driver.write(work(ADD, (1,))), opened(url)):
        with pytest.raises(Unavailable) as caught:
            await attempt
        assert caught.value.retryable
        assert f"127.0.0.1:{postgres_server.port}/postgres" in str(caught.value)
        assert "hunter2" not in str(caught.value)
    await asyncio.to_thread(postgres_server.start)
    await asyncio.wait_for(heard.wait(), 20)
    assert payloads == [""]
    levels = [record.levelname for record in caplog.records if record.name in ("ensue.store", "asyncio")]
    assert levels == ["WARNING", "WARNING", "INFO"], caplog.text
    heard.clear()
    await driver.write(work(ADD, (1,)))
    await driver.read(work(Statement("notify", "SELECT pg_notify('ensue', 'hello')", rows=True)))
    await asyncio.wait_for(heard.wait(), 20)
    assert payloads == ["", "hello"]
    assert await driver.read(work(ALL)) == [(1,), (0,)]
    await driver.close()


async def test_deadlocks_are_conflicts_and_retried(postgres_url: str) -> None:
    driver = await opened(postgres_url)
    await driver.script([CREATE, ROWS])
    met, attempts = asyncio.Barrier(2), 0

    async def transfer(first: int, second: int) -> None:
        nonlocal attempts
        attempts += 1
        async with driver.transaction() as session:
            await session.run(work(ADD, (first,)))
            if attempts <= 2:
                await met.wait()
            await session.run(work(ADD, (second,)))

    results = await asyncio.gather(transfer(1, 2), transfer(2, 1), return_exceptions=True)
    assert sorted(type(result) for result in results if result is not None) == [Conflict]
    attempts = 0
    await asyncio.gather(with_retry(lambda _: transfer(1, 2)), with_retry(lambda _: transfer(2, 1)))
    # Three, unless the one that retries gets into the way of the other again.
    assert attempts >= 3
    assert await driver.read(work(ALL)) == [(3,), (3,)]
    await driver.close()


async def test_changed_tables_do_not_break_cached_statements_for_long(postgres_url: str) -> None:
    driver, other = await opened(f"{postgres_url}?pool=1"), await opened(postgres_url)
    await driver.script([CREATE, ROWS])
    everything = Statement("t.everything", "SELECT * FROM t WHERE id = $1", rows=True)
    assert await driver.write(work(everything, (1,))) == [(1, 0)]
    await other.script([Statement("t.alter", "ALTER TABLE t ADD COLUMN m bigint")])
    assert await with_retry(lambda _: driver.write(work(everything, (1,)))) == [(1, 0, None)]
    await driver.close()
    await other.close()


async def test_sessions_are_set_up_alike(postgres_url: str) -> None:
    driver = await opened(postgres_url)
    for setting, expected in (("transaction_isolation", "read committed"), ("timezone", "UTC")):
        assert await driver.write(work(Statement("show", f"SHOW {setting}", rows=True))) == [(expected,)]
    nul = Statement("jsonb", "SELECT $1::jsonb ->> 'a'", rows=True)
    with pytest.raises(InvalidValue):
        await driver.read(work(nul, ('{"a": "\\u0000"}',)))
    await driver.close()


async def test_an_old_server_is_refused(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "VERSION_MIN", 99)
    with pytest.raises(Unavailable, match="needs 99") as caught:
        await opened(postgres_url)
    assert not caught.value.retryable


async def test_a_missing_database_or_account_is_not_retryable(postgres_url: str) -> None:
    with pytest.raises(Unavailable, match="does not exist") as caught:
        await opened(f"{postgres_url}_missing")
    assert not caught.value.retryable


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    monkeypatch.delitem(sys.modules, "ensue.store.drivers.postgres")
    with pytest.raises(DeclarationError, match=r"ensue\[postgres\]"):
        open_driver(parse_database_url("postgresql://h/d"))


async def test_nothing_floods_the_log_while_the_server_is_down(
    postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    with postgres_server.database() as url:
        driver = await opened(url)
        try:
            postgres_server.kill()
            for _ in range(20):
                with pytest.raises(Unavailable):
                    await driver.read(work(PID))
                await asyncio.sleep(0.01)
        finally:
            postgres_server.start()
            await driver.close()
    assert [record for record in caplog.records if record.name.startswith("asyncpg")] == []


async def test_those_that_lost_often_go_one_at_a_time(postgres_url: str) -> None:
    driver = await opened(postgres_url)
    inside, most = 0, 0

    async def in_line(lost: int) -> None:
        nonlocal inside, most
        async with driver.transaction() as session:
            await session.run(stand_in_line(driver.dialect, lost))
            inside += 1
            most = max(most, inside)
            await session.run(work(Statement("t.wait", "SELECT pg_sleep(0.02)", rows=True)))
            inside -= 1

    await asyncio.gather(*(in_line(LOST_BEFORE_LINE) for _ in range(5)))
    assert most == 1
    await asyncio.gather(*(in_line(LOST_BEFORE_LINE - 1) for _ in range(5)))
    assert most > 1
    await driver.close()


async def test_a_cancelled_transaction_ends_while_the_server_says_nothing(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "ROLLBACK_SECONDS", 0.3)
    async with FaultProxy(postgres_url) as proxy:
        driver = await opened(proxy.url)
        await driver.script([CREATE, ROWS])

        async def in_savepoint() -> None:
            async with driver.transaction() as session, session.savepoint():
                proxy.black_hole()
                async with session.savepoint():
                    raise AssertionError("unreachable")

        async def reading() -> None:
            await driver.read(work(ALL))

        async def writing() -> None:
            await driver.write(work(ADD, (1,)))

        for start in (writing, in_savepoint, reading):
            proxy.heal()
            await driver.read(work(ALL))
            if start is not in_savepoint:
                proxy.black_hole()
            task = asyncio.create_task(start())
            await asyncio.sleep(0.2)
            task.cancel()
            async with asyncio.timeout(WAIT_SECONDS):
                await asyncio.wait([task])
            assert task.cancelled(), (start, task)
        async with asyncio.timeout(WAIT_SECONDS):
            await driver.close()


async def test_cutting_ends_all_waiting_for_a_silent_server(postgres_url: str) -> None:
    async with FaultProxy(postgres_url) as proxy:
        driver = await opened(f"{proxy.url}?pool=2")
        await driver.script([CREATE, ROWS])
        proxy.black_hole()
        # Of two connections the first is at hand; another is being made, and the others wait for one of these.
        waiting = [asyncio.create_task(driver.write(work(ADD, (1,)))) for _ in range(4)]
        await asyncio.sleep(0.2)
        assert not any(task.done() for task in waiting)
        driver.cut()
        async with asyncio.timeout(WAIT_SECONDS):
            assert {type(error) for error in await asyncio.gather(*waiting, return_exceptions=True)} == {Unavailable}
            with pytest.raises(Unavailable):
                await driver.read(work(ALL))
            await driver.close()


async def test_a_server_that_says_nothing_is_not_taken_for_a_pool_that_is_used_up(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_connect, "CONNECT_SECONDS", 0.3)
    async with FaultProxy(postgres_url) as proxy:
        driver = await opened(proxy.url)
        proxy.black_hole()
        first = asyncio.create_task(driver.read(work(ALL_PIDS)))
        # It takes the connection that is at hand.
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match=r"did not answer within 0\.3 s"):
            await driver.read(work(ALL_PIDS))
        driver.cut()
        with pytest.raises(Unavailable):
            await first
        await driver.close()


async def test_closing_does_not_wait_for_a_silent_server(postgres_url: str) -> None:
    async with FaultProxy(postgres_url) as proxy:
        driver = await opened(proxy.url)
        await driver.watch(lambda _: None)
        await asyncio.gather(*(driver.read(work(ALL_PIDS)) for _ in range(5)))
        proxy.black_hole()
        async with asyncio.timeout(WAIT_SECONDS):
            await driver.close()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux names these options so")
async def test_the_system_is_asked_to_notice_that_a_server_is_gone(postgres_url: str) -> None:
    driver = await opened(postgres_url)
    await driver.watch(lambda _: None)
    await driver.read(work(ALL_PIDS))
    assert isinstance(driver, postgres.PostgresDriver)
    found = [connection._transport.get_extra_info("socket") for connection in driver._idle]
    assert found
    for one in found:
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle, pause, count = (
            one.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
            for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
        )
        assert idle + pause * count == postgres_connect.SILENT_SECONDS_MAX
        limit = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        assert limit == postgres_connect.SILENT_SECONDS_MAX * 1000
    await driver.close()


def pinned(number: int) -> Statement:
    """A statement that holds its transaction's lock `number`, which another one waits for."""
    return Statement("lock", f"SELECT pg_advisory_xact_lock({number})", rows=True)


async def wait_for_it(url: str) -> None:
    """For another process: stand in line for lock 1."""
    driver = await opened(url)
    await driver.read(work(pinned(1)))


async def test_what_a_killed_process_waited_for_is_given_up(postgres_url: str) -> None:
    driver = await opened(postgres_url)
    line = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'"
    in_line = Statement("line", line, rows=True)

    async def until(count: int) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while await driver.read(work(in_line)) != [(count,)]:  # noqa: ASYNC110 - the server knows, nobody tells
                await asyncio.sleep(0.02)

    async with driver.transaction() as session:
        await session.run(work(pinned(1)))
        code = f"import asyncio; from {__name__} import wait_for_it as wait; asyncio.run(wait({postgres_url!r}))"
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
        await until(1)
        process.kill()
        await process.wait()
        await until(0)
    await driver.close()


async def test_a_server_that_does_not_look_for_abandoned_statements_is_used_as_it_is(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Statement("shown", f"SELECT current_setting('{postgres_connect.ABANDONED_SETTING}')", rows=True)
    driver = await opened(postgres_url)
    assert await driver.read(work(shown)) == [(f"{postgres_connect.ABANDONED_MILLISECONDS}ms",)]
    await driver.close()
    monkeypatch.setattr(postgres_connect, "ABANDONED_SETTING", "no_such_setting")
    driver = await opened(postgres_url)
    assert await asyncio.gather(*(driver.read(work(shown)) for _ in range(3))) == [[("0",)]] * 3
    await driver.close()
