"""Channels over a real Redis: across processes, over restarts, and while it is dead."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator

import pytest

from ensue.clock import SystemClock
from ensue.errors import Unavailable
from ensue.integrations.channels.redis_bus import RedisBus
from tests.services import RedisServer

from .channel_app import FakeStore, Process, places, texts, until


@pytest.fixture
def prefix() -> str:
    return uuid.uuid4().hex


async def test_messages_and_memberships_cross_processes(redis_url: str, prefix: str) -> None:
    store = FakeStore({(1, 10)})
    settings = {"redis_url": redis_url, "prefix": prefix}
    async with Process(store, **settings) as one, Process(store, **settings) as other:
        ann, bob = await one.connect(1), await other.connect(2)
        await other.send(10, "first")
        await until(lambda: texts(ann) == ["first"])
        store.rows.add((2, 10))
        await one.changed(2)
        await until(lambda: 10 in places(bob, "joined"))
        await one.send(10, "second")
        await until(lambda: texts(bob) == ["second"])
        store.rows.discard((1, 10))
        await other.changed(1)
        await until(lambda: not one.channels.hub.channels_of(1))
        await one.send(10, "third")
        await until(lambda: texts(bob) == ["second", "third"])
    assert texts(ann) == ["first", "second"]


async def test_a_message_sent_right_after_the_connect_arrives(redis_url: str, prefix: str) -> None:
    store = FakeStore({(user, user) for user in range(1, 31)})
    async with Process(store, redis_url=redis_url, prefix=prefix) as process:
        for user in range(1, 31):
            connection = await process.connect(user)
            await process.send(user, "at once")
            await until(lambda connection=connection: texts(connection) == ["at once"])


async def test_after_a_restart_of_redis_everything_is_followed_again(redis_server: RedisServer) -> None:
    store = FakeStore({(1, 10), (2, 10)})
    async with Process(store, redis_url=redis_server.url) as process:
        ann, bob = await process.connect(1), await process.connect(2)
        await process.send(10, "before")
        await until(lambda: texts(ann) == ["before"])
        redis_server.kill()
        await until(lambda: not process.channels.bus.health().up)
        down = await process.channels.health()
        assert "does not answer" in down.detail
        assert down.since is not None
        with pytest.raises(Unavailable, match=r"does not answer|did not do its part") as caught:
            await process.send(10, "into the void")
        assert 1 <= getattr(caught.value, "retry_after_seconds", 0) <= 60
        # What happens meanwhile: bob leaves the channel, and word of it can't be spread; carol comes.
        store.rows.discard((2, 10))
        store.rows.add((3, 10))
        carol = await process.connect(3)
        assert (await process.channels.health()).since == down.since
        redis_server.start()
        await until(lambda: process.channels.bus.health().up)
        await until(lambda: any(item["type"] == "gap" for item in ann.sent))
        await process.send(10, "after")
        await until(lambda: texts(carol) == ["after"])
        await until(lambda: texts(ann) == ["before", "after"])
    assert texts(bob) == ["before"]
    assert list(places(carol, "gap")) == [10]


async def test_an_app_starts_without_redis_and_finds_it_later(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis_server.stop()
    store = FakeStore({(1, 10)})
    with caplog.at_level(logging.ERROR):
        async with Process(store, redis_url=redis_server.url) as process:
            assert "does not answer" in caplog.text
            assert str(redis_server.port) in caplog.text
            ann = await process.connect(1)
            assert not (await process.channels.health()).up
            redis_server.start()
            await until(lambda: process.channels.bus.health().up)
            await until(lambda: 10 in places(ann, "joined"))
            await process.send(10, "hello")
            await until(lambda: texts(ann) == ["hello"])


async def test_the_database_decides_before_anything_is_followed_again(redis_server: RedisServer) -> None:
    store = FakeStore({(1, 10)})
    async with Process(store, redis_url=redis_server.url) as process:
        ann = await process.connect(1)
        redis_server.kill()
        await until(lambda: not process.channels.bus.health().up)
        store.fail = OSError("database gone too")
        redis_server.start()
        await until(lambda: "database gone too" in process.channels.bus.health().detail)
        assert not process.channels.bus.health().up
        store.fail = None
        await until(lambda: process.channels.bus.health().up)
        await until(lambda: 10 in places(ann, "joined"))


@pytest.fixture
async def silent_server() -> AsyncIterator[str]:
    """A server that takes connections and never answers."""
    writers: list[asyncio.StreamWriter] = []

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.close()


async def test_a_silent_peer_is_found_out_and_can_be_left(silent_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensue.integrations.channels.redis_link.ANSWER_SECONDS_MAX", 0.1)
    monkeypatch.setattr("ensue.integrations.channels.redis_link.PING_AFTER_SECONDS", 0.1)
    async with asyncio.timeout(5), RedisBus(f"{silent_server}", clock=SystemClock()) as bus:
        await until(lambda: not bus.health().up and "does not answer" in bus.health().detail, seconds=2)
        with pytest.raises(Unavailable):
            await bus.publish("t", "x")


async def test_passwords_are_in_no_message(redis_server: RedisServer) -> None:
    url = redis_server.url.replace("redis://", "redis://ann:hunter2@")
    redis_server.stop()
    async with RedisBus(url, clock=SystemClock()) as bus:
        assert "hunter2" not in bus.health().detail
        with pytest.raises(Unavailable) as caught:
            await bus.publish("t", "x")
    assert "hunter2" not in str(caught.value)
