"""Fixtures for every test: real servers on free ports, started when first asked for, one of each per test process.

Decides what is shared and what is private: the servers behind `postgres_url`, `redis_url` and `database_url` are shared
by the tests of one process, each test getting a database or an empty keyspace of its own; `postgres_server` and
`redis_server` are private to one test, which may stop, kill and start them. A server that cannot start fails the tests
that asked for it, with the reason: a skipped test would look like a passed one.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import hypothesis
import pytest

from ensue.server.logs import QUIET
from tests.redis_cluster import cluster_url
from tests.services import Databases, PostgresServer, RedisServer, empty_redis
from tests.services_nats import NatsServer
from tests.services_s3 import S3Server
from tests.services_temporal import TemporalServer

if sys.dont_write_bytecode and sys.pycache_prefix is None:
    # Tests start programs by the dozen, and each would compile everything anew, which takes longer than most of them run. What
    # is kept goes beside the installed packages, not into the tree, which is what whoever forbids it wants to keep clean.
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(Path(sys.prefix) / "bytecode")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix

# The same examples on every run and machine; `pytest --hypothesis-profile=search` looks for new ones.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.register_profile("search", deadline=None, max_examples=2_000, print_blob=True)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def kept_logging() -> Iterator[None]:
    """Puts back what `log_to`, and with it a command in this process, changes for all that comes after."""
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    loggers = [logging.getLogger(name) for name in (*QUIET, "uvicorn", "uvicorn.error", "uvicorn.access")]
    levels = [logger.level for logger in loggers]
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for logger, before in zip(loggers, levels, strict=True):
        logger.setLevel(before)


@pytest.fixture(scope="session")
def shared_postgres_url() -> Iterator[str]:
    """The administrator's URL of the PostgreSQL that tests share; take `postgres_url` for a database of your own."""
    if url := os.environ.get(PostgresServer.override):
        yield url
        return
    # Nothing here outlives a power cut, and nobody stops this one.
    with PostgresServer(settings={"fsync": "off", "full_page_writes": "off"}) as server:
        yield server.url


@pytest.fixture(scope="session")
def postgres_databases(shared_postgres_url: str) -> Iterator[Databases]:
    """For fixtures that outlive a test; take `postgres_url` for one database of your own."""
    databases = Databases(shared_postgres_url)
    yield databases
    databases.close()


@pytest.fixture(scope="session")
def shared_redis_url(worker_number: int) -> Iterator[str]:
    """The Redis that tests share; take `redis_url` to have it empty."""
    if url := os.environ.get(RedisServer.override):
        # Worker n takes the n-th database after the one named, so that workers do not empty each other's.
        parts = urlsplit(url)
        first = int(parts.path.strip("/") or 0)
        yield urlunsplit(parts._replace(path=f"/{first + worker_number}"))
        return
    with RedisServer() as server:
        yield server.url


@pytest.fixture(scope="session")
def worker_number() -> int:
    """0 in the first, or the only, test process."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


@pytest.fixture
def postgres_url(postgres_databases: Databases) -> Iterator[str]:
    """An empty PostgreSQL database, emptied after the test."""
    with postgres_databases.fresh() as url:
        yield url


@pytest.fixture
def redis_url(shared_redis_url: str) -> str:
    """A Redis without keys. Channels are not cleared away: take names of your own for them."""
    empty_redis(shared_redis_url)
    return shared_redis_url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A SQLite file that does not exist yet; without fsync, as no test outlives a power cut."""
    return f"sqlite:///{tmp_path / 'x.db'}?synchronous=off"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A fresh, empty database of each kind in turn."""
    # Asked for by name, so that the tests on SQLite do not start PostgreSQL.
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL of this test's own, to `stop()`, `kill()` and `start()` on the same port with the same data."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A Redis of this test's own, to `stop()`, `kill()` and `start()` on the same port; it forgets its data."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    """The S3 server that tests share, as `http://key:secret@host:port`; make a bucket of your own."""
    if url := os.environ.get(S3Server.override):
        yield url
        return
    with S3Server() as server:
        yield server.url


@pytest.fixture(scope="session")
def temporal_address() -> Iterator[str]:
    """The Temporal server that tests share, as `host:port`; take ids of your own for workflows."""
    if address := os.environ.get(TemporalServer.override):
        yield address
        return
    with TemporalServer() as server:
        yield server.url
        # Its own way down takes a second and more, and nothing of it is wanted any more.
        server.kill()


@pytest.fixture
def temporal_server() -> Iterator[TemporalServer]:
    """A Temporal of this test's own, to `stop()`, `kill()` and `start()` on the same port with the same workflows."""
    with TemporalServer() as server:
        yield server
        server.kill()


@pytest.fixture(scope="session")
def redis_cluster_url() -> Iterator[str]:
    """A Redis Cluster that tests share; take names of your own."""
    with cluster_url() as url:
        yield url


@pytest.fixture(scope="session")
def nats_url() -> Iterator[str]:
    """The NATS server, with JetStream, that tests share; take names of your own for streams and subjects."""
    if url := os.environ.get(NatsServer.override):
        yield url
        return
    with NatsServer() as server:
        yield server.url


@pytest.fixture
def nats_server() -> Iterator[NatsServer]:
    """A NATS of this test's own, to `stop()`, `kill()` and `start()` on the same port with the same streams."""
    with NatsServer() as server:
        yield server
