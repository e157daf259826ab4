"""Who is on a channel, across processes, as users come, go, and are killed."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from ensue.errors import Rejected
from ensue.integrations.channels.bus import Limits
from ensue.integrations.channels.memory_bus import MemoryBus, MemoryExchange
from ensue.integrations.channels.presence import Presence
from ensue.testing import FakeConnection

from .channel_app import FakeStore, Process, told, until

ON: dict[str, Any] = {"presence": True, "presence_seconds": 0.6}


def seen(connection: FakeConnection, channel: int = 10) -> set[int]:
    """Who a client takes to be there, by what it was told."""
    users: set[int] = set()
    for item in told(connection, "presence"):
        if item["channel"] == channel:
            users = (users | {*item["joined"]}) - {*item["left"]}
    return users


@pytest.fixture(params=["memory", "redis"])
def shared(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings with which two processes meet."""
    if request.param == "redis":
        return {"redis_url": request.getfixturevalue("redis_url"), "prefix": uuid.uuid4().hex, **ON}
    exchange = MemoryExchange(Limits(presence_seconds=0.6))
    return {"exchange": exchange, **ON}


def process(store: FakeStore, shared: dict[str, Any]) -> Process:
    settings = dict(shared)
    exchange = settings.pop("exchange", None)
    return Process(store, client=None if exchange is None else exchange.join(), **settings)


async def test_who_comes_and_goes_is_told_in_all_processes(shared: dict[str, Any]) -> None:
    store = FakeStore({(1, 10), (2, 10), (3, 10), (3, 20)})
    async with process(store, shared) as one, process(store, shared) as other:
        ann, bob = await one.connect(1), await other.connect(2)
        await until(lambda: seen(ann) == seen(bob) == {1, 2})
        eve = await other.connect(3)
        second = await other.connect(3)
        await until(lambda: seen(ann) == {1, 2, 3})
        assert await one.present(1, 10) == [1, 2, 3]
        await until(lambda: seen(eve, 20) == {3})
        assert await one.present(3, 20) == [3]
        await other.disconnect(second)
        store.rows.discard((3, 10))
        await one.changed(3)
        await until(lambda: seen(ann) == {1, 2})
        await other.disconnect(bob)
        await until(lambda: seen(ann) == {1})
        assert seen(eve, 20) == {3}


async def test_a_user_who_only_reconnects_is_no_news() -> None:
    async with Process(FakeStore({(1, 10), (2, 10)}), redis_url="memory://", presence=True) as one:
        ann, bob = await one.connect(1), await one.connect(2)
        await until(lambda: seen(ann) == {1, 2})
        before = len(told(ann, "presence"))
        await one.disconnect(bob)
        await one.connect(2)
        await until(lambda: not one.channels._presence._noted)  # type: ignore[union-attr]
        assert await one.present(1, 10) == [1, 2]
        assert all(item["left"] == [] for item in told(ann, "presence")[before:])


async def test_users_of_a_killed_process_are_gone_after_a_while(shared: dict[str, Any]) -> None:
    store = FakeStore({(1, 10), (2, 10)})
    killed = process(store, shared)
    async with process(store, shared) as one:
        ann = await one.connect(1)
        await killed.__aenter__()
        await killed.connect(2)
        await until(lambda: seen(ann) == {1, 2})
        watched = killed.channels._presence
        assert watched is not None
        assert watched._task is not None
        watched._task.cancel()
        watched._known.clear()
        await until(lambda: seen(ann) == {1})
        await killed.__aexit__()


async def test_a_process_that_ends_says_so(shared: dict[str, Any]) -> None:
    store = FakeStore({(1, 10), (2, 10)})
    async with process(store, {**shared, "presence_seconds": 60}) as one:
        ann = await one.connect(1)
        async with process(store, {**shared, "presence_seconds": 60}) as other:
            await other.connect(2)
            await until(lambda: seen(ann) == {1, 2})
        await until(lambda: seen(ann) == {1})


class Forgetful(MemoryBus):
    """Loses every notice."""

    async def receive(self, topic: str, text: str, stamp: Any) -> None:
        if stamp is not None:
            await super().receive(topic, text, stamp)


async def test_a_lost_notice_is_made_up_for() -> None:
    store, exchange = FakeStore({(1, 10), (2, 10)}), MemoryExchange(Limits(presence_seconds=0.6))
    async with (
        Process(store, client=Forgetful(exchange), **ON) as one,
        Process(store, client=exchange.join(), **ON) as o,
    ):
        ann = await one.connect(1)
        bob = await o.connect(2)
        await until(lambda: seen(ann) == {1, 2})
        await o.disconnect(bob)
        await until(lambda: seen(ann) == {1})


async def test_only_members_ask_and_only_where_it_is_on() -> None:
    store = FakeStore({(1, 10)})
    async with Process(store, redis_url="memory://", **ON) as one:
        with pytest.raises(Rejected, match="not_allowed"):
            await one.present(2, 10)
        assert await one.present(1, 10) == []
    async with Process(store, redis_url="memory://") as one:
        ann = await one.connect(1)
        with pytest.raises(Rejected, match="no_presence"):
            await one.present(1, 10)
    assert told(ann, "presence") == []


async def test_a_listener_that_fails_ends_nothing() -> None:
    heard: list[str] = []

    async def tell(topic: str, joined: frozenset[int], left: frozenset[int]) -> None:
        heard.append(topic)
        if topic == "one":
            raise RuntimeError("a connection of somebody's own")

    async with Presence(MemoryBus(), here=lambda _: frozenset({1}), tell=tell, seconds=60) as presence:
        presence.note(["one"])
        await until(lambda: heard == ["one"])
        presence.note(["other"])
        await until(lambda: heard == ["one", "other"])
