"""What the conformance cases of drivers work with: tables, statements in the driver's dialect, and short forms.

Decides the schema that the cases share. Leaves what is to be shown to `driver_conformance.py`. Invariant: a driver
opened here is closed when the case ends, however it ends.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from ensue.store.driver import Driver
from ensue.store.statement import Request, Run, Statement

WAIT_SECONDS = 20.0
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
TASKS_MAX = 24


class Factory(Protocol):
    """Makes drivers, not yet open, for one database."""

    def __call__(self, *, wait_seconds: float = WAIT_SECONDS) -> Driver: ...


Case = Callable[[Factory], Awaitable[None]]


class Boom(Exception):
    """Raised by the cases where the work of an application would fail."""


class Tables:
    """The statements of the cases in the driver's dialect."""

    def __init__(self, driver: Driver) -> None:
        sqlite = driver.dialect == "sqlite"
        big, strict = ("INTEGER", " STRICT") if sqlite else ("bigint", "")
        self.sqlite = sqlite
        self.ddl = [
            Statement("parent.create", f"CREATE TABLE parent (id {big} PRIMARY KEY, n {big} NOT NULL, t text){strict}"),
            Statement(
                "child.create",
                f"CREATE TABLE child (id {big} PRIMARY KEY, parent_id {big} REFERENCES parent (id), a {big}, b {big}, "
                f"UNIQUE (a, b), CONSTRAINT ck_child_positive CHECK (a > 0)){strict}",
            ),
        ]
        self.insert = self.of("parent.insert", "INSERT INTO parent (id, n, t) VALUES (%, %, %)")
        self.child = self.of("child.insert", "INSERT INTO child (id, parent_id, a, b) VALUES (%, %, %, %)")
        self.add = self.of("parent.add", "UPDATE parent SET n = n + % WHERE id = %")
        self.remove = self.of("parent.delete", "DELETE FROM parent WHERE id = %")
        self.all = self.of("parent.all", "SELECT id, n, t FROM parent ORDER BY id", rows=True)
        slow = "SELECT pg_sleep(20)"
        if sqlite:
            slow = (
                "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 3000000) SELECT max(x) FROM c"
            )
        self.slow = self.of("slow", slow, rows=True)

    def of(self, name: str, text: str, *, rows: bool = False) -> Statement:
        """A statement from text with % for each parameter."""
        parts = text.split("%")
        marks = ["?" if self.sqlite else f"${number}" for number in range(1, len(parts))]
        return Statement(name, "".join(part + mark for part, mark in zip(parts, [*marks, ""], strict=True)), rows)


def do(*runs: tuple[Statement, Sequence[Any]]) -> Generator[Request, Any, list[tuple[Any, ...]]]:
    answer: list[tuple[Any, ...]] = []
    for statement, params in runs:
        answer = yield Run(statement, params)
    return answer


def many(statement: Statement, params: Sequence[Sequence[Any]]) -> Generator[Request, Any, None]:
    yield Run(statement, params, many=True)


@asynccontextmanager
async def opened(
    factory: Factory, *, wait_seconds: float = WAIT_SECONDS, rows: int = 1
) -> AsyncGenerator[tuple[Driver, Tables]]:
    driver = factory(wait_seconds=wait_seconds)
    await driver.open()
    try:
        tables = Tables(driver)
        await driver.script(tables.ddl)
        await driver.write(many(tables.insert, [(number, 0, "x") for number in range(1, rows + 1)]))
        yield driver, tables
    finally:
        await driver.close()


async def numbers(driver: Driver, tables: Tables) -> list[int]:
    return [n for _, n, _ in await driver.read(do((tables.all, ())))]


async def raises(kind: type[BaseException], awaitable: Awaitable[Any]) -> Any:
    try:
        result = await awaitable
    except kind as error:
        return error
    raise AssertionError(f"expected {kind.__name__}, found the result {result!r}")
