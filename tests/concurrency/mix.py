"""Random writers on the same few records; also a program, to have them in several processes.

    python -m tests.concurrency.mix --database postgresql://… --writers 4 --calls 50

Everything a writer does may meet what the others do. It may find a comment gone; any other error is one too many.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from ensue import NotFound
from ensue.errors import Conflict
from ensue.store.statement import Work
from tests.concurrency.board import Cancel, Comment, Line, Order, Pay, Post, Tag, User, running

T = TypeVar("T")

USERS, POSTS, TAGS, ORDERS = 3, 3, 2, 2
ACTIONS = {
    "create": 6,
    "create many": 2,
    "update": 6,
    "relative": 2,
    "re-parent": 4,
    "new author": 2,
    "delete": 4,
    "flip": 3,
    "move post": 2,
    "link": 2,
    "bulk": 1,
    "event": 3,
    "say": 1,
}
SEVERAL = "several"
"""Not among the others: transactions of several calls take locks in the order of their calls."""


@dataclass
class Tally:
    """What writers did: `conflicts` are transactions that lost one and were run again."""

    calls: int = 0
    missing: int = 0
    conflicts: int = 0


class CountingDriver:
    """A driver that counts the conflicts that the engine's transactions lose."""

    def __init__(self, driver: Any, tally: Tally) -> None:
        self._driver = driver
        self._tally = tally

    async def write(self, work: Work[T]) -> T:
        try:
            return await self._driver.write(work)
        except Conflict:
            self._tally.conflicts += 1
            raise

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        try:
            async with self._driver.transaction() as session:
                yield session
        except Conflict:
            self._tally.conflicts += 1
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)


async def furnish(run: Any) -> None:
    """The few records that the writers meet on: ids 1, 2, … of each type."""
    store = run.controller.store
    users = await store.create_many([User(id=n + 1, name=f"u{n}", weight=n + 1) for n in range(USERS)])
    await store.create_many([Post(id=n + 1, title=f"p{n}", author=users[n % USERS]) for n in range(POSTS)])
    await store.create_many([Tag(id=n + 1, name=f"t{n}") for n in range(TAGS)])
    await store.create_many([Order(id=n + 1) for n in range(ORDERS)])


class Writer:
    """One of the writers: `calls` random calls, one after the other."""

    def __init__(self, run: Any, rng: random.Random, tally: Tally, *, several: int = 0) -> None:
        self._run = run
        self._store = run.controller.store
        self._random = rng
        self._tally = tally
        self._actions = {**ACTIONS, SEVERAL: several}

    async def go_on(self, calls: int) -> None:
        for _ in range(calls):
            (action,) = self._random.choices(list(self._actions), list(self._actions.values()))
            try:
                await self._act(action)
            except NotFound:
                self._tally.missing += 1
            self._tally.calls += 1

    async def _act(self, action: str) -> None:
        store, pick = self._store, self._random.randint
        match action:
            case "create":
                await store.create(self._comment())
            case "create many":
                await store.create_many([self._comment() for _ in range(4)])
            case "update":
                await store.update(Comment, await self._any_comment(), score=pick(-3, 9))
            case "relative":
                await store.update(Comment, await self._any_comment(), score=Comment.score + 1)
            case "re-parent":
                await store.update(Comment, await self._any_comment(), post=Post.ref(pick(1, POSTS)))
            case "new author":
                await store.update(Comment, await self._any_comment(), author=User.ref(pick(1, USERS)))
            case "delete":
                await store.delete(Comment, await self._any_comment())
            case _:
                await self._act_on_others(action)

    async def _act_on_others(self, action: str) -> None:
        store, pick = self._store, self._random.randint
        match action:
            case "flip":
                await store.update(User, pick(1, USERS), verified=pick(0, 1) == 1, weight=pick(1, 5))
            case "move post":
                await store.update(Post, pick(1, POSTS), author=User.ref(pick(1, USERS)))
            case "link":
                call = store.link if pick(0, 2) else store.unlink
                await call(Post.tags, pick(1, POSTS), pick(1, TAGS))
            case "bulk":
                await store.update_many(Comment, Comment.score < 0, score=pick(0, 9))
            case "event":
                kind = Pay if pick(0, 1) else Cancel
                user, order = User.ref(pick(1, USERS)), Order.ref(pick(1, ORDERS))
                await self._run.controller.dispatch(
                    kind(order=order), user=user, idempotency_key=f"{order.id}-{pick(1, 9)}"
                )
            case "say":
                await store.create_many([Line(channel=str(pick(1, 3))) for _ in range(3)])
            case _:
                await store.run(self._several)

    async def _several(self) -> None:
        """Some of everything in one transaction, in any order, with a read in the middle."""
        for _ in range(2):
            await self._store.create(self._comment())
            await self._store.get(Post, self._random.randint(1, POSTS))
            await self._store.update(User, self._random.randint(1, USERS), verified=self._random.random() < 0.5)

    def _comment(self) -> Comment:
        pick = self._random.randint
        return Comment(score=pick(-3, 9), post=Post.ref(pick(1, POSTS)), author=User.ref(pick(1, USERS)))

    async def _any_comment(self) -> int:
        found = await self._store.find(Comment, fields=[Comment.id], order_by=[Comment.id.desc()], limit=12)
        if not found:
            raise NotFound("there is no comment yet")
        return self._random.choice(found).id


async def write_at_once(run: Any, *, writers: int, calls: int, seed: int, several: int = 0) -> Tally:
    """Have `writers` tasks make `calls` calls each; `several` is the weight of transactions of several calls."""
    tally = Tally()
    run.controller.engine.driver = CountingDriver(run.controller.engine.driver, tally)
    async with asyncio.TaskGroup() as group:
        for number in range(writers):
            group.create_task(Writer(run, random.Random(f"{seed}/{number}"), tally, several=several).go_on(calls))
    return tally


def total(tallies: list[Tally]) -> Tally:
    """The sum of several tallies."""
    summed: Counter[str] = Counter()
    for tally in tallies:
        summed.update(asdict(tally))
    return Tally(**summed)


async def _main(given: argparse.Namespace) -> Tally:
    async with running(given.database) as run:
        return await write_at_once(run, writers=given.writers, calls=given.calls, seed=given.seed)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", required=True)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    print(json.dumps(asdict(asyncio.run(_main(parser.parse_args())))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
