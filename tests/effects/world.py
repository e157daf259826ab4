"""A database with the system tables, effects in it, and workers on it.

Decides how tests of delivery enqueue (the way the engine does), look at the table, and run workers with short leases.
Invariant: every worker has a driver of its own, as every process would.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from random import Random
from typing import Any, Self

from sqlalchemy import MetaData
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from ensue.effects.deliver import Delivery, Polling
from ensue.effects.heartbeat import Rhythm
from ensue.effects.outbox import (
    Claim,
    Gate,
    Move,
    Outcome,
    Rescued,
    Served,
    Turn,
    Want,
    claim,
    first_after,
    micros,
    release,
    rescue,
    settle,
)
from ensue.effects.target import EffectRow, Handling
from ensue.store.driver import Driver
from ensue.store.effect_table import (
    NewEffect,
    allot_params,
    allot_statement,
    effect_key,
    enqueue_params,
    enqueue_statement,
    notify_statement,
    order_key_of,
)
from ensue.store.retry import with_retry
from ensue.store.statement import Run, Statement, Work
from ensue.store.system_tables import define_system_tables
from ensue.store.url import open_driver

QUICK = Rhythm(lease_seconds=0.45, beat_seconds=0.15)
LONG = Rhythm(lease_seconds=30.0, beat_seconds=8.0)
NAME = "channels.publish"


def ddl(dialect: str) -> list[Statement]:
    """The statements that make the system tables."""
    metadata = MetaData()
    define_system_tables(metadata)
    compiler = sqlite.dialect() if dialect == "sqlite" else postgresql.dialect()
    made = [CreateTable(table) for table in metadata.sorted_tables]
    made += [CreateIndex(index) for table in metadata.sorted_tables for index in table.indexes]
    return [Statement("ddl", str(element.compile(dialect=compiler))) for element in made]


def query(text: str, *params: Any) -> Work[list[Any]]:
    """One statement, as work."""
    return (yield Run(Statement("test", text, rows=True), params))


def enqueue(driver: Driver, effects: Iterable[NewEffect]) -> Work[None]:
    """What the engine does at the end of a transaction."""
    effects = list(effects)
    counts: dict[str, int] = {}
    for effect in effects:
        if effect.order_key is not None:
            counts[effect.order_key] = counts.get(effect.order_key, 0) + 1
    if counts:
        rows = yield Run(allot_statement(driver.dialect), allot_params(counts))
        following = {key: last - counts[key] for key, last in rows}
        for number, effect in enumerate(effects):
            if effect.order_key is not None:
                following[effect.order_key] += 1
                fields = {name: getattr(effect, name) for name in effect.__struct_fields__}
                effects[number] = NewEffect(**{**fields, "position": following[effect.order_key]})
    yield Run(enqueue_statement(driver.dialect), enqueue_params(effects))
    if (notify := notify_statement(driver.dialect)) is not None:
        yield Run(notify, ("",))


class World:
    """One database under test."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._stack = AsyncExitStack()
        self._made = 0
        self.driver: Driver

    async def __aenter__(self) -> Self:
        self.driver = await self.open()
        await self.driver.script(ddl(self.driver.dialect))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def open(self) -> Driver:
        """One more connection to the database, as of another process."""
        driver = open_driver(self.url)
        await driver.open()
        self._stack.push_async_callback(driver.close)
        return driver

    # --- Effects ------------------------------------------------------------------------------------------------------

    def effects(self, count: int = 1, *, name: str = NAME, order: object = None) -> list[NewEffect]:
        """New effects about records that were not used yet; `order` is their value of `order_by=`."""
        made = []
        for _ in range(count):
            self._made += 1
            made.append(
                NewEffect(
                    name=name,
                    key=effect_key(name, "Message", self._made, "create-1"),
                    record="Message",
                    record_id=self._made,
                    payload=f'{{"v":1,"number":{self._made}}}',
                    order_key=None if order is None else order_key_of(name, order),
                    # Allotted by `enqueue`.
                    position=None if order is None else 0,
                )
            )
        return made

    async def enqueue(self, effects: Iterable[NewEffect] | None = None) -> None:
        """Commit `effects` (one by default) in one transaction."""
        await self.driver.write(enqueue(self.driver, self.effects() if effects is None else effects))

    async def rows(self, columns: str = "state") -> list[Any]:
        """The table in order of ids: tuples, or values if only one column is asked for."""
        rows = await self.driver.read(query(f"SELECT {columns} FROM ensue_effect ORDER BY id"))
        return [row[0] for row in rows] if "," not in columns else rows

    async def set(self, assignments: str) -> None:
        """Change all rows behind everyone's back, in no order: those who deliver may have to win first."""
        await with_retry(lambda _: self.driver.write(query(f"UPDATE ensue_effect SET {assignments} RETURNING id")))

    async def until(self, condition: Callable[[], Awaitable[bool] | bool], seconds: float = 10.0) -> None:
        """Wait for `condition`."""
        end = time.monotonic() + seconds
        while True:
            found = condition()
            if (await found) if not isinstance(found, bool) else found:
                return
            assert time.monotonic() < end, f"not within {seconds} s; the table is {await self.rows('id, name, state')}"
            await asyncio.sleep(0.01)

    async def until_all(self, state: str, seconds: float = 10.0) -> None:
        """Wait until every effect is in `state`."""

        async def all_are() -> bool:
            return set(await self.rows()) == {state}

        await self.until(all_are, seconds)

    # --- Workers ------------------------------------------------------------------------------------------------------

    async def claim(self, *, free: int = 10, name: str = NAME, worker: str = "w", lease: float = 30.0) -> list[Claim]:
        """Claim as a worker that never beats."""
        self._made += 1
        want = Want(name, free, name, after=first_after(name))
        turn = Turn([want], [Gate(name)], f"token-{self._made}", worker, micros(lease))
        return list(await self.driver.write(claim(self.driver.dialect, turn)))

    async def settle(self, outcomes: Iterable[Outcome], moves: Iterable[Move] = ()) -> dict[int, str]:
        """Write ends, by hand."""
        return await self.driver.write(settle(self.driver.dialect, list(outcomes), list(moves)))

    async def rescue(self, *served: Served, live_tokens: Iterable[str] = ()) -> tuple[Rescued, ...]:
        """Take back what workers left."""
        return await self.driver.write(rescue(self.driver.dialect, served, list(live_tokens)))

    async def release(self, *tokens: str) -> None:
        """Give back claims that nobody runs."""
        await self.driver.write(release(self.driver.dialect, tokens))

    async def worker(self, handler: Any, *, seed: int = 1, **options: Any) -> Delivery:
        """A worker with a driver of its own, not started; `handler` is one function or targets by name."""
        targets: Mapping[str, Handling] = handler if isinstance(handler, Mapping) else {NAME: Handling(handler)}
        delivery = Delivery(
            await self.open(),
            targets,
            **{"rng": Random(seed), "rhythm": LONG, "polling": Polling(0.01, 0.1), **options},
        )
        self._stack.push_async_callback(self._stop, delivery)
        return delivery

    async def running(self, handler: Any, **options: Any) -> Delivery:
        """A worker that runs."""
        delivery = await self.worker(handler, **options)
        await delivery.start()
        return delivery

    async def _stop(self, delivery: Delivery) -> None:
        await delivery.stop(grace_seconds=0)


class Recorder:
    """A handler that notes what it was given; `fail` says, per row, what to raise instead of succeeding."""

    def __init__(
        self, fail: Callable[[EffectRow], BaseException | None] = lambda _row: None, seconds: float = 0
    ) -> None:
        self.rows: list[EffectRow] = []
        self.fail = fail
        self.seconds = seconds

    @property
    def numbers(self) -> list[int]:
        return [row.record_id for row in self.rows]

    async def __call__(self, row: EffectRow) -> None:
        self.rows.append(row)
        if self.seconds:
            await asyncio.sleep(self.seconds)
        if (error := self.fail(row)) is not None:
            raise error
