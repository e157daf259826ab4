"""A database with the blog in it and an app that runs on it; the seed that every database of a run begins with.

Decides what is there before the first measurement. Both sides of a comparison are seeded the same way, by ensue, and the
hand-written side then works through the driver of its app. Invariant: `audit` holds the stored data to the declarations.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from benchmarks import blog
from benchmarks.handwritten import Handwritten
from ensue import Integration
from ensue.app import App
from ensue.engine.audit import audit, format_report
from ensue.engine.controller import Controller
from ensue.engine.store import Store
from ensue.store.driver import Driver
from ensue.store.statement import Statement
from tests.services import PostgresServer, fresh_database

Database = Literal["sqlite", "memory", "postgresql"]
"""`sqlite` is a file that is synced at each commit; `memory` shows what the processor costs alone."""
CHUNK = 20_000


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is there, and how long is measured."""

    users: int = 500
    posts: int = 200
    comments: int = 2_000
    orders: int = 50
    rounds: int = 11
    seconds: float = 0.3
    bulk: int = 10_000
    longest: int = 100_000


QUICK = Sizes(users=200, posts=100, comments=500, rounds=3, seconds=0.06, longest=10_000)


@dataclass(slots=True)
class Side:
    """One database and the app on it. `users`, `posts`, `orders` are ids; `turns` counts operations of each workload.

    `scores`: whether a new comment may bring its score; it can't where a machine holds it.
    """

    driver: Driver
    controller: Controller
    hand: Handwritten
    random: random.Random = field(default_factory=lambda: random.Random(7))
    users: list[int] = field(default_factory=list[int])
    posts: list[int] = field(default_factory=list[int])
    orders: list[int] = field(default_factory=list[int])
    turns: Counter[str] = field(default_factory=Counter[str])
    scores: bool = True

    @property
    def store(self) -> Store:
        return self.controller.store

    def turn(self, name: str) -> int:
        """How often this was called with that name before."""
        self.turns[name] += 1
        return self.turns[name] - 1

    async def comments(self, count: int, *, posts: list[int] | None = None) -> list[int]:
        """Create comments, unmeasured; returns their ids."""
        ids: list[int] = []
        for start in range(0, count, CHUNK):
            made = [
                blog.Comment(
                    text=f"comment {n}",
                    post=blog.Post.ref(self.random.choice(posts or self.posts)),
                    author=blog.User.ref(self.random.choice(self.users)),
                    **({"score": self.random.randrange(10)} if self.scores else {}),
                )
                for n in range(start, min(count, start + CHUNK))
            ]
            ids.extend(item.id for item in await self.store.create_many(made))
        return ids

    async def audit(self) -> None:
        """Raise unless everything derived equals its definition."""
        report = await audit(self.controller.engine)
        if not report.clean:
            raise AssertionError(format_report(report))

    @asynccontextmanager
    async def counting(self) -> AsyncGenerator[Counter[str]]:
        """The statements that run meanwhile, by name; a parameter tuple of a repeated one counts as one."""
        found: Counter[str] = Counter()

        def observe(statement: Statement, count: int) -> None:
            found[statement.name] += count

        self.driver.observers.append(observe)
        try:
            yield found
        finally:
            self.driver.observers.remove(observe)


async def seed(side: Side, sizes: Sizes) -> None:
    """Users, posts, comments and orders, the same on every side."""
    store = side.store
    users = [
        blog.User(name=f"user {n}", email=f"user{n}@blog.example", verified=n % 2 == 0) for n in range(sizes.users)
    ]
    side.users = [user.id for user in await store.create_many(users)]
    posts = [
        blog.Post(title=f"post {n}", author=blog.User.ref(side.random.choice(side.users))) for n in range(sizes.posts)
    ]
    side.posts = [post.id for post in await store.create_many(posts)]
    await side.comments(sizes.comments)
    orders = await store.create_many([blog.Order(total=n) for n in range(sizes.orders)])
    side.orders = [order.id for order in orders]


class Databases:
    """Where fresh databases come from; a context manager that removes them all."""

    def __init__(self, kind: Database) -> None:
        self.kind: Database = kind
        self._stack = ExitStack()
        self._server = ""
        self._count = 0

    def __enter__(self) -> Databases:
        if self.kind == "postgresql":
            given = os.environ.get(PostgresServer.override)
            self._server = given or self._stack.enter_context(PostgresServer()).url
        elif self.kind == "sqlite":
            self._server = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="ensue-bench-"))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def fresh(self, *, pool: int = 10) -> AbstractContextManager[str]:
        """The URL of an empty database."""
        stack = ExitStack()
        self._count += 1
        match self.kind:
            case "postgresql":
                url = f"{stack.enter_context(fresh_database(self._server))}?pool={pool}"
            case "sqlite":
                url = f"sqlite:///{self._server}/{self._count}.db?synchronous=full"
            case "memory":
                url = "sqlite:///:memory:"
        return _Given(stack, url)

    @asynccontextmanager
    async def side(
        self, sizes: Sizes, *, integrations: Callable[[], Mapping[str, Integration]] = dict, pool: int = 10
    ) -> AsyncGenerator[Side]:
        """A seeded database with an app running on it that delivers nothing."""
        with self.fresh(pool=pool) as url:
            members = integrations()
            app = App(**blog.PARTS, integrations=members, database=url)
            async with app.run(deliver=False) as run:
                side = Side(run.driver, run.controller, Handwritten(run.driver.dialect))
                side.scores = not any(isinstance(item, blog.Scored) for item in members.values())
                await seed(side, sizes)
                yield side


class _Given(AbstractContextManager[str]):
    def __init__(self, stack: ExitStack, url: str) -> None:
        self._stack, self._url = stack, url

    def __enter__(self) -> str:
        return self._url

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def timestamp() -> datetime:
    """The present, as a hand-written caller would take it."""
    return datetime.now(UTC)
