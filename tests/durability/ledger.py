"""The app of the kill tests: entries whose changes are told outside, and a ledger of what was committed.

Every transaction writes, beside its entries, one cause per change; the sink is a file that survives whoever appends to it. So
causes and deliveries can be compared afterwards without believing the effect table. Some transactions fail on purpose: what
they wrote must never be told.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensue import (
    App,
    Count,
    Effect,
    Entity,
    Integration,
    Interaction,
    Many,
    One,
    Property,
    Ref,
    Sum,
    Transform,
    side_effect,
)
from ensue.effects import ledger as effect_ledger
from ensue.effects.deliver import Delivery, Polling
from ensue.effects.heartbeat import Rhythm
from ensue.integrations.running.targets import target_of
from ensue.store.url import open_driver

SHELVES = 12
WRITERS = 4
BACKLOG_MAX = 500
LEASE_SECONDS = 0.6
ROLLED_BACK = "rolled back on purpose"


class Shelf(Entity):
    entries = Many(lambda: Entry, inverse="shelf")
    entry_count = Count(entries)
    total = Sum(entries, lambda e: e.size)


class Put(Interaction):
    shelf: Ref[Shelf]
    token: str


class Entry(Entity, derived=Transform(Put, lambda e: {"shelf": e.shelf, "token": e.token, "size": 1})):
    token: Property[str]
    size: Property[int] = Property(default=0)
    shelf: One[Shelf]


class Cause(Entity, derived=Transform(Put, lambda e: {"kind": "create", "token": e.token})):
    """One committed change of an entry: which kind, and the token that its effects carry."""

    kind: Property[str]
    token: Property[str]


class Outside(Integration):
    """Tells a file. The pauses give a kill something to hit: before the line, and between it and the receipt."""

    def __init__(self, sink: Path) -> None:
        self._sink = sink
        self._file = -1
        self.told = 0

    async def setup(self, controller: Any) -> None:
        del controller
        self._file = os.open(self._sink, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    @side_effect(Entry, on={"create", "update", "delete"}, concurrency=8)
    async def tell(self, effect: Effect[Entry]) -> None:
        await self._write("tell", effect)

    @side_effect(Entry, on="create", order_by=lambda e: e.shelf.id, concurrency=8)
    async def tell_in_order(self, effect: Effect[Entry]) -> None:
        await self._write("tell_in_order", effect)

    async def _write(self, name: str, effect: Effect[Entry]) -> None:
        if random.random() < 0.3:
            await asyncio.sleep(random.random() * 0.005)
        digest = hashlib.sha1(effect.json().encode(), usedforsecurity=False).hexdigest()
        line = f"{effect.key}\t{name}\t{effect.event.type}\t{effect.record.token}\t{digest}\n"
        os.write(self._file, line.encode())
        self.told += 1
        if random.random() < 0.3:
            await asyncio.sleep(random.random() * 0.005)


@dataclass(frozen=True)
class Place:
    """Where a life happens."""

    database: str
    directory: Path

    @property
    def sink(self) -> Path:
        return self.directory / "sink"

    @property
    def log(self) -> Path:
        return self.directory / "log"

    def app(self) -> tuple[App, Outside]:
        outside = Outside(self.sink)
        app = App(
            entities=[Shelf, Entry, Cause],
            interactions=[Put],
            integrations={"outside": outside},
            database=self.database,
        )
        return app, outside


@dataclass(frozen=True)
class Life:
    """What a process does until it is killed: write, deliver, or both.

    It ends by itself once it has committed `causes` causes and, if it delivers, nothing is left to deliver. `lasts`: it goes
    on for ever instead.
    """

    place: Place
    writes: bool = True
    delivers: bool = True
    causes: int = 0
    lasts: bool = True

    async def live(self, ready: Callable[[], None]) -> None:
        app, outside = self.place.app()
        async with app.run(deliver=False) as run:
            writing = Writing(run, outside, self)
            if self.delivers:
                delivery = delivery_of(run)
                run.controller.on_commit(lambda commit: delivery.wake() if commit.effects else None)
                await delivery.start()
                ready()
                await writing.go_on()
                await settled(run.driver)
                await delivery.stop()
            else:
                ready()
                await writing.go_on()


def delivery_of(run: Any) -> Delivery:
    """Delivery with leases so short that what a killed process held is taken over soon."""
    return Delivery(
        run.driver,
        {name: target_of(run.model, effect) for name, effect in run.model.effects.items()},
        rhythm=Rhythm(LEASE_SECONDS, LEASE_SECONDS / 3),
        polling=Polling(0.02, 0.1),
        heartbeat_driver=lambda: open_driver(run.app.database),
        watch=run.watch,
    )


async def unsettled(driver: Any) -> int:
    """How many effects are left."""
    counts = await effect_ledger.count_effects(driver)
    return sum(found.count for found in counts if found.state != "done")


async def settled(driver: Any) -> None:
    """Wait until no effect is left."""
    while await unsettled(driver):  # noqa: ASYNC110 - another process may be who settles the last
        await asyncio.sleep(0.05)


class Writing:
    """The writers of one life."""

    def __init__(self, run: Any, outside: Outside, life: Life) -> None:
        self._driver = run.driver
        self._store = run.controller.store
        self._dispatch = run.controller.dispatch
        self._outside = outside
        self._life = life
        self._causes = 0
        self._random = random.Random(os.urandom(8))
        self._shelves: list[int] = []
        self._left_over = 0

    async def go_on(self) -> None:
        """Write until there are enough causes; for ever if the life lasts."""
        if self._life.writes:
            self._shelves = await self._some_shelves()
            self._left_over = await unsettled(self._driver)
            async with asyncio.TaskGroup() as group:
                for number in range(WRITERS):
                    group.create_task(self._write_on(number))
        if self._life.lasts:
            await asyncio.Event().wait()

    async def _some_shelves(self) -> list[int]:
        found = [shelf.id for shelf in await self._store.find(Shelf)]
        if len(found) < SHELVES:
            found += [shelf.id for shelf in await self._store.create_many([Shelf() for _ in range(SHELVES)])]
        return found

    async def _write_on(self, number: int) -> None:
        """One writer has the entries whose ids leave `number`: no two write the same one."""
        mine = await self._store.find(Entry, order_by=[Entry.id.desc()], limit=80)
        own = {entry.id: entry.token for entry in mine if entry.id % WRITERS == number}
        while self._life.lasts or self._causes < self._life.causes:
            while self._life.delivers and self._backlog() > BACKLOG_MAX:  # noqa: ASYNC110 - told by delivery, elsewhere
                await asyncio.sleep(0.005)
            await self._write_once(number, own)

    def _backlog(self) -> int:
        return self._left_over + self._causes - self._outside.told

    async def _write_once(self, number: int, own: dict[int, str]) -> None:
        chance = self._random.random()
        if chance < 0.25 or len(own) < 2:
            await self._create(number, own)
        elif chance < 0.45:
            token = self._token()
            await self._dispatch(Put(shelf=Shelf.ref(self._random.choice(self._shelves)), token=token))
            self._causes += 1
        elif chance < 0.75:
            await self._change(own, fails=False)
        elif chance < 0.8:
            await self._change(own, fails=True)
        else:
            id_ = self._random.choice(list(own))
            token = own.pop(id_)

            async def delete() -> None:
                await self._store.delete(Entry, id_)
                await self._store.create(Cause(kind="delete", token=token))

            await self._store.run(delete)
            self._causes += 1

    async def _create(self, number: int, own: dict[int, str]) -> None:
        tokens = [self._token() for _ in range(self._random.randint(1, 12))]

        async def create() -> list[Entry]:
            shelves = [Shelf.ref(self._random.choice(self._shelves)) for _ in tokens]
            drafts = [Entry(token=token, shelf=shelf, size=3) for token, shelf in zip(tokens, shelves, strict=True)]
            made = await self._store.create_many(drafts)
            await self._store.create_many([Cause(kind="create", token=token) for token in tokens])
            return made

        for entry in await self._store.run(create):
            if entry.id % WRITERS == number:
                own[entry.id] = entry.token
        self._causes += len(tokens)

    async def _change(self, own: dict[int, str], *, fails: bool) -> None:
        ids = self._random.sample(list(own), 2)
        tokens = {id_: self._token() for id_ in ids}

        async def change() -> None:
            for id_, token in tokens.items():
                shelf = Shelf.ref(self._random.choice(self._shelves))
                await self._store.update(Entry, id_, token=token, shelf=shelf, size=Entry.size + 1)
            await self._store.create_many([Cause(kind="update", token=token) for token in tokens.values()])
            if fails:
                raise RuntimeError(ROLLED_BACK)

        try:
            await self._store.run(change)
        except RuntimeError as error:
            if str(error) != ROLLED_BACK:
                raise
            return
        own.update(tokens)
        self._causes += len(tokens)

    def _token(self) -> str:
        return f"{self._random.getrandbits(64):016x}"
