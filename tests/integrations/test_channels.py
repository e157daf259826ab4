"""Channels over a bus in memory: who receives what, as users come and go and memberships change."""

from __future__ import annotations

import asyncio

import pytest

from ensue.errors import DeclarationError
from ensue.integrations.channels.memory_bus import MemoryBus, MemoryExchange
from ensue.integrations.connection import BufferedConnection

from .channel_app import FakeStore, Process, ref, texts, until

MEMORY = "memory://"


async def test_messages_reach_the_members_of_their_channel_only() -> None:
    store = FakeStore({(1, 10), (2, 10), (2, 20)})
    async with Process(store, redis_url=MEMORY) as process:
        ann, bob, anonymous = await process.connect(1), await process.connect(2), await process.connect(None)
        await process.send(10, "to ten")
        await process.send(20, "to twenty")
        await process.send(30, "to nobody")
    assert texts(ann) == ["to ten"]
    assert texts(bob) == ["to ten", "to twenty"]
    assert anonymous.sent == []
    joined, message = ann.sent
    epoch = message["epoch"]
    assert joined == {"type": "joined", "channels": [{"channel": 10, "epoch": epoch, "offset": 0}]}
    assert message == {
        "type": "message",
        "channel": 10,
        "epoch": epoch,
        "offset": 1,
        "key": message["key"],
        "message": {"id": 1, "text": "to ten"},
    }


async def test_processes_share_messages_and_changes_of_membership() -> None:
    store, exchange = FakeStore({(1, 10)}), MemoryExchange()
    async with Process(store, client=exchange.join()) as one, Process(store, client=exchange.join()) as other:
        ann, bob = await one.connect(1), await other.connect(2)
        await other.send(10, "first")
        store.rows.add((2, 10))
        await one.changed(2)
        await until(lambda: other.channels.hub.told(bob) == {10})
        await one.send(10, "second")
        store.rows.discard((1, 10))
        await other.changed(1)
        await until(lambda: not one.channels.hub.channels_of(1))
        await one.send(10, "third")
    assert texts(ann) == ["first", "second"]
    assert texts(bob) == ["second", "third"]


async def test_topics_are_followed_exactly_while_somebody_listens() -> None:
    store, bus = FakeStore({(1, 10), (2, 10)}), MemoryBus()
    async with Process(store, client=bus, prefix="p") as process:
        assert bus.topics == {"p:memberships"}
        ann, second, bob = await process.connect(1), await process.connect(1), await process.connect(2)
        assert bus.topics == {"p:memberships", "p:channel:10"}
        await process.disconnect(ann)
        await process.disconnect(bob)
        assert "p:channel:10" in bus.topics
        await process.send(10, "x")
        await process.disconnect(second)
        assert bus.topics == {"p:memberships"}
    assert texts(ann) == texts(bob) == []
    assert texts(second) == ["x"]


async def test_a_client_that_is_gone_or_slow_does_not_keep_others_from_their_messages() -> None:
    store = FakeStore({(1, 10), (2, 10), (3, 10)})
    async with Process(store, redis_url=MEMORY) as process:
        gone = await process.connect(1)
        gone.closed = True
        slow = BufferedConnection(user=ref(2), messages_max=3)
        await process.handles.websockets.connected(slow)
        ann = await process.connect(3)
        for number in range(10):
            await process.send(10, str(number))
    assert texts(ann) == [str(number) for number in range(10)]
    assert slow.overflowed


async def test_a_client_whose_channels_cannot_be_read_is_refused() -> None:
    store = FakeStore({(1, 10)}, fail=OSError("database gone"))
    async with Process(store, redis_url=MEMORY) as process:
        with pytest.raises(OSError, match="database gone"):
            await process.connect(1)
        assert process.channels.hub.users() == ()
        store.fail = None
        ann = await process.connect(1)
        await process.send(10, "x")
    assert texts(ann) == ["x"]


async def test_word_of_a_change_is_not_lost_while_the_database_is_away() -> None:
    store = FakeStore({(1, 10)})
    async with Process(store, redis_url=MEMORY) as process:
        ann = await process.connect(1)
        store.fail = OSError("database gone")
        store.rows.add((1, 20))
        await process.changed(1)
        await until(lambda: store.reads == 2)
        store.fail = None
        await until(lambda: process.channels.hub.told(ann) == {10, 20})
        await process.send(20, "x")
    assert texts(ann) == ["x"]


async def test_an_older_reading_never_overwrites_a_newer_one() -> None:
    store = FakeStore({(1, 10)})
    async with Process(store, redis_url=MEMORY) as process:
        await process.connect(1)
        store.gate = asyncio.Event()
        await process.changed(1)
        await until(lambda: store.reads == 2)
        store.rows.discard((1, 10))
        await process.changed(1)
        store.gate.set()
        await until(lambda: not process.channels.hub.channels_of(1))
        assert store.reads == 3


async def test_many_clients_that_come_at_once_are_read_in_few_batches() -> None:
    store = FakeStore({(user, 10) for user in range(1, 101)})
    async with Process(store, redis_url=MEMORY) as process:
        connections = await asyncio.gather(*(process.connect(user) for user in range(1, 101)))
        assert store.reads <= 3
        await process.send(10, "x")
    assert all(texts(connection) == ["x"] for connection in connections)


async def test_a_url_that_is_none_is_refused_at_the_start() -> None:
    with pytest.raises(DeclarationError, match=r"channels\.redis_url is not the URL of a Redis"):
        await Process(FakeStore(), redis_url="nonsense").__aenter__()


async def test_settings_that_mean_nothing_are_refused_at_the_start() -> None:
    given = {"history_length": -5, "history_seconds": 0.0, "check_seconds": 0.0, "presence_seconds": float("nan")}
    with pytest.raises(DeclarationError) as raised:
        await Process(FakeStore(), redis_url=MEMORY, **given).__aenter__()
    assert [problem.message for problem in raised.value.problems] == [
        "channels.history_length is -5; expected 1 or more.",
        "channels.history_seconds is 0.0; expected 1 or more.",
        "channels.check_seconds is 0.0; expected 0.05 or more.",
        "channels.presence_seconds is nan; expected 0.5 or more.",
    ]


async def test_health_in_memory_is_up() -> None:
    async with Process(FakeStore(), redis_url=MEMORY) as process:
        assert (await process.channels.health()).up
