"""Channels: users get the messages of the channels that they are members of, over WebSockets, whichever process they
are in.

Decides what is published and who listens, from two record types of the app: the membership and the message. Leaves
transport to a bus. Invariants: who may listen is read from the database, never from a message; messages are published
by a durable effect, so a dead Redis delays them; a slow client loses its own connection and nobody else's messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import msgspec

from ensue.errors import DeclarationError, Problem
from ensue.expression.trace import match
from ensue.integrations.channels.bus import Bus, MemoryBus
from ensue.integrations.channels.hub import Hub
from ensue.integrations.channels.refresher import Refresher
from ensue.integrations.connection import Connection, ConnectionClosed
from ensue.integrations.contract import Health, Integration
from ensue.integrations.settings.environment import WRONG_SETTING, env
from ensue.schema.effect import Effect, SideEffect, plain
from ensue.schema.entity import Entity

if TYPE_CHECKING:
    from ensue.engine.controller import Controller


# Publishing takes far less time than the commit that claims it, and as many share that commit.
PUBLISHED_AT_ONCE = 64


class _Changed(msgspec.Struct):
    """The control message: these users' memberships may have changed."""

    users: list[int]


class RedisChannels(Integration):
    """Chat channels over Redis pub/sub.

    `membership` links a user and a channel (`user` and `channel` are the names of its links); each new `message` goes
    to the members of the channel that its link `message_channel` names, with `fields` besides its own columns.
    `redis_url="memory://"` stays within one process. Clients receive `{"type": "message", "channel": 7, "key": "…",
    "message": {...}}`; `key` is the same if a message comes twice. After an outage of Redis they receive `{"type":
    "gap", "channels": [...]}` and should read what they missed.

    >>> RedisChannels(membership=Membership, message=Message, fields=[Message.sender.name])
    """

    membership: type[Entity]
    message: type[Entity]
    user: str = "user"
    channel: str = "channel"
    message_channel: str = "channel"
    fields: Sequence[Any] = ()
    redis_url: str = env("REDIS_URL", default="redis://localhost:6379")
    prefix: str = "ensue"

    async def setup(self, controller: Controller) -> None:
        self._store = controller.store
        self.hub = Hub()
        self._control = f"{self.prefix}:memberships"
        self._refresher = await self.enter(Refresher(self._refresh), name="refresher")
        self.bus: Bus = await self.enter(self._open_bus(), name="redis")
        await self.bus.listen(self, self._control)
        self.handles.websockets.on_connect(self.join)
        self.handles.websockets.on_disconnect(self.leave)

    async def health(self) -> Health:
        return self.bus.health()

    def create_side_effects(self) -> list[SideEffect]:
        return [
            SideEffect(
                "publish",
                self.message,
                on="create",
                content=self.publish,
                fields=self.fields,
                concurrency=PUBLISHED_AT_ONCE,
            ),
            SideEffect(
                "announce",
                self.membership,
                on={"create", "update", "delete"},
                # A membership may count what is unread: a message that moves these of all members is no news here.
                of=[self.user, self.channel],
                content=self.announce,
            ),
        ]

    async def publish(self, effect: Effect[Any]) -> None:
        """Side effect: send a new message to the members of its channel, in all processes."""
        channel = getattr(effect.record, self.message_channel)
        if channel is not None:
            message = {"type": "message", "channel": channel.id, "key": effect.key, "message": effect.record}
            await self.bus.publish(self._topic(channel.id), msgspec.json.encode(message, enc_hook=plain).decode())

    async def announce(self, effect: Effect[Any]) -> None:
        """Side effect: tell all processes whose memberships changed; they read them again."""
        images = (effect.event.record, effect.event.old_record)
        users = {getattr(image, self.user).id for image in images if image is not None}
        await self.bus.publish(self._control, msgspec.json.encode(_Changed(sorted(users))).decode())

    async def join(self, connection: Connection) -> None:
        """A client came: it receives its channels from here on.

        Raises, so that it tries again, if they can't be read.
        """
        if connection.user is not None:
            self.hub.add(connection.user.id, connection)
            await self._refresher.request([connection.user.id])

    async def leave(self, connection: Connection) -> None:
        """A client is gone."""
        if connection.user is not None:
            before = self.hub.channels()
            self.hub.remove(connection.user.id, connection)
            await self.bus.unfollow(self._topics(before - self.hub.channels()))

    async def received(self, topic: str, text: str) -> None:
        """The bus brings a message, or word of changed memberships."""
        if topic == self._control:
            connected = set(self.hub.users())
            self._refresher.note(connected & set(msgspec.json.decode(text, type=_Changed).users))
            return
        for connection in self.hub.listeners(int(topic.rpartition(":")[2])):
            await _send(connection, text)

    async def reconnected(self) -> None:
        """Word of changed memberships may have been missed: read them all again before anything is followed."""
        await self._refresher.request(self.hub.users())

    async def restored(self) -> None:
        """Messages may have been missed: say so to every client."""
        for user in self.hub.users():
            gap = {"type": "gap", "channels": sorted(self.hub.channels_of(user))}
            for connection in self.hub.connections_of(user):
                await _send(connection, msgspec.json.encode(gap).decode())

    async def _refresh(self, users: frozenset[int]) -> None:
        rows = await self._store.find(self.membership, match(f"{self.user}.id", "in", sorted(users)))
        channels: dict[int, set[int]] = {user: set() for user in users}
        for row in rows:
            channels[getattr(row, self.user).id].add(getattr(row, self.channel).id)
        before = self.hub.channels()
        for user, found in channels.items():
            self.hub.set_channels(user, found)
        after = self.hub.channels()
        await self.bus.unfollow(self._topics(before - after))
        await self.bus.follow(self._topics({channel for user in users for channel in self.hub.channels_of(user)}))

    def _topic(self, channel: int) -> str:
        return f"{self.prefix}:channel:{channel}"

    def _topics(self, channels: Iterable[int]) -> list[str]:
        return [self._topic(channel) for channel in sorted(channels)]

    def _open_bus(self) -> AbstractAsyncContextManager[Bus]:
        if self.redis_url == "memory://":
            return nullcontext(MemoryBus())
        try:
            # Only who uses Redis needs its client installed.
            from ensue.integrations.channels.redis_bus import RedisBus

            return RedisBus(self.redis_url, clock=self.clock)
        except ImportError as failure:
            raise DeclarationError(
                Problem(
                    WRONG_SETTING,
                    f"{self.redis_url.partition(':')[0]}:// needs the Redis client: pip install 'ensue[redis]' "
                    f"({failure}).",
                )
            ) from failure
        except ValueError as failure:
            raise DeclarationError(
                Problem(
                    WRONG_SETTING,
                    f"{self.namespace}.redis_url is not the URL of a Redis: {failure} (or memory://, within one "
                    f"process)",
                )
            ) from failure


async def _send(connection: Connection, text: str) -> None:
    try:
        await connection.send_text(text)
    except ConnectionClosed:
        # It is leaving or was too slow; `leave` comes next, and the others still want the message.
        return
