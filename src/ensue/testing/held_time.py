"""The database's clock in a test's hand: what is compared with it becomes due when the test's clock says so.

Decides how: on SQLite the function that ensue asks for the time is replaced by one that asks the test's clock; on
PostgreSQL, whose clock can't be replaced, every instant in ensue's own tables is moved, back by the time that passed for
the test and forward by the time that really passed. Leaves the application's own instants alone: these are written and
compared by the app's clock. Invariant: whenever something is delivered, an instant of ensue's tables is as far from the
database's now as the test's clock says; on PostgreSQL but for the time that one delivery takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ensue.clock import ManualClock, to_micros
from ensue.errors import UsageError
from ensue.store.effect_table import STATEMENT_NOW
from ensue.store.statement import Run, Statement, Work

if TYPE_CHECKING:
    from ensue.plan.plan import Plan
    from ensue.store.driver import Driver

_INSTANTS = ("_at", "_until")
_OURS = "ensue_"
_SECOND = 1_000_000


class HeldTime:
    """Holds the database's clock to `clock`; one for each run."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._reached_at = clock.monotonic_seconds()
        self._database_now: int | None = None

    def sql_functions(self) -> dict[str, Callable[..., Any]]:
        """What takes the place of SQLite's own functions."""
        return {"unixepoch": self._unixepoch}

    async def reach_database(self, driver: Driver, plan: Plan) -> None:
        """Let the database know of the time that has passed since the last call; the first begins to count."""
        if driver.dialect != "postgresql":
            return
        passed = round((self._clock.monotonic_seconds() - self._reached_at) * _SECOND)
        self._reached_at = self._clock.monotonic_seconds()
        self._database_now = await driver.write(_moved(_instants(plan), passed, self._database_now))

    async def seconds_to_next_instant(self, driver: Driver, plan: Plan) -> float | None:
        """How long until the next instant that any of ensue's tables names, or None: nothing becomes due before."""
        now = STATEMENT_NOW[driver.dialect] if self._database_now is None else str(self._database_now)
        micros = await driver.read(_next(_instants(plan), now))
        return None if micros is None else micros / _SECOND

    def _unixepoch(self, *modifiers: str) -> float:
        if modifiers != ("subsec",):
            raise UsageError(
                f"unixepoch{modifiers} is asked for on a database whose clock is held by AppHarness, which answers only "
                "unixepoch('subsec')."
            )
        # The half keeps the way through a float, and back to whole microseconds, exact.
        return (to_micros(self._clock.now()) + 0.5) / _SECOND


def _instants(plan: Plan) -> dict[str, list[str]]:
    """The columns of ensue's own tables that hold instants; they are named for it."""
    found = {
        name: [column.name for column in table.columns if column.name.endswith(_INSTANTS)]
        for name, table in plan.metadata.tables.items()
        if name.startswith(_OURS)
    }
    return {name: columns for name, columns in found.items() if columns}


def _moved(instants: dict[str, list[str]], passed: int, before: int | None) -> Work[int]:
    """Move all instants so that `passed` µs have gone by since `before`, the database's now of the last time."""
    rows = yield Run(Statement("harness.now", f"SELECT {STATEMENT_NOW['postgresql']}", rows=True), ())
    now: int = rows[0][0]
    if before is not None:
        for table, columns in instants.items():
            changes = ", ".join(f"{column} = {column} + $1" for column in columns)
            yield Run(Statement(f"harness.move_{table}", f"UPDATE {table} SET {changes}"), (now - before - passed,))
    return now


def _next(instants: dict[str, list[str]], now: str) -> Work[int | None]:
    each = [
        f"SELECT min({column}) AS instant FROM {table} WHERE {column} > {now}"
        for table, columns in instants.items()
        for column in columns
    ]
    text = f"SELECT min(instant) - {now} FROM ({' UNION ALL '.join(each)}) AS instants"
    rows = yield Run(Statement("harness.next_instant", text, rows=True), ())
    return rows[0][0]
