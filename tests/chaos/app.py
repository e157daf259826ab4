"""The app of the chaos run: the entries of the kill tests, whose changes are told to an outside service and to Redis, and what a
process does with it until it is killed.

Every transaction writes, beside its entries, one `Cause` per change. Invariant: a process never gives up because something outside
is gone; it waits and goes on.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import redis.asyncio

from ensue import App, Effect, Integration, Unavailable, side_effect
from ensue.errors import Rejected
from ensue.store.effect_table import SETTLED, in_list
from ensue.store.statement import Run, Statement, Work
from tests.durability.ledger import Cause, Entry, Put, Shelf

SHELVES = 40
WRITERS = 3
BACKLOG_MAX = 15_000
"""Changes that wait for delivery before writers pause: an outage must not make the run endless."""
PAUSE_SECONDS = 0.02
BATCH_MAX = 12
STREAM = "told"
LEASE_SECONDS = 3.0


class Outside(Integration):
    """Tells the service in three ways and Redis in one."""

    service: str
    redis_url: str

    async def setup(self, controller: Any) -> None:
        del controller
        self.http = await self.enter(httpx2.AsyncClient(base_url=self.service, timeout=5.0), name="http")
        self.redis = await self.enter(redis.asyncio.Redis.from_url(self.redis_url), name="redis")

    @side_effect(Entry, on={"create", "update"}, concurrency=8)
    async def plain(self, effect: Effect[Entry]) -> None:
        await self._post("plain", effect)

    @side_effect(Entry, on={"create", "update"}, concurrency=8)
    async def keyed(self, effect: Effect[Entry]) -> None:
        await self._post("keyed", effect)

    @side_effect(Entry, on={"create", "update"}, order_by=lambda e: e.shelf.id, concurrency=8)
    async def ordered(self, effect: Effect[Entry]) -> None:
        await self._post("ordered", effect)

    @side_effect(Entry, on={"create", "update"}, concurrency=8)
    async def push(self, effect: Effect[Entry]) -> None:
        await self.redis.rpush(STREAM, f"{effect.key}\t{effect.record.token}")

    async def _post(self, sink: str, effect: Effect[Entry]) -> None:
        headers = {"key": effect.key, "order": str(effect.record.shelf.id), "token": effect.record.token}
        answer = await self.http.post(f"/{sink}", headers=headers)
        answer.raise_for_status()


@dataclass(frozen=True)
class Place:
    """Where a process works."""

    database: str
    service: str
    redis_url: str
    log: Path

    def app(self) -> App:
        return App(
            entities=[Shelf, Entry, Cause],
            interactions=[Put],
            integrations={"outside": Outside(service=self.service, redis_url=self.redis_url)},
            database=self.database,
        )


async def live(place: Place, *, name: str, writes: bool, until_done: bool, ready: Callable[[], None]) -> None:
    """Work until killed; with `until_done` until nothing is left to deliver."""
    while True:
        try:
            await _live(place, name=name, writes=writes, until_done=until_done, ready=ready)
        except Unavailable:
            # The database is being restarted, just as this process starts or ends.
            await asyncio.sleep(0.1)
        else:
            return


async def _live(place: Place, *, name: str, writes: bool, until_done: bool, ready: Callable[[], None]) -> None:
    options = {"worker_name": name, "lease_seconds": LEASE_SECONDS, "grace_seconds": 0.5}
    async with place.app().run(**options) as run:
        ready()
        if until_done:
            while await unsettled(run):  # noqa: ASYNC110 - another process may be who settles the last
                await asyncio.sleep(0.2)
        elif writes:
            async with asyncio.TaskGroup() as group:
                for _ in range(WRITERS):
                    group.create_task(_write_on(run))
        else:
            await asyncio.Event().wait()


async def unsettled(run: Any) -> int:
    """How many effects are left."""
    return await run.driver.read(_unsettled())


def _unsettled() -> Work[int]:
    text = f"SELECT count(*) FROM ensue_effect WHERE state NOT IN {in_list(SETTLED)}"
    rows = yield Run(Statement("chaos.unsettled", text, rows=True))
    return rows[0][0]


async def _write_on(run: Any) -> None:
    chance = random.Random(os.urandom(8))
    while True:
        try:
            shelves = [shelf.id for shelf in await run.controller.store.find(Shelf)]
            while True:
                await _write_once(run, chance, shelves)
        except Unavailable:
            await asyncio.sleep(0.1)


async def _write_once(run: Any, chance: random.Random, shelves: list[int]) -> None:
    if chance.random() < 0.05:
        while await unsettled(run) > BACKLOG_MAX:  # noqa: ASYNC110 - told by other processes
            await asyncio.sleep(0.2)
    await asyncio.sleep(chance.random() * PAUSE_SECONDS)
    token = f"{chance.getrandbits(64):016x}"
    shelf = Shelf.ref(chance.choice(shelves))
    if chance.random() < 0.4:
        await _create_many(run, chance, shelves)
        return
    if chance.random() < 0.6:
        try:
            await run.controller.dispatch(Put(shelf=shelf, token=token), idempotency_key=token)
        except Rejected as error:
            raise AssertionError(f"nothing here can be rejected: {error}") from error
        return
    store = run.controller.store
    found = await store.find(Entry, Entry.shelf == shelf, order_by=[Entry.id.desc()], limit=1)
    if not found:
        return

    async def change() -> None:
        await store.update(Entry, found[0].id, token=token, size=Entry.size + 1)
        await store.create(Cause(kind="update", token=token))

    await store.run(change)


async def _create_many(run: Any, chance: random.Random, shelves: list[int]) -> None:
    tokens = [f"{chance.getrandbits(64):016x}" for _ in range(chance.randint(1, BATCH_MAX))]
    store = run.controller.store

    async def create() -> None:
        drafts = [Entry(token=token, shelf=Shelf.ref(chance.choice(shelves)), size=3) for token in tokens]
        await store.create_many(drafts)
        await store.create_many([Cause(kind="create", token=token) for token in tokens])

    await store.run(create)
