"""An app's schema and plan without a run: nothing is set up or delivered, and the database need not fit.

Decides how tools that only look get at a plan. Leaves runs to `ensue.app`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ensue.expression.sql import sqlite_functions
from ensue.plan.compile import compile_plan
from ensue.store.url import open_driver

if TYPE_CHECKING:
    from ensue.app import App
    from ensue.plan.plan import Plan
    from ensue.store.driver import Driver


async def plan_of(app: App) -> tuple[Plan, Driver]:
    """The plan of `app` for its database, and the driver, not yet opened."""
    driver = open_driver(app.database, functions=sqlite_functions())
    return compile_plan(await app.freeze(), driver.dialect), driver
