"""Clients of channels that come back, and messages that the bus lost on the way to a process."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ensue.integrations.channels.bus import Stamp
from ensue.integrations.channels.memory_bus import MemoryBus, MemoryExchange
from ensue.integrations.channels.words import Position
from ensue.testing import FakeConnection
from tests.services import RedisServer

from .channel_app import FakeStore, Process, places, texts, told, until


class LossyBus(MemoryBus):
    """Loses what comes while `deaf`."""

    deaf = False

    async def receive(self, topic: str, text: str, stamp: Stamp | None) -> None:
        if not (self.deaf and stamp is not None):
            await super().receive(topic, text, stamp)


def place_of(connection: FakeConnection, channel: int = 10) -> Position:
    """How far a client has read: the last message, or where it joined."""
    last = [item for item in told(connection, "message") if item["channel"] == channel]
    return Position(channel, last[-1]["epoch"], last[-1]["offset"]) if last else places(connection)[channel]


def missed(resumed: Any) -> list[str]:
    return [message["message"]["text"] for message in resumed["messages"]]


async def test_who_comes_back_gets_exactly_what_it_missed() -> None:
    async with Process(FakeStore({(1, 10)}), redis_url="memory://") as process:
        before = await process.connect(1)
        await process.send(10, "one")
        await process.disconnect(before)
        for text in ("two", "three"):
            await process.send(10, text)
        after = await process.connect(1)
        await process.send(10, "four")
        [resumed] = await process.resume(1, place_of(before))
    assert places(after)[10].offset == 3
    assert texts(after) == ["four"]
    assert (resumed["recovered"], resumed["more"], resumed["offset"]) == (True, False, 4)
    assert missed(resumed) == ["two", "three", "four"], "with what came between joining and asking, by offset"
    assert resumed["messages"][2] == told(after, "message")[0]


async def test_who_missed_nothing_is_told_so() -> None:
    async with Process(FakeStore({(1, 10)}), redis_url="memory://") as process:
        ann = await process.connect(1)
        [nothing_yet] = await process.resume(1, place_of(ann))
        await process.send(10, "one")
        [nothing] = await process.resume(1, place_of(ann))
    for resumed in (nothing_yet, nothing):
        assert (resumed["recovered"], resumed["messages"]) == (True, [])


async def test_what_is_too_old_is_a_gap_that_is_told() -> None:
    async with Process(FakeStore({(1, 10)}), redis_url="memory://", history_length=3) as process:
        ann = await process.connect(1)
        place = place_of(ann)
        for number in range(5):
            await process.send(10, f"{number}")
        [resumed] = await process.resume(1, place)
        [other_epoch] = await process.resume(1, Position(10, "nonsense", 5))
        [on_from_there] = await process.resume(1, Position(10, resumed["epoch"], resumed["offset"]))
    for each in (resumed, other_epoch):
        assert (each["recovered"], each["messages"], each["offset"]) == (False, [], 5)
    assert on_from_there["recovered"]


async def test_a_long_absence_is_made_up_for_in_several_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensue.integrations.redis_channels.RESUMED_MESSAGES_MAX", 4)
    async with Process(FakeStore({(1, 10), (1, 20)}), redis_url="memory://") as process:
        ann = await process.connect(1)
        asked = [places(ann)[10], places(ann)[20]]
        for number in range(6):
            await process.send(10, f"a{number}")
            await process.send(20, f"b{number}")
        found: list[str] = []
        for _ in range(3):
            answers = await process.resume(1, *asked)
            found += [text for answer in answers for text in missed(answer)]
            assert all(answer["recovered"] for answer in answers)
            asked = [Position(each["channel"], each["epoch"], each["offset"]) for each in answers if each["more"]]
    assert found == [f"a{number}" for number in range(6)] + [f"b{number}" for number in range(6)]
    assert asked == []


async def test_a_message_larger_than_an_answer_is_given_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensue.integrations.redis_channels.RESUMED_CHARACTERS_MAX", 1_000)
    async with Process(FakeStore({(1, 10)}), redis_url="memory://") as process:
        place = place_of(await process.connect(1))
        for letter in "ab":
            await process.send(10, letter * 5_000)
        [first] = await process.resume(1, place)
        [second] = await process.resume(1, Position(10, first["epoch"], first["offset"]))
    assert [text[0] for text in (*missed(first), *missed(second))] == ["a", "b"]
    assert (first["more"], second["more"]) == (True, False)


async def test_who_is_no_member_any_more_resumes_nothing_and_is_told_that_it_left() -> None:
    store = FakeStore({(1, 10), (1, 20)})
    async with Process(store, redis_url="memory://") as process:
        ann = await process.connect(1)
        place = place_of(ann)
        await process.send(10, "secret")
        store.rows.discard((1, 10))
        [refused] = await process.resume(1, place)
        assert (refused["member"], refused["messages"]) == (False, [])
        await process.changed(1)
        await until(lambda: bool(told(ann, "left")))
        await process.send(10, "more")
        store.rows.add((1, 30))
        await process.changed(1)
        await until(lambda: 30 in places(ann))
    assert told(ann, "left") == [{"type": "left", "channels": [10]}]
    assert texts(ann) == ["secret"]


async def test_a_repeat_is_no_second_message() -> None:
    async with Process(FakeStore({(1, 10)}), redis_url="memory://") as process:
        ann = await process.connect(1)
        for key in ("a", "a", "b", "a"):
            await process.send(10, key, key=key)
    assert texts(ann) == ["a", "b"]


async def test_what_the_bus_lost_is_noticed_with_the_next_message() -> None:
    exchange = MemoryExchange()
    bus = LossyBus(exchange)
    async with Process(FakeStore({(1, 10)}), client=bus) as process:
        ann = await process.connect(1)
        await process.send(10, "one")
        bus.deaf = True
        await process.send(10, "two")
        await process.send(10, "three")
        bus.deaf = False
        await process.send(10, "four")
        await until(lambda: len(texts(ann)) == 4)
    assert texts(ann) == ["one", "two", "three", "four"]
    assert told(ann, "gap") == []


async def test_a_lost_last_message_is_noticed_in_time() -> None:
    bus = LossyBus(MemoryExchange())
    async with Process(FakeStore({(1, 10)}), client=bus, check_seconds=0.05) as process:
        ann = await process.connect(1)
        bus.deaf = True
        await process.send(10, "last")
        await until(lambda: texts(ann) == ["last"])
        await asyncio.sleep(0.15)
    assert texts(ann) == ["last"]


async def test_a_log_that_was_lost_is_a_gap_for_all_who_listen() -> None:
    exchange = MemoryExchange()
    async with Process(FakeStore({(1, 10), (2, 20)}), client=exchange.join()) as process:
        ann, bob = await process.connect(1), await process.connect(2)
        await process.send(10, "one")
        exchange.forget()
        await process.send(10, "two")
        await until(lambda: bool(told(ann, "gap")))
        await process.send(10, "three")
        await until(lambda: "three" in texts(ann))
        place = places(ann, "gap")[10]
    assert texts(ann) == ["one", "three"]
    assert (place.offset, place.epoch) == (1, told(ann, "message")[-1]["epoch"])
    assert told(bob, "gap") == []


@pytest.mark.parametrize("persistent", [True, False])
async def test_over_a_restart_of_redis_a_client_gets_all_or_is_told(*, persistent: bool) -> None:
    with RedisServer(persistent=persistent) as server:
        async with Process(FakeStore({(1, 10)}), redis_url=server.url) as process:
            ann = await process.connect(1)
            await process.send(10, "before")
            await until(lambda: texts(ann) == ["before"])
            place = place_of(ann)
            server.kill()
            await until(lambda: not process.channels.bus.health().up)
            server.start()
            await until(lambda: process.channels.bus.health().up)
            await process.send(10, "after")
            await until(lambda: bool(told(ann, "gap")))
            [resumed] = await process.resume(1, place)
    # What a restarted Redis still has may not be the last that it had told: it can't be gone on from.
    assert not resumed["recovered"]
    assert texts(ann) in (["before", "after"], ["before"])


async def test_a_message_that_a_process_missed_while_its_connection_broke_is_fetched(redis_server: RedisServer) -> None:
    store, url = FakeStore({(1, 10), (2, 10)}), redis_server.url
    async with Process(store, redis_url=url) as one, Process(store, redis_url=url) as other:
        ann, bob = await one.connect(1), await other.connect(2)
        await other.send(10, "before")
        await until(lambda: texts(ann) == texts(bob) == ["before"])
        link = one.channels.bus._link  # type: ignore[attr-defined]
        await link._connection.disconnect(nowait=True)
        for number in range(3):
            await other.send(10, f"{number}")
        await until(lambda: texts(ann) == texts(bob) == ["before", "0", "1", "2"])
    assert told(ann, "gap") == told(bob, "gap") == []
