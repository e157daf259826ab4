"""Consumers: the same suite on JetStream, on Redis streams and on AMQP.

AMQP is a double unless `ENSUE_TEST_AMQP` is the URL of a real broker; what takes a server away is then tested on the
double all the same.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ensue import DeclarationError, Inbound, Incoming, Integration, consume, env
from ensue.app import AppRun
from ensue.errors import Unavailable
from ensue.integrations.inbound.consuming import run as consuming_run
from ensue.testing.faults.proxy import FaultProxy
from tests.inbound.brokers import OVERRIDE, Broker, NatsBroker, broker_of, until
from tests.inbound.feed import Feed
from tests.inbound.shop import PaymentEvent, shop
from tests.inbound.test_receive import inbox
from tests.services import RedisServer

KINDS = ("nats", "redis", "amqp")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that a test would have to sit out."""
    monkeypatch.setattr(consuming_run, "FETCH_SECONDS", 0.1)
    monkeypatch.setattr(consuming_run, "RETRY_SECONDS_MAX", 0.1)
    monkeypatch.setattr(consuming_run, "RECONNECT_SECONDS_MAX", 0.2)


@pytest.fixture(params=KINDS)
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    async with opened(broker_of(request, request.param)) as found:
        yield found


@pytest.fixture(params=KINDS)
async def own_broker(request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    async with opened(broker_of(request, request.param, own=True)) as found:
        yield found


@pytest.fixture
def lasting_redis() -> Iterator[RedisServer]:
    with RedisServer(persistent=True) as server:
        yield server


@asynccontextmanager
async def opened(broker: Broker) -> AsyncIterator[Broker]:
    await broker.open()
    try:
        yield broker
    finally:
        await broker.close()


@asynccontextmanager
async def feeding(url: str, broker: Broker, **options: Any) -> AsyncIterator[tuple[AppRun, Feed]]:
    feed = Feed(broker, **options)
    async with shop(url, integrations={"feed": feed}).run(grace_seconds=2.0) as run:
        yield run, feed


async def publish(broker: Broker, *orders: int) -> None:
    for order in orders:
        await broker.publish(json.dumps({"order": order}).encode(), id_=f"m{order}")


async def orders(run: AppRun) -> list[int]:
    return sorted(event.order_number for event in await run.controller.store.find(PaymentEvent))


async def test_messages_become_events_and_are_acknowledged(broker: Broker, sqlite_url: str) -> None:
    await publish(broker, 1, 2)
    async with feeding(sqlite_url, broker) as (run, feed):
        await until(lambda: _count(run, 2))
        await publish(broker, *range(3, 60))
        await until(lambda: _count(run, 59))
        await until(lambda: _nothing_left(broker))
        assert await orders(run) == list(range(1, 60))
        assert len(feed.seen) == 59
        assert {row[0] for row in await inbox(run.app)} == {"feed.payments"}
        assert len({row[1] for row in await inbox(run.app)}) == 59


async def test_the_same_message_again_is_acknowledged_and_changes_nothing(broker: Broker, sqlite_url: str) -> None:
    async with feeding(sqlite_url, broker, id="json:number") as (run, feed):
        for n in range(3):
            await broker.publish(b'{"order": 1, "number": 7}', id_=f"copy{n}")
        await until(lambda: len(feed.seen) == 3)
        await until(lambda: _nothing_left(broker))
        assert await orders(run) == [1]


async def test_a_failure_is_tried_again_and_strands_nobody(broker: Broker, database_url: str) -> None:
    async with feeding(database_url, broker) as (run, feed):
        # The first counts twice: within the batch, and then by itself.
        feed.fails[3] = 4
        await publish(broker, *range(10))
        await until(lambda: _count(run, 10))
        await until(lambda: _nothing_left(broker))
        assert await orders(run) == list(range(10))
        assert {row[2] for row in await inbox(run.app)} == {"done"}


async def test_poison_is_kept_and_acknowledged(broker: Broker, sqlite_url: str) -> None:
    async with feeding(sqlite_url, broker, max_attempts=3) as (run, feed):
        feed.fails[2] = 1_000
        await publish(broker, 1, 2, 3)
        await until(lambda: _count(run, 2))
        await until(lambda: _nothing_left(broker))
        await until(lambda: _failed(run, 3))
        assert await orders(run) == [1, 3]


async def test_two_processes_share_the_work(broker: Broker, postgres_url: str) -> None:
    async with (
        feeding(postgres_url, broker, batch=4) as (run, first),
        feeding(postgres_url, broker, batch=4) as (_, second),
    ):
        first.gate.clear()
        second.gate.clear()
        await publish(broker, *range(24))
        await until(lambda: first.seen and second.seen)
        first.gate.set()
        second.gate.set()
        await until(lambda: _count(run, 24))
        await until(lambda: _nothing_left(broker))
        assert len(first.seen) + len(second.seen) == 24


async def test_an_outage_of_the_database_uses_no_attempt(
    broker: Broker, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with feeding(sqlite_url, broker, max_attempts=1) as (run, feed):

        async def away(*_: Any) -> Any:
            raise Unavailable("the database is away")

        with monkeypatch.context() as patch:
            patch.setattr(run.controller, "bring_in", away)
            await publish(broker, 1, 2)
            await until(lambda: len(feed.seen) >= 6)
            assert await inbox(run.app) == []
        await until(lambda: _count(run, 2))
        await until(lambda: _nothing_left(broker))


async def test_what_is_being_handled_at_shutdown_is_finished(broker: Broker, sqlite_url: str) -> None:
    async with feeding(sqlite_url, broker, batch=2) as (run, feed):
        feed.gate.clear()
        await publish(broker, *range(6))
        await until(lambda: feed.seen)
        asyncio.get_running_loop().call_later(0.1, feed.gate.set)
    taken = len(feed.seen)
    assert taken < 6
    async with feeding(sqlite_url, broker, redeliver_seconds=1) as (run, feed):
        await until(lambda: _count(run, 6))
        await until(lambda: _nothing_left(broker))
        assert await orders(run) == list(range(6))
        assert len(feed.seen) <= 6 - taken + 2


async def test_a_broker_that_restarts_is_connected_anew(own_broker: Broker, sqlite_url: str) -> None:
    async with feeding(sqlite_url, own_broker) as (run, _):
        await publish(own_broker, 1)
        await until(lambda: _count(run, 1))
        for stop in (own_broker.server.stop, getattr(own_broker.server, "kill", own_broker.server.stop)):
            stop()
            await until(lambda: not run.inbox.health().get("feed", _UP).up)
            assert not (await run.health())["feed"].up
            own_broker.server.start()
            await publish(own_broker, 2 if stop == own_broker.server.stop else 3)
            await until(lambda: run.inbox.health() == {})
        await until(lambda: _seen(run, {1, 2} if not hasattr(own_broker.server, "kill") else {1, 2, 3}))


async def test_a_place_that_is_made_anew_is_another_place(broker: Broker, sqlite_url: str) -> None:
    async with feeding(sqlite_url, broker) as (run, _):
        # Without an id of the sender's, as far as the broker gives it one.
        await broker.publish(b'{"order": 1}', id_=None if isinstance(broker, NatsBroker) else "m1")
        await until(lambda: _count(run, 1))
        await until(lambda: _nothing_left(broker))
        await broker.remove()
        await broker.open()
        await broker.publish(b'{"order": 2}', id_=None if isinstance(broker, NatsBroker) else "m2")
        await until(lambda: _seen(run, {1, 2}))


@pytest.mark.parametrize("kind", ["nats", "redis"])
async def test_stopping_ends_within_bounds_when_the_peer_is_dead(
    request: pytest.FixtureRequest, kind: str, sqlite_url: str
) -> None:
    broker = broker_of(request, kind)
    async with opened(broker), FaultProxy(broker.url) as proxy:
        direct, broker.url = broker.url, proxy.url
        run = shop(sqlite_url, integrations={"feed": Feed(broker)}).run(grace_seconds=1.0)
        broker.url = direct
        async with run:
            await publish(broker, 1)
            await until(lambda: _count(run, 1))
            proxy.black_hole()
            loop = asyncio.get_running_loop()
            began = loop.time()
        assert loop.time() - began < 8


async def test_a_broker_that_is_not_there_stops_nothing(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    class Nowhere(Integration):
        @consume("nats", subject="a", url="nats://ann:hush@127.0.0.1:1")
        async def one(self, message: Inbound) -> Incoming: ...

        @consume("redis", stream="a", url="redis://ann:hush@127.0.0.1:1")
        async def two(self, message: Inbound) -> Incoming: ...

        @consume("amqp", queue="a", url="amqp://ann:hush@127.0.0.1:1")
        async def three(self, message: Inbound) -> Incoming: ...

    async with shop(sqlite_url, integrations={"nowhere": Nowhere()}).run() as run:
        await until(lambda: sum(not item.health.up for item in run.inbox._consuming) == 3)
        assert not (await run.health())["nowhere"].up
        assert "hush" not in str([item.health for item in run.inbox._consuming]) + caplog.text


async def test_a_message_without_an_id_is_kept_as_failed(request: pytest.FixtureRequest, sqlite_url: str) -> None:
    async with opened(broker_of(request, "amqp")) as broker, feeding(sqlite_url, broker) as (run, _):
        await broker.publish(b'{"order": 1}')
        await broker.publish(b'{"order": 1}')
        await until(lambda: _failed_count(run, 2))
        await until(lambda: _nothing_left(broker))


async def test_declarations(sqlite_url: str) -> None:
    class Feeds(Integration):
        broker_url: str = env("FEED_URL", default="nats://settings")

        @consume("nats", subject="a.>", url=broker_url)
        async def one(self, message: Inbound) -> Incoming: ...

        @consume("redis", stream="s")
        async def two(self, message: Inbound) -> Incoming: ...

    async with shop(sqlite_url, integrations={"f": Feeds()}).run(deliver=False, env={"REDIS_URL": "redis://x"}) as run:
        found = {name: item.options.url for name, (_, item) in run.inbox.endpoints.consumers.items()}
        assert found == {"f.one": "nats://settings", "f.two": "redis://x"}
        assert "redis://x" not in repr(run.inbox.endpoints)
    with pytest.raises(DeclarationError, match="one of 'nats', 'redis', 'amqp'"):
        consume("kafka", subject="x")  # type: ignore[call-overload]
    with pytest.raises(
        DeclarationError, match=r"needs subject=; .* takes subject, stream, durable, of which it needs subject"
    ):
        consume("nats")  # type: ignore[call-overload]
    with pytest.raises(DeclarationError, match="does not take subject="):
        consume("redis", stream="s", subject="x")  # type: ignore[call-overload]

    class Wrong(Integration):
        @consume("nats", subject="a", durable="a.b", batch=0, timeout_seconds=0, url="nowhere")
        async def one(self, message: Inbound) -> Incoming: ...

    with pytest.raises(DeclarationError) as raised:
        async with shop(sqlite_url, integrations={"w": Wrong()}):
            pass
    assert len(raised.value.problems) == 4
    assert "none of its broker; expected nats://… or tls://…" in str(raised.value)


# A double is in this process: only a real broker is still there for the next.
@pytest.mark.parametrize("kind", ["nats", "redis", *(["amqp"] if OVERRIDE in os.environ else [])])
async def test_a_process_killed_before_its_acknowledgement_has_changed_things_once(
    request: pytest.FixtureRequest, kind: str, postgres_url: str
) -> None:
    async with opened(broker_of(request, kind)) as broker:
        await publish(broker, *range(5))
        program = [sys.executable, "-m", "tests.inbound.consumer_process", postgres_url, kind, broker.url, broker.name]
        process = await asyncio.create_subprocess_exec(*program, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        async with asyncio.timeout(30):
            held = int(await process.stdout.readline())
        process.kill()
        await process.wait()
        assert held >= 1
        await until(lambda: _left(broker, 5))
        async with feeding(postgres_url, broker, redeliver_seconds=1) as (run, feed):
            assert await run.controller.store.count(PaymentEvent) >= held
            await until(lambda: len(feed.seen) == 5)
            await until(lambda: _count(run, 5))
            await until(lambda: _nothing_left(broker))
            assert await orders(run) == list(range(5))
            assert len(feed.seen) == 5
            assert {row[3] for row in await inbox(run.app)} == {1}


class _Up:
    up = True


_UP: Any = _Up()


async def _count(run: AppRun, number: int) -> bool:
    return await run.controller.store.count(PaymentEvent) >= number


async def _seen(run: AppRun, wanted: set[int]) -> bool:
    return wanted <= set(await orders(run))


async def _failed(run: AppRun, attempt: int) -> bool:
    return [row[3] for row in await inbox(run.app) if row[2] == "failed"] == [attempt]


async def _failed_count(run: AppRun, number: int) -> bool:
    return len([row for row in await inbox(run.app) if row[2] == "failed"]) == number


async def _left(broker: Broker, number: int) -> bool:
    return await broker.left() == number


async def _nothing_left(broker: Broker) -> bool:
    return await broker.left() == 0


async def test_what_waits_for_its_next_attempt_is_not_redelivered_meanwhile(redis_url: str) -> None:
    from redis.asyncio import Redis

    from ensue.integrations.inbound.consumer import ConsumerOptions, RedisPlace
    from ensue.integrations.inbound.consuming.redis_stream import RedisSource

    options = ConsumerOptions(url=redis_url, redeliver_seconds=1)
    place = RedisPlace(stream="orders")
    ours, others = (RedisSource(place, options, endpoint="feed.order") for _ in range(2))
    client: Any = Redis.from_url(redis_url)
    await ours.connect()
    await others.connect()
    try:
        await client.xadd("orders", {"order": "1"})
        (item,) = await ours.fetch(10, 1.0)
        assert not await ours.postpone(item, 30.0)
        loop = asyncio.get_running_loop()
        end = loop.time() + 2.5
        while loop.time() < end:
            for source in (ours, others):
                assert list(await source.fetch(10, 0.1)) == []
        await ours.give_back([item])
        async with asyncio.timeout(20):
            while not (found := await others.fetch(10, 0.2)):
                pass
        assert found[0].id == item.id
    finally:
        await ours.close()
        await others.close()
        await client.aclose()
