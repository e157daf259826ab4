"""The conformance suite of drivers, on each driver that ensue brings."""

from pathlib import Path

import pytest

from ensue.store.driver import Driver
from ensue.store.drivers.postgres import PostgresDriver
from ensue.store.drivers.sqlite import SqliteDriver
from ensue.store.url import parse_database_url
from ensue.testing.driver_conformance import CASES, SHARED_CASES
from ensue.testing.driver_workbench import WAIT_SECONDS, Case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_sqlite_in_memory(case: Case) -> None:
    def factory(*, wait_seconds: float = WAIT_SECONDS) -> Driver:
        return SqliteDriver(parse_database_url("sqlite:///:memory:"), wait_seconds=wait_seconds)

    await case(factory)


@pytest.mark.parametrize("case", CASES + SHARED_CASES, ids=lambda case: case.__name__)
async def test_sqlite_file(case: Case, tmp_path: Path) -> None:
    def factory(*, wait_seconds: float = WAIT_SECONDS) -> Driver:
        url = parse_database_url(f"sqlite:///{tmp_path}/app.db?synchronous=normal")
        return SqliteDriver(url, wait_seconds=wait_seconds, watch_seconds=0.02)

    await case(factory)


@pytest.mark.parametrize("case", CASES + SHARED_CASES, ids=lambda case: case.__name__)
async def test_postgres(case: Case, postgres_url: str) -> None:
    def factory(*, wait_seconds: float = WAIT_SECONDS) -> Driver:
        return PostgresDriver(parse_database_url(f"{postgres_url}?pool=4"), wait_seconds=wait_seconds)

    await case(factory)
