"""An app is left in time although its database says nothing, and what it could not finish is finished by the next."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import Any

import pytest

from ensue import App, Count, DeclarationError, Effect, Entity, Integration, Many, One, Property, Transform, side_effect
from ensue import app as composition
from ensue.errors import Unavailable
from ensue.store.drivers import postgres
from ensue.testing import FaultProxy

GRACE_SECONDS = 0.5
WAIT_SECONDS = 30.0


class Note(Entity):
    text: Property[str]


class Post(Integration):
    """Posts notes; those that were posted are in `sent`."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.called = asyncio.Event()
        self.goes_on = asyncio.Event()

    @side_effect(Note, on="create")
    async def send(self, effect: Effect[Any]) -> None:
        self.called.set()
        await self.goes_on.wait()
        self.sent.append(effect.key)


def app(post: Post) -> App:
    return App(entities=[Note], integrations={"post": post})


async def test_it_is_left_while_the_database_is_silent(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composition, "CUT_SECONDS", 0.5)
    monkeypatch.setattr(postgres, "ROLLBACK_SECONDS", 0.5)
    before = asyncio.all_tasks()
    async with FaultProxy(postgres_url) as proxy:
        post = Post()
        run = app(post).run(database=proxy.url, lease_seconds=1.5, grace_seconds=GRACE_SECONDS)
        await run.__aenter__()
        store = run.controller.store
        await store.create(Note(text="a"))
        async with asyncio.timeout(WAIT_SECONDS):
            await post.called.wait()
        proxy.black_hole()

        # Nobody ends these: a task of the application's that writes, and one with a transaction open.
        async def hold() -> None:
            async with store.transaction():
                await store.create(Note(text="c"))

        others = [asyncio.create_task(store.create(Note(text="b"))), asyncio.create_task(hold())]
        await asyncio.sleep(0.1)
        post.goes_on.set()
        began = time.monotonic()
        async with asyncio.timeout(WAIT_SECONDS):
            await run.__aexit__(None, None, None)
            spent = time.monotonic() - began
            for other in others:
                with contextlib.suppress(Unavailable):
                    await other
        assert spent < GRACE_SECONDS + composition.STOP_SECONDS
        assert all(other.exception() for other in others)
        assert [name for task in asyncio.all_tasks() - before if (name := task.get_name()).startswith("ensue.")] == []
    assert len(post.sent) == 1
    end = time.monotonic() + WAIT_SECONDS
    while any(thread.name.startswith("ensue.") for thread in threading.enumerate()):
        assert time.monotonic() < end
        await asyncio.sleep(0.05)
    # Its end could not be written, so that it is sent again, under the same key.
    again = Post()
    again.goes_on.set()
    async with app(again).run(database=postgres_url) as run, asyncio.timeout(WAIT_SECONDS):
        while not again.sent:  # noqa: ASYNC110 - the other side of a database
            await asyncio.sleep(0.05)
        assert await run.controller.store.count(Note) == 1
    assert again.sent == post.sent


async def test_a_start_that_fails_is_undone_while_the_database_is_silent(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(composition, "CUT_SECONDS", 0.5)
    async with FaultProxy(postgres_url) as proxy:

        class Eager(Integration):
            async def setup(self, controller: Any) -> None:
                # What it leaves behind waits for the database.
                self.left = asyncio.create_task(controller.store.create(Note(text="a")))
                proxy.black_hole()
                await asyncio.sleep(0.1)
                raise LookupError("no")

        eager = Eager()
        async with asyncio.timeout(WAIT_SECONDS):
            with pytest.raises(LookupError):
                await (
                    App(entities=[Note], integrations={"eager": eager})
                    .run(database=proxy.url, grace_seconds=GRACE_SECONDS)
                    .__aenter__()
                )
            with pytest.raises(Unavailable):
                await eager.left


class Source(Entity):
    name: Property[str]
    copies = Many(lambda: Copy, inverse="of")
    copied = Count(copies)


class Copy(Entity, derived=Transform(lambda: Source, compute=lambda source: {"of": source})):
    of: One[Source]


async def test_a_start_that_fails_before_the_database_is_opened_leaves_no_limit_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(composition, "CUT_SECONDS", 0.0)
    with pytest.raises(DeclarationError, match="depends on itself"):
        async with App(entities=[Copy]).run(database="sqlite:///:memory:", grace_seconds=0.0):
            pass
    await asyncio.sleep(0.01)
    assert "takes too long" not in caplog.text
