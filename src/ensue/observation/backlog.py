"""What waits in the database, as gauges: effects, targets, messages from outside, tasks.

Decides what is asked and how often. Invariants: however often metrics are asked for, the database is asked at most once in
`FRESH_SECONDS`, and not waited for longer than `WAIT_SECONDS`; every question is answered from an index that holds what is
open, up to `COUNTED_MAX` rows of each kind, so that what is done costs nothing, however much of it there is; when the
database does not answer there are no gauges rather than old ones.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from ensue.clock import SystemClock
from ensue.observation import families
from ensue.observation.families import Family
from ensue.store.driver import Dialect, Driver
from ensue.store.effect_table import CLAIMABLE, SETTLED, STATEMENT_NOW, in_list
from ensue.store.statement import Run, Statement, Work

logger = logging.getLogger("ensue.observation")

FRESH_SECONDS: Final = 5.0
WAIT_SECONDS: Final = 2.0
COUNTED_MAX: Final = 10_000
TARGETS_MAX: Final = 1_000
_BREAKER_STATES: Final = ("closed", "open", "half_open")
_SECOND: Final = 1_000_000

Answer = tuple[str, str, str, str, int, int | None]
"""What is counted (`effect`, `dead`, `target`, `inbox`, `failed`, `task`), its name, target and state, how many, how long."""


class Backlog:
    """A collector of the gauges; `refresh` asks the database, a scrape tells what was answered last."""

    def __init__(self, driver: Driver, names: Sequence[str]) -> None:
        self._driver = driver
        self._names = tuple(names)
        self._stopwatch = SystemClock()
        self._asking = asyncio.Lock()
        self._asked_at = float("-inf")
        self._answers: list[Answer] | None = None

    async def refresh(self) -> None:
        """Ask anew if the last answer is old; never raises."""
        async with self._asking:
            if self._stopwatch.monotonic_seconds() - self._asked_at < FRESH_SECONDS:
                return
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    self._answers = await self._driver.read(backlog(self._driver.dialect, self._names))
            except Exception as error:  # noqa: BLE001  # whatever it is, the answer is that the database doesn't
                logger.warning("metrics have nothing from the database: %s", type(error).__name__)
                self._answers = None
            self._asked_at = self._stopwatch.monotonic_seconds()

    def collect(self) -> Iterator[Any]:
        """For the registry."""
        from prometheus_client.core import GaugeMetricFamily

        made = {
            family.name: GaugeMetricFamily(family.name, family.text, labels=family.labels) for family in families.READ
        }

        def add(family: Family, value: float, *labels: str) -> None:
            made[family.name].add_metric(labels, value)

        add(families.DATABASE_UP, float(self._answers is not None))
        if self._answers is not None:
            add(families.DATABASE_AGE, self._stopwatch.monotonic_seconds() - self._asked_at)
            for family, labels, value in _samples(self._answers):
                add(family, value, *labels)
        yield from made.values()


def _samples(answers: Sequence[Answer]) -> Iterator[tuple[Family, tuple[str, ...], float]]:
    longest: dict[tuple[Family, tuple[str, ...]], float] = {}
    for kind, name, target, state, count, age in answers:
        seconds = max(0.0, (age or 0) / _SECOND)
        if kind == "effect":
            yield families.WAITING, (name, target, state), count
            key = families.OLDEST, (name, target)
        elif kind == "inbox":
            yield families.INBOX_WAITING, (name,), count
            key = families.INBOX_LAG, (name,)
        elif kind == "task":
            yield families.TASKS, (name, state), count
            key = families.TASK_LAG, (name,)
        elif kind == "target":
            yield families.PAUSED, (target,), count
            for known in _BREAKER_STATES:
                yield families.BREAKER, (target, known), float(known == state)
            key = families.HELD, (target,)
        else:
            yield (families.DEAD, (name, target), count) if kind == "dead" else (families.INBOX_KEPT, (name,), count)
            continue
        longest[key] = max(longest.get(key, 0.0), seconds)
    for (family, labels), seconds in longest.items():
        yield family, labels, seconds


# --- Asking -----------------------------------------------------------------------------------------------------------


def backlog(dialect: Dialect, names: Sequence[str]) -> Work[list[Answer]]:
    """Everything that is open; of effects those called `names`. One round trip."""
    if dialect == "postgresql":
        return (yield Run(_POSTGRESQL, (msgspec.json.encode(list(names)).decode(),)))
    found: list[Answer] = []
    for name in names:
        found += yield Run(_EFFECTS_SQLITE, (name,))
    found += yield Run(_OTHERS_SQLITE, ())
    return found


def _open(now: str, name: str) -> str:
    """The open effects of one name, each kind from its index."""
    columns = f"e.target, e.state, {now} - coalesce(e.due_at, e.enqueued_at) AS age"
    claimable = f"FROM ensue_effect e WHERE e.name = {name} AND e.state IN {in_list(CLAIMABLE)}"
    parts = (
        f"{claimable} AND e.order_key IS NULL ORDER BY e.available_at",
        f"{claimable} AND e.order_key IS NOT NULL ORDER BY e.available_at",
        f"FROM ensue_effect e WHERE e.name = {name} AND e.state = 'claimed' ORDER BY e.lease_until",
    )
    return " UNION ALL ".join(f"SELECT * FROM (SELECT {columns} {part} LIMIT {COUNTED_MAX}) AS p" for part in parts)


_EFFECT: Final = "CASE WHEN s.target = '' THEN {name} ELSE s.target END"


def _others(now: str, greatest: str) -> str:
    """What is not asked for by name."""
    dead = f"SELECT name, target FROM ensue_effect WHERE state = 'dead' AND state IN {in_list(SETTLED)} LIMIT {COUNTED_MAX}"
    received = (
        f"SELECT endpoint, {now} - received_at AS age FROM ensue_inbox WHERE state = 'received'"
        f" ORDER BY available_at LIMIT {COUNTED_MAX}"
    )
    failed = f"SELECT endpoint FROM ensue_inbox WHERE state = 'failed' ORDER BY id LIMIT {COUNTED_MAX}"
    tasks = (
        f"SELECT integration, phase, {now} - next_at AS late FROM ensue_task_poll WHERE next_at IS NOT NULL"
        f" ORDER BY integration, next_at LIMIT {COUNTED_MAX}"
    )
    nothing = "CAST(NULL AS bigint)"
    held = f"{greatest}(held_until - {now}, 0)"
    targets = f"SELECT * FROM ensue_effect_target LIMIT {TARGETS_MAX}"
    return " UNION ALL ".join(
        (
            f"SELECT 'dead', name, target, '', count(*), {nothing} FROM ({dead}) AS d GROUP BY name, target",
            f"SELECT 'inbox', endpoint, '', '', count(*), max(age) FROM ({received}) AS r GROUP BY endpoint",
            f"SELECT 'failed', endpoint, '', '', count(*), {nothing} FROM ({failed}) AS f GROUP BY endpoint",
            f"SELECT 'task', integration, '', phase, count(*), max(late) FROM ({tasks}) AS t GROUP BY integration, phase",
            f"SELECT 'target', '', target, breaker_state, paused, {held} FROM ({targets}) AS g",
        )
    )


def _effects(name: str, source: str) -> str:
    target = _EFFECT.format(name=name)
    return (
        f"SELECT 'effect', {name}, {target}, s.state, count(*), max(s.age) FROM {source}"
        f" GROUP BY {name}, {target}, s.state"
    )


_NOW_SQLITE: Final = STATEMENT_NOW["sqlite"]
_NOW_POSTGRESQL: Final = STATEMENT_NOW["postgresql"]
_EFFECTS_SQLITE: Final = Statement("metrics.effects", _effects("?1", f"({_open(_NOW_SQLITE, '?1')}) AS s"), rows=True)
_OTHERS_SQLITE: Final = Statement("metrics.others", _others(_NOW_SQLITE, "max"), rows=True)
_POSTGRESQL: Final = Statement(
    "metrics.backlog",
    _effects(
        "n.name",
        "json_array_elements_text($1::text::json) AS n(name)"
        f" CROSS JOIN LATERAL ({_open(_NOW_POSTGRESQL, 'n.name')}) AS s",
    )
    + " UNION ALL "
    + _others(_NOW_POSTGRESQL, "greatest"),
    rows=True,
)
