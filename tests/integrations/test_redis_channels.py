"""`RedisChannels` in a real app: from a committed message to the clients of every process."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from ensue import App
from ensue.app import AppRun
from ensue.integrations.channels.memory_bus import MemoryBus
from ensue.testing import AppHarness, FakeConnection
from tests.services import RedisServer

from .channel_app import Channel, Membership, Message, User, channels_app, texts, told, until


async def test_members_receive_messages_and_others_do_not() -> None:
    async with AppHarness(channels_app(redis_url="memory://")) as harness:
        store = harness.store
        ann, bob = await store.create(User(name="Ann")), await store.create(User(name="Bob"))
        news = await store.create(Channel(title="News"))
        membership = await store.create(Membership(user=ann, channel=news))
        at_ann, at_bob = await harness.connect(ann), await harness.connect(bob)
        message = await store.create(Message(text="hello", sender=bob, channel=news))
        await harness.drain()
        [received] = told(at_ann, "message")
        assert received["type"] == "message"
        assert received["channel"] == news.id
        assert received["message"]["id"] == message.id
        assert received["message"]["text"] == "hello"
        assert received["message"]["sender"]["name"] == "Bob"
        assert told(at_bob, "message") == []

        await store.create(Membership(user=bob, channel=news))
        await store.delete(Membership, membership.id)
        await harness.drain()
        hub = harness.integration("channels").hub
        await until(lambda: hub.told(at_bob) == {news.id} and not hub.channels_of(ann.id))
        await store.create(Message(text="again", sender=ann, channel=news))
        await harness.drain()
    assert texts(at_ann) == ["hello"]
    assert texts(at_bob) == ["again"]


async def test_many_messages_share_the_commits_that_publishing_them_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    async with AppHarness(channels_app(redis_url="memory://")) as harness:
        store, driver = harness.store, harness.run.driver
        ann, news = await store.create(User(name="Ann")), await store.create(Channel(title="News"))
        await store.create(Membership(user=ann, channel=news))
        await harness.drain()
        connection = await harness.connect(ann)
        await store.create_many([Message(text=str(number), sender=ann, channel=news) for number in range(100)])
        write, commits = driver.write, 0

        async def counted(work: Any) -> Any:
            nonlocal commits
            commits += 1
            return await write(work)

        monkeypatch.setattr(driver, "write", counted)
        await harness.drain()
    assert sorted(texts(connection), key=int) == [str(number) for number in range(100)]
    assert commits <= 6, (
        "two that claim as many messages as there is room for, two that end them, two that find nothing"
    )


async def test_a_count_of_a_membership_that_moves_is_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    async with AppHarness(channels_app(redis_url="memory://")) as harness:
        store, published = harness.store, []
        ann, news = await store.create(User(name="Ann")), await store.create(Channel(title="News"))
        membership = await store.create(Membership(user=ann, channel=news))
        await harness.drain()
        bus = harness.integration("channels").bus
        append = bus.append

        async def noted(topic: str, text: str, *, key: str = "") -> Any:
            published.append(topic)
            return await append(topic, text, key=key) if key else None

        monkeypatch.setattr(bus, "append", noted)
        monkeypatch.setattr(bus, "publish", noted)
        await store.create(Message(text="hello", sender=ann, channel=news))
        await harness.drain()
        assert (await store.get(Membership, membership.id)).message_count == 1
    assert published == [f"ensue:channel:{news.id}"]


async def test_a_membership_that_moves_is_followed() -> None:
    async with AppHarness(channels_app(), clients={"channels.redis": MemoryBus()}) as harness:
        store = harness.store
        ann = await store.create(User(name="Ann"))
        news, chat = await store.create(Channel(title="News")), await store.create(Channel(title="Chat"))
        membership = await store.create(Membership(user=ann, channel=news))
        await harness.drain()
        connection = await harness.connect(ann)
        await store.update(Membership, membership.id, channel=chat)
        await harness.drain()
        await until(lambda: harness.integration("channels").hub.told(connection) == {chat.id})
        await store.create(Message(text="old", sender=ann, channel=news))
        await store.create(Message(text="new", sender=ann, channel=chat))
        await harness.drain()
    assert texts(connection) == ["new"]


async def test_two_processes_on_one_database_and_one_redis(database_url: str, redis_url: str) -> None:
    settings: dict[str, Any] = {"redis_url": redis_url, "prefix": uuid.uuid4().hex}
    base = channels_app(**settings)

    def process() -> App:
        made = channels_app(**settings)
        return App(user=User, entities=made.entities, integrations=made.integrations, database=database_url)

    assert base.integrations
    one, other = process(), process()
    async with one.run() as run_one, other.run() as run_other:
        store = run_one.controller.store
        ann, bob = await store.create(User(name="Ann")), await store.create(User(name="Bob"))
        news = await store.create(Channel(title="News"))
        await store.create(Membership(user=ann, channel=news))
        at_ann, at_bob = FakeConnection(1, ann), FakeConnection(1, bob)
        await run_one.handles.websockets.connected(at_ann)
        await run_other.handles.websockets.connected(at_bob)
        await store.create(Membership(user=bob, channel=news))
        hub: Any = run_other.integrations.members["channels"]
        # Told, not only known as a member: what is said before that is not for the connection.
        await until(lambda: news.id in (hub.hub.told(at_bob) or ()))
        await store.create(Message(text="hello", sender=ann, channel=news))
        await until(lambda: bool(texts(at_ann)) and bool(texts(at_bob)))
        assert set(texts(at_ann)) == set(texts(at_bob)) == {"hello"}
        await run_one.handles.websockets.disconnected(at_ann)
        await run_other.handles.websockets.disconnected(at_bob)


async def test_a_message_sent_while_redis_is_dead_arrives_when_it_is_back(
    redis_server: RedisServer, sqlite_url: str
) -> None:
    made = channels_app(redis_url=redis_server.url)
    app = App(user=User, entities=made.entities, integrations=made.integrations, database=sqlite_url)
    async with app.run() as run:
        store = run.controller.store
        ann = await store.create(User(name="Ann"))
        news = await store.create(Channel(title="News"))
        await store.create(Membership(user=ann, channel=news))
        at_ann = FakeConnection(1, ann)
        await run.handles.websockets.connected(at_ann)
        redis_server.kill()
        await store.create(Message(text="hello", sender=ann, channel=news))
        await until(lambda: not made_bus(run).health().up)
        assert not (await run.health())["channels"].up
        redis_server.start()
        await until(lambda: "hello" in texts(at_ann), seconds=20)
        assert (await run.health())["channels"].up
        assert texts(at_ann) == ["hello"]


def made_bus(run: AppRun) -> Any:
    return run.integrations.members["channels"].bus  # type: ignore[attr-defined]
