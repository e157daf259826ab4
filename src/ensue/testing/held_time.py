"""The database's clock in a test's hand: what is compared with it becomes due when the test's clock says so.

Decides which functions of a database ask the test's clock instead: on SQLite the one that ensue asks for the time; on
PostgreSQL, whose functions can't be replaced, the driver writes their answers into the statements. Leaves the
application's own instants alone: these are written and compared by the app's clock. Invariant: no statement of the app
learns of real time. Defaults of columns keep the server's clock on PostgreSQL, so ensue's inserts name their instants.
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

    def sql_functions(self) -> dict[str, Callable[..., Any]]:
        """What takes the place of the databases' own functions."""
        now = self._clock.now
        return {"unixepoch": self._unixepoch, "statement_timestamp": now, "clock_timestamp": now}

    async def seconds_to_next_instant(self, driver: Driver, plan: Plan) -> float | None:
        """How long until the next instant that any of ensue's tables names, or None: nothing becomes due before."""
        micros = await driver.read(_next(_instants(plan), STATEMENT_NOW[driver.dialect]))
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


def _next(instants: dict[str, list[str]], now: str) -> Work[int | None]:
    each = [
        f"SELECT min({column}) AS instant FROM {table} WHERE {column} > {now}"
        for table, columns in instants.items()
        for column in columns
    ]
    text = f"SELECT min(instant) - {now} FROM ({' UNION ALL '.join(each)}) AS instants"
    rows = yield Run(Statement("harness.next_instant", text, rows=True), ())
    return rows[0][0]
