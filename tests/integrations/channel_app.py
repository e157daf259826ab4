"""Users, channels, memberships and messages: the app that the tests of channels share, and a double of its store."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import msgspec

from ensue import App, Computed, Count, Entity, Many, One, Property, Relation
from ensue.clock import SystemClock
from ensue.integrations.channels.words import Position
from ensue.integrations.contract import Surroundings
from ensue.integrations.handles import Handles
from ensue.integrations.redis_channels import RedisChannels
from ensue.integrations.running.lifecycle import IntegrationSet
from ensue.testing import FakeConnection

_numbers = itertools.count(1)


class User(Entity):
    name: Property[str]
    memberships = Many(lambda: Membership, inverse="user")


class Channel(Entity):
    title: Property[str]
    memberships = Many(lambda: Membership, inverse="channel")
    messages = Many(lambda: Message, inverse="channel")
    message_count = Count(messages)


class Membership(Relation):
    user: One[User]
    channel: One[Channel]
    message_count = Computed[int](lambda m: m.channel.message_count)


class Message(Entity):
    text: Property[str]
    sender: One[User]
    channel: One[Channel]


def channels_integration(**settings: Any) -> RedisChannels:
    return RedisChannels(membership=Membership, message=Message, fields=[Message.sender.name], **settings)


def channels_app(**settings: Any) -> App:
    return App(user=User, entities=[Message], integrations={"channels": channels_integration(**settings)})


@dataclass
class FakeStore:
    """Memberships in memory: `rows` are pairs of a user's and a channel's id; `fail` is raised by the next reads."""

    rows: set[tuple[int, int]] = field(default_factory=set)
    fail: Exception | None = None
    reads: int = 0
    gate: asyncio.Event | None = None

    async def find(self, record: Any, where: Any) -> list[Any]:
        self.reads += 1
        users, channels = _asked(where)
        rows = [
            SimpleNamespace(user=ref(user), channel=ref(channel))
            for user, channel in self.rows
            if user in users and (channels is None or channel in channels)
        ]
        if self.gate is not None:
            await self.gate.wait()
        if self.fail is not None:
            raise self.fail
        return rows


def _asked(where: Any) -> tuple[list[int], list[int] | None]:
    """The users, and the channels if any are named, of one of the two conditions that are asked with."""
    if where.op != "and":
        return where.args[1].value, None
    user, channels = where.args
    return [user.args[1].value], channels.args[1].value


def ref(id_: int) -> Any:
    return SimpleNamespace(id=id_)


class Process:
    """One process of the app as far as channels are concerned: an integration set up on a store that others share."""

    def __init__(self, store: FakeStore, *, client: Any = None, **settings: Any) -> None:
        self.handles = Handles()
        self.channels = channels_integration(**settings)
        clients = {} if client is None else {"channels.redis": client}
        surroundings = Surroundings(self.handles, SystemClock(), clients)
        self._members = IntegrationSet({"channels": self.channels}, surroundings)
        self._store = store
        self._number = 0

    async def __aenter__(self) -> Process:
        self._members.attach()
        self._members.resolve_settings({})
        await self._members.setup(SimpleNamespace(store=self._store))  # type: ignore[arg-type]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._members.cleanup()
        self._members.detach()
        assert not self._members.failures

    async def connect(self, user: int | None) -> FakeConnection:
        self._number += 1
        connection = FakeConnection(self._number, None if user is None else ref(user))
        await self.handles.websockets.connected(connection)
        return connection

    async def disconnect(self, connection: FakeConnection) -> None:
        connection.closed = True
        await self.handles.websockets.disconnected(connection)

    async def send(self, channel: int, text: str, *, key: str = "") -> None:
        """What the side effect does once a message was created; `key` is one of its own if none is given."""
        record = {"id": 1, "text": text}
        key = key or f"k-{next(_numbers)}"
        await self.channels.publish(effect(SimpleNamespace(channel=ref(channel)), record, key=key))

    async def resume(self, user: int, *positions: Position) -> list[Any]:
        """What the API answers, as JSON."""
        found = await self.channels.resume(SimpleNamespace(user=ref(user)), list(positions))  # type: ignore[arg-type]
        return msgspec.json.decode(msgspec.json.encode(found))

    async def present(self, user: int, channel: int) -> list[int]:
        """What the API answers."""
        return await self.channels.present(SimpleNamespace(user=ref(user)), channel)  # type: ignore[arg-type]

    async def changed(self, user: int) -> None:
        """What the side effect does once a membership was created or deleted."""
        await self.channels.announce(effect(SimpleNamespace(user=ref(user)), {}))


def effect(image: Any, body: dict[str, Any], *, key: str = "k1") -> Any:
    class Image(dict[str, Any]):
        def __getattr__(self, name: str) -> Any:
            return getattr(image, name)

    record = Image(body)
    return SimpleNamespace(record=record, key=key, event=SimpleNamespace(record=record, old_record=None))


async def until(condition: Callable[[], bool], *, seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - conditions of all kinds, in a test
            await asyncio.sleep(0.005)


def texts(connection: FakeConnection) -> list[str]:
    """The texts of the messages that a client received."""
    return [item["message"]["text"] for item in connection.sent if item["type"] == "message"]


def told(connection: FakeConnection, kind: str) -> list[Any]:
    """The messages of one type that a client received."""
    return [item for item in connection.sent if item["type"] == kind]


def places(connection: FakeConnection, kind: str = "joined") -> dict[int, Position]:
    """The last position of each channel that a client was told in `joined` or `gap`."""
    return {
        each["channel"]: Position(each["channel"], each["epoch"], each["offset"])
        for item in told(connection, kind)
        for each in item["channels"]
    }
