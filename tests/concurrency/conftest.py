"""The stage of the schedules: one run of the board app on a PostgreSQL database, with actors that stop where they are told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest_asyncio

from tests.concurrency.board import Comment, Post, Tag, User, assert_true, running
from tests.concurrency.stage import Actor, Stage, Stop, open_stage


@dataclass
class Board:
    """A small board: two authors, of whom only the second is trusted, with a post each; and who acts on it."""

    run: Any
    stage: Stage
    ann: User
    bob: User
    first: Post
    second: Post
    tag: Tag

    @property
    def store(self) -> Any:
        return self.run.controller.store

    def start(self, name: str, call: Any, *stops: Stop) -> Actor:
        return self.stage.start(name, call, *stops)

    async def comment(self, post: Post | None = None, **values: Any) -> Comment:
        """A comment on the first post by bob, committed."""
        return await self.store.create(self.draft(post, **values))

    def draft(self, post: Post | None = None, **values: Any) -> Comment:
        return Comment(**{"post": post or self.first, "author": self.bob, "score": 5, **values})

    async def post(self, post: Post) -> Any:
        return await self.store.get(Post, post.id)

    async def user(self, user: User) -> Any:
        return await self.store.get(User, user.id)

    async def assert_true(self) -> None:
        await assert_true(self.run)


@pytest_asyncio.fixture
async def board(postgres_url: str) -> AsyncIterator[Board]:
    async with running(postgres_url) as run, open_stage(postgres_url) as stage:
        store = run.controller.store
        ann = await store.create(User(name="ann", weight=2))
        bob = await store.create(User(name="bob", verified=True, weight=3))
        first = await store.create(Post(title="first", author=ann))
        second = await store.create(Post(title="second", author=bob))
        tag = await store.create(Tag(name="tag"))
        stage.attach(run.controller.engine)
        yield Board(run, stage, ann, bob, first, second, tag)
