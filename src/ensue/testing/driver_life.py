"""What every database driver must do when it is opened, closed and cut; a part of `driver_conformance`.

Decides when a driver lives and how it ends. Leaves what it does meanwhile to `driver_conformance`. Invariant: as there.
"""

import asyncio
from collections.abc import Generator
from typing import Any

from ensue.errors import EnsueError, Unavailable, UsageError
from ensue.store.driver import Driver, Session
from ensue.store.statement import Call, Request, Run, Statement
from ensue.testing.driver_workbench import Case, Factory, Tables, do, numbers, opened, raises

END_SECONDS = 30.0


async def a_closed_driver_refuses_and_opens_again(factory: Factory) -> None:
    driver = factory()
    tables = Tables(driver)
    for _ in range(2):
        await raises(Unavailable, driver.read(do((tables.all, ()))))
        await raises(Unavailable, driver.write(do((tables.all, ()))))
        await driver.open()
        await driver.script(
            [Statement("x.drop", "DROP TABLE IF EXISTS x"), Statement("x.create", "CREATE TABLE x (n int)")]
        )
        await driver.close()
        await driver.close()


async def closing_waits_for_what_runs(factory: Factory) -> None:
    async with opened(factory) as (driver, tables):

        async def pausing(_: Session) -> None:
            await asyncio.sleep(0.1)

        def work() -> Generator[Request, Any, str]:
            yield Run(tables.add, (1, 1))
            yield Call(pausing)
            yield Run(tables.add, (1, 1))
            return "done"

        writing = asyncio.create_task(driver.write(work()))
        await asyncio.sleep(0.05)
        await driver.close()
        assert await writing == "done"


async def cutting_ends_what_waits(factory: Factory) -> None:
    async with opened(factory) as (driver, tables):
        held = asyncio.Event()

        async def forever(_: Session) -> None:
            held.set()
            await asyncio.Event().wait()

        def work() -> Generator[Request, Any, None]:
            yield Run(tables.add, (1, 1))
            yield Call(forever)

        holding = asyncio.create_task(driver.write(work()))
        await held.wait()
        waiting = asyncio.create_task(driver.write(do((tables.add, (1, 1)))))
        await asyncio.sleep(0.05)
        driver.cut()
        driver.cut()
        async with asyncio.timeout(END_SECONDS):
            await raises(Unavailable, waiting)
            await raises(Unavailable, driver.read(do((tables.all, ()))))
            await raises(Unavailable, driver.write(do((tables.add, (1, 1)))))
            holding.cancel()
            await asyncio.wait([holding])
            await driver.close()
        await driver.open()
        await driver.script([Statement("y.drop", "DROP TABLE IF EXISTS y")])


async def opening_what_is_open_is_refused(factory: Factory) -> None:
    async with opened(factory) as (driver, tables):
        await raises(UsageError, driver.open())
        assert await numbers(driver, tables) == [0]
        assert await raises(EnsueError, _close_inside(driver))


async def _close_inside(driver: Driver) -> None:
    async with driver.transaction():
        await driver.close()


LIFE_CASES: tuple[Case, ...] = (
    a_closed_driver_refuses_and_opens_again,
    closing_waits_for_what_runs,
    cutting_ends_what_waits,
    opening_what_is_open_is_refused,
)
