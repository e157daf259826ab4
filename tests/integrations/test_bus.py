"""What every bus must do: in memory, over Redis, and over a Redis Cluster."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

from ensue.clock import SystemClock
from ensue.integrations.channels.bus import Bus, Entry, Limits, Stamp
from ensue.integrations.channels.memory_bus import MemoryExchange
from ensue.integrations.channels.presence import Notice
from ensue.integrations.channels.redis_bus import open_bus

from .channel_app import until

Open = Callable[..., Any]


class Ear:
    """A listener that writes down."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, Stamp | None]] = []

    async def received(self, topic: str, text: str, stamp: Stamp | None) -> None:
        self.heard.append((topic, text, stamp))

    async def reconnected(self) -> None:
        return

    async def restored(self) -> None:
        return

    @property
    def notices(self) -> list[Notice]:
        return [msgspec.json.decode(text, type=Notice) for _, text, stamp in self.heard if stamp is None]


@pytest.fixture
def topic() -> str:
    return f"{uuid.uuid4().hex}:channel:1"


@pytest.fixture(params=["memory", "redis", "cluster"])
async def open_one(request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    """Opens buses that meet each other; limits are those of the first."""
    async with AsyncExitStack() as stack:
        exchange: list[MemoryExchange] = []

        async def open_one(**limits: Any) -> Bus:
            if request.param == "memory":
                exchange[:] = exchange or [MemoryExchange(Limits(**limits))]
                return exchange[0].join()
            url = request.getfixturevalue("redis_url" if request.param == "redis" else "redis_cluster_url")
            return await stack.enter_async_context(open_bus(url, clock=SystemClock(), limits=Limits(**limits)))

        yield open_one


async def listening(bus: Bus, *topics: str) -> Ear:
    ear = Ear()
    await bus.listen(ear, f"{uuid.uuid4().hex}:control")
    await bus.follow(topics)
    return ear


async def test_messages_are_stamped_in_order_and_reach_every_follower(open_one: Open, topic: str) -> None:
    one, other = await open_one(), await open_one()
    ears = [await listening(one, topic), await listening(other, topic)]
    stamps = [await one.append(topic, f"a:{number}", key=f"k{number}") for number in range(3)]
    assert [stamp.offset for stamp in stamps] == [1, 2, 3]
    assert len({stamp.epoch for stamp in stamps}) == 1
    for ear in ears:
        await until(lambda ear=ear: len(ear.heard) == 3)
        assert ear.heard == [(topic, f"a:{number}", stamps[number]) for number in range(3)]
    await other.unfollow([topic])
    await one.append(topic, "b", key="b")
    await until(lambda: len(ears[0].heard) == 4)
    assert len(ears[1].heard) == 3


async def test_a_key_has_one_offset_however_often_and_wherever_it_is_published(open_one: Open, topic: str) -> None:
    one, other = await open_one(), await open_one()
    ear = await listening(one, topic)
    stamps = await asyncio.gather(*(bus.append(topic, "x", key="same") for bus in (one, other) * 10))
    assert {stamp.offset for stamp in stamps} == {1}
    await one.append(topic, "y", key="another")
    await until(lambda: len(ear.heard) >= 2)
    assert [text for _, text, _ in ear.heard] == ["x", "y"]


async def test_the_log_gives_what_came_after(open_one: Open, topic: str) -> None:
    bus = await open_one()
    start = (await bus.tops([topic]))[topic]
    assert start.offset == 0
    assert await bus.since(topic, start, count=10) == (start, (), True)
    for number in range(1, 6):
        await bus.append(topic, f"{number}", key=f"{number}")
    top = Stamp(start.epoch, 5)
    assert (await bus.tops([topic])) == {topic: top}
    page = await bus.since(topic, Stamp(start.epoch, 2), count=2)
    assert page == (top, (Entry(3, "3"), Entry(4, "4")), True)
    assert await bus.since(topic, top, count=2) == (top, (), True)


async def test_what_is_gone_is_told(open_one: Open, topic: str) -> None:
    bus = await open_one(length=3)
    for number in range(1, 6):
        await bus.append(topic, f"{number}", key=f"{number}")
    top = (await bus.tops([topic]))[topic]
    assert (await bus.since(topic, Stamp(top.epoch, 2), count=9)).whole
    for missed in (Stamp(top.epoch, 1), Stamp("another", 4), Stamp(top.epoch, 6)):
        assert await bus.since(topic, missed, count=9) == (top, (), False)


async def test_many_tops_at_once(open_one: Open) -> None:
    bus = await open_one()
    prefix = uuid.uuid4().hex
    topics = [f"{prefix}:channel:{number}" for number in range(250)]
    await bus.append(topics[7], "x", key="x")
    tops = await bus.tops(topics)
    assert {topic: stamp.offset for topic, stamp in tops.items()} == {
        topic: int(topic == topics[7]) for topic in topics
    }


async def test_what_is_only_published_is_in_no_log(open_one: Open, topic: str) -> None:
    bus = await open_one()
    ear = await listening(bus, topic)
    await bus.publish(topic, "p:lain")
    await until(lambda: bool(ear.heard))
    assert ear.heard == [(topic, "p:lain", None)]
    assert (await bus.tops([topic]))[topic].offset == 0


async def test_users_come_and_go(open_one: Open, topic: str) -> None:
    one, other = await open_one(), await open_one()
    ear = await listening(one, topic)
    first = await one.attend(topic, came=[1, 2], gone=[], known=None)
    assert first.users == {1, 2}
    second = await other.attend(topic, came=[2, 3], gone=[], known=first.version)
    assert second == (first.version + 1, None)
    assert (await other.attend(topic, came=[], gone=[2], known=second.version)).version == second.version, "2 is at one"
    third = await one.attend(topic, came=[1], gone=[2], known=None)
    assert third == (second.version + 1, {1, 3})
    await until(lambda: len(ear.notices) == 3)
    base = first.version
    assert ear.notices == [
        Notice(base, joined=[1, 2]),
        Notice(base + 1, joined=[3]),
        Notice(base + 2, left=[2]),
    ]


async def test_who_is_not_named_again_is_gone(open_one: Open, topic: str) -> None:
    one, killed = await open_one(presence_seconds=0.5), await open_one(presence_seconds=0.5)
    ear = await listening(one, topic)
    await killed.attend(topic, came=[1, 2], gone=[], known=None)
    await one.attend(topic, came=[2], gone=[], known=None)
    async with asyncio.timeout(10):
        while (await one.attend(topic, came=[2], gone=[], known=None)).users != {2}:  # noqa: ASYNC110 - asked, not told
            await asyncio.sleep(0.05)
    await until(lambda: any(1 in notice.left for notice in ear.notices))
