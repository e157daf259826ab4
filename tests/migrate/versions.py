"""Versions of one small application, each made of classes of its own, and databases that one of them made."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Generator
from typing import Any

from ensue.app import App
from ensue.expression.sql import sqlite_functions
from ensue.plan.compile import compile_plan
from ensue.plan.plan import Plan
from ensue.schema.freeze import freeze
from ensue.schema.schema import Schema
from ensue.store.driver import Driver
from ensue.store.statement import Run, Statement
from ensue.store.url import open_driver

Classes = tuple[type[Any], ...]


def app(classes: Classes, url: str, globals_: Classes = ()) -> App:
    """An app of these classes on a database."""
    return App(entities=classes, globals=globals_, database=url)


def compiled(driver: Driver, classes: Classes, globals_: Classes = ()) -> Plan:
    """The plan of these classes."""
    return compile_plan(freeze(Schema.collect(entities=classes, globals=globals_)), driver.dialect)


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[Driver]:
    """A driver on a database."""
    driver = open_driver(url, functions=sqlite_functions())
    await driver.open()
    try:
        yield driver
    finally:
        await driver.close()


async def sql(driver: Driver, text: str) -> list[Any]:
    """The rows of a statement."""

    def work() -> Generator[Run, Any, Any]:
        return (yield Run(Statement("test", text, rows=True)))

    return await driver.write(work())
