"""Whether the app can work: database, delivery of effects, integrations.

Decides what makes an instance unfit (only a database that does not answer) and what is merely reported. Leaves how an
integration is to itself. Invariant: however often it is asked, the database is asked at most once a second, and neither it
nor an integration is waited for longer than two.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ensue.clock import SystemClock
from ensue.store.effect_table import STATEMENT_NOW, WAITING, in_list
from ensue.store.statement import Run, Statement, Work

if TYPE_CHECKING:
    from ensue.app import AppRun

logger = logging.getLogger("ensue.server")

FRESH_SECONDS: Final = 1.0
WAIT_SECONDS: Final = 2.0
COUNTED_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class HealthReport:
    """How the app is. `usable`: requests can be served; `healthy`: and nothing is wrong besides."""

    usable: bool
    healthy: bool
    database: dict[str, Any]
    delivery: dict[str, Any]
    integrations: dict[str, dict[str, Any]]

    def body(self, *, details: bool) -> dict[str, Any]:
        """As JSON; without `details`, which can name hosts, for those who are not known."""
        integrations = self.integrations
        if not details:
            integrations = {name: {"up": item["up"]} for name, item in integrations.items()}
        status = "ok" if self.healthy else "degraded" if self.usable else "down"
        return {"status": status, "database": self.database, "delivery": self.delivery, "integrations": integrations}


class HealthCheck:
    """The health of one run, remembered for a second."""

    def __init__(self, run: AppRun) -> None:
        self._run = run
        self._lag = _lag_statement(run)
        self._stopwatch = SystemClock()
        self._asking = asyncio.Lock()
        self._last: tuple[float, HealthReport] | None = None

    async def report(self) -> HealthReport:
        """How the app is now, or was up to a second ago."""
        async with self._asking:
            now = self._stopwatch.monotonic_seconds()
            if self._last is None or now - self._last[0] > FRESH_SECONDS:
                self._last = (now, await self._ask())
            return self._last[1]

    async def _ask(self) -> HealthReport:
        integrations = {
            name: {"up": item.up, "detail": item.detail, "since": item.since}
            for name, item in (await self._run.health()).items()
        }
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                waiting, lag_micros = await self._run.driver.read(_first_row(self._lag))
        except Exception as error:  # noqa: BLE001  # whatever it is, the answer is that the database doesn't
            logger.warning("the database does not answer: %s", error)
            return HealthReport(
                usable=False, healthy=False, database={"up": False}, delivery={}, integrations=integrations
            )
        delivery = {"waiting": waiting, "lag_seconds": round((lag_micros or 0) / 1_000_000, 3)}
        healthy = all(item["up"] for item in integrations.values())
        return HealthReport(
            usable=True, healthy=healthy, database={"up": True}, delivery=delivery, integrations=integrations
        )


def _lag_statement(run: AppRun) -> Statement:
    now = STATEMENT_NOW[run.driver.dialect]
    text = (
        f"SELECT count(*), {now} - min(available_at) FROM (SELECT available_at FROM ensue_effect WHERE state IN"
        f" {in_list(WAITING)} AND available_at <= {now} ORDER BY available_at LIMIT {COUNTED_MAX}) AS due"
    )
    return Statement("server.health", text, rows=True)


def _first_row(statement: Statement) -> Work[tuple[Any, ...]]:
    return (yield Run(statement))[0]
