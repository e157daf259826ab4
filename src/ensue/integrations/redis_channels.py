"""Channels: users get the messages of the channels that they are members of, over WebSockets, whichever process they
are in, and what they missed when they come back.

Decides what is published, who listens and who may ask, from two record types of the app: the membership and the
message. Leaves transport to a bus and the order of messages to `follower`. Invariants: who may listen is read from the
database, never from a message; messages are published by a durable effect, so a dead Redis delays them; a client that
was told `joined` gets every message after the stamp it was told, or a `gap`; a slow client loses its own connection and
nobody else's messages.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import msgspec

from ensue.errors import DeclarationError, Problem, Rejected
from ensue.expression.trace import match
from ensue.integrations.api import api
from ensue.integrations.channels import words
from ensue.integrations.channels.bus import Bus, Entry, Limits, Stamp
from ensue.integrations.channels.follower import Follower
from ensue.integrations.channels.hub import Hub
from ensue.integrations.channels.memory_bus import MemoryBus
from ensue.integrations.channels.presence import Presence
from ensue.integrations.channels.refresher import Refresher
from ensue.integrations.channels.words import Position, Resumed
from ensue.integrations.connection import Connection, send_to_all
from ensue.integrations.contract import Health, Integration
from ensue.integrations.settings.environment import WRONG_SETTING, env
from ensue.schema.effect import Effect, SideEffect, plain
from ensue.schema.entity import Entity
from ensue.schema.interaction import Context

if TYPE_CHECKING:
    from ensue.engine.controller import Controller


# Publishing takes far less time than the commit that claims it, and as many share that commit.
PUBLISHED_AT_ONCE = 64
RESUMED_CHANNELS_MAX = 1_000
RESUMED_MESSAGES_MAX = 200
RESUMED_CHARACTERS_MAX = 256 * 1024


class _Changed(msgspec.Struct):
    """The control message: these users' memberships may have changed."""

    users: list[int]


class RedisChannels(Integration):
    """Chat channels over Redis pub/sub, with a log of the last messages of each.

    `membership` links a user and a channel (`user` and `channel` are the names of its links); each new `message` goes
    to the members of the channel that its link `message_channel` names, with `fields` besides its own columns.
    `redis_url="memory://"` stays within one process, `redis+cluster://` is a Redis Cluster. Clients receive `{"type":
    "message", "channel": 7, "epoch": "…", "offset": 12, "key": "…", "message": {...}}`, where offsets count up by one;
    one that comes back asks `resume` for what it missed. The last `history_length` messages of a channel are kept for
    `history_seconds`. With `presence` clients are told who of a channel is connected.

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
    history_length: int = 500
    history_seconds: float = 3600.0
    check_seconds: float = 10.0
    presence: bool = False
    presence_seconds: float = 30.0

    async def setup(self, controller: Controller) -> None:
        self._check_settings()
        self._store = controller.store
        self.hub = Hub()
        self._control = f"{self.prefix}:memberships"
        self._refresher = await self.enter(Refresher(self._refresh), name="refresher")
        self.bus: Bus = await self.enter(self._open_bus(), name="redis")
        self._follower = await self.enter(
            Follower(
                self.bus,
                deliver=self._deliver,
                gap=self._tell_gap,
                ready=self._became_ready,
                check_seconds=self.check_seconds,
            ),
            name="follower",
        )
        self._presence: Presence | None = None
        if self.presence:
            watched = Presence(self.bus, here=self._users_on, tell=self._tell_presence, seconds=self.presence_seconds)
            self._presence = await self.enter(watched, name="presence")
        await self.bus.listen(self, self._control)
        self.handles.websockets.on_connect(self.join)
        self.handles.websockets.on_disconnect(self.leave)

    async def health(self) -> Health:
        return self.bus.health()

    def _check_settings(self) -> None:
        least = {"history_length": 1, "history_seconds": 1, "check_seconds": 0.05, "presence_seconds": 0.5}
        wrong = [
            Problem(WRONG_SETTING, f"{self.namespace}.{name} is {getattr(self, name)}; expected {number:g} or more.")
            for name, number in least.items()
            if not getattr(self, name) >= number
        ]
        if wrong:
            raise DeclarationError(wrong)

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

    # --- Out ----------------------------------------------------------------------------------------------------------

    async def publish(self, effect: Effect[Any]) -> None:
        """Side effect: send a new message to the members of its channel, in all processes; once, however often tried."""
        channel = getattr(effect.record, self.message_channel)
        if channel is not None:
            body = msgspec.json.encode({"key": effect.key, "message": effect.record}, enc_hook=plain).decode()
            await self.bus.append(self._topic(channel.id), body, key=effect.key)

    async def announce(self, effect: Effect[Any]) -> None:
        """Side effect: tell all processes whose memberships changed; they read them again."""
        images = (effect.event.record, effect.event.old_record)
        users = {getattr(image, self.user).id for image in images if image is not None}
        await self.bus.publish(self._control, msgspec.json.encode(_Changed(sorted(users))).decode())

    # --- Clients ------------------------------------------------------------------------------------------------------

    async def join(self, connection: Connection) -> None:
        """A client came: it receives its channels from here on.

        Raises, so that it tries again, if they can't be read.
        """
        if connection.user is not None:
            self.hub.add(connection.user.id, connection)
            await self._refresher.request([connection.user.id])
            # Also with no channels: now the client knows that.
            await self._tell_membership([connection], always=True)

    async def leave(self, connection: Connection) -> None:
        """A client is gone."""
        if connection.user is not None:
            before, of_user = self.hub.channels(), self.hub.channels_of(connection.user.id)
            self.hub.remove(connection.user.id, connection)
            self._note_presence(of_user)
            await self._follower.unfollow(self._topics(before - self.hub.channels()))

    @api()
    async def resume(self, ctx: Context, channels: list[Position]) -> list[Resumed]:
        """What each of these channels had after the position, oldest first.

        `recovered` false means that some of it is no longer there: read the channel anew and go on from the position
        given. `more` means that there is more: ask again, from the position given.
        """
        if len(channels) > RESUMED_CHANNELS_MAX:
            raise Rejected("too_many_channels", f"Resume at most {RESUMED_CHANNELS_MAX} channels at a time.")
        members = await self._member_of(ctx, [position.channel for position in channels])
        messages, characters = RESUMED_MESSAGES_MAX, RESUMED_CHARACTERS_MAX
        found: list[Resumed] = []
        for position in channels:
            if position.channel not in members:
                found.append(Resumed.refused(position))
                continue
            # With nothing left to give, one message more is read to know whether there is any.
            stamp = Stamp(position.epoch, position.offset)
            page = await self.bus.since(self._topic(position.channel), stamp, count=max(1, messages))
            resumed = Resumed.of(position, page, messages_max=messages, characters_max=characters)
            messages -= len(resumed.messages)
            characters -= sum(len(bytes(each)) for each in resumed.messages)
            found.append(resumed)
        return found

    @api()
    async def present(self, ctx: Context, channel: int) -> list[int]:
        """The ids of the users that are connected and members of the channel, in any process."""
        if not self.presence:
            raise Rejected("no_presence", "This app does not tell who is connected (RedisChannels(presence=True)).")
        if channel not in await self._member_of(ctx, [channel]):
            raise Rejected("not_allowed", "Only members are told who is on a channel.")
        topic = self._topic(channel)
        known = None if self._presence is None else self._presence.users(topic)
        if known is None:
            known = (await self.bus.attend(topic, came=(), gone=(), known=None)).users
        return sorted(known or ())

    async def _member_of(self, ctx: Context, channels: Collection[int]) -> set[int]:
        """Which of `channels` the user who asks is a member of, by the database."""
        of_user = match(f"{self.user}.id", "=", ctx.user.id) & match(f"{self.channel}.id", "in", sorted(set(channels)))
        return {getattr(row, self.channel).id for row in await self._store.find(self.membership, of_user)}

    # --- The bus ------------------------------------------------------------------------------------------------------

    async def received(self, topic: str, text: str, stamp: Stamp | None) -> None:
        """The bus brings a message, word of changed memberships, or of who is there."""
        if topic == self._control:
            connected = set(self.hub.users())
            self._refresher.note(connected & set(msgspec.json.decode(text, type=_Changed).users))
        elif stamp is not None:
            await self._follower.received(topic, text, stamp)
        elif self._presence is not None:
            await self._presence.received(topic, text)

    async def reconnected(self) -> None:
        """Word of changed memberships may have been missed: read them all again before anything is followed."""
        await self._refresher.request(self.hub.users())

    async def restored(self) -> None:
        """Messages may have been missed: the logs have them."""
        self._follower.check()
        self._note_presence(self.hub.channels())

    async def _deliver(self, topic: str, epoch: str, entries: Sequence[Entry]) -> None:
        channel = _channel(topic)
        for entry in entries:
            await send_to_all(self.hub.listeners(channel), words.message(channel, epoch, entry))

    async def _tell_gap(self, stamps: Mapping[str, Stamp]) -> None:
        for topic, stamp in stamps.items():
            position = Position(_channel(topic), *stamp)
            await send_to_all(self.hub.listeners(position.channel), words.gap([position]))

    async def _became_ready(self, topics: Collection[str]) -> None:
        channels = [_channel(topic) for topic in topics]
        connections = {each.id: each for channel in channels for each in self.hub.connections_on(channel)}
        await self._tell_membership(connections.values())

    # --- Membership ---------------------------------------------------------------------------------------------------

    async def _refresh(self, users: frozenset[int]) -> None:
        rows = await self._store.find(self.membership, match(f"{self.user}.id", "in", sorted(users)))
        channels: dict[int, set[int]] = {user: set() for user in users}
        for row in rows:
            channels[getattr(row, self.user).id].add(getattr(row, self.channel).id)
        before = self.hub.channels()
        for user, found in channels.items():
            self._note_presence(self.hub.channels_of(user) ^ found)
            self.hub.set_channels(user, found)
        after = self.hub.channels()
        await self._follower.unfollow(self._topics(before - after))
        await self._follower.follow(self._topics({channel for user in users for channel in self.hub.channels_of(user)}))
        # Who has just come is told by `join`.
        known = [each for user in users for each in self.hub.connections_of(user) if self.hub.told(each) is not None]
        await self._tell_membership(known)

    async def _tell_membership(self, connections: Iterable[Connection], *, always: bool = False) -> None:
        """Tell which channels are live for a client now, and which no longer."""
        for connection in connections:
            told, member = self.hub.told(connection) or frozenset(), self.hub.channels_of(connection.user.id)
            if gone := told - member:
                self.hub.stop(connection, gone)
                await send_to_all([connection], words.left(sorted(gone)))
            stamps = {channel: self._follower.stamp(self._topic(channel)) for channel in sorted(member - told)}
            fresh = [Position(channel, *stamp) for channel, stamp in stamps.items() if stamp is not None]
            if fresh or always:
                # Nothing waits between reading the stamps and listening: what comes after them is sent from here on.
                self.hub.listen(connection, [position.channel for position in fresh])
                await send_to_all([connection], words.joined(fresh))

    # --- Presence -----------------------------------------------------------------------------------------------------

    def _note_presence(self, channels: Iterable[int]) -> None:
        if self._presence is not None:
            self._presence.note(self._topics(channels))

    def _users_on(self, topic: str) -> frozenset[int]:
        return self.hub.users_on(_channel(topic))

    async def _tell_presence(self, topic: str, came: frozenset[int], gone: frozenset[int]) -> None:
        channel = _channel(topic)
        text = words.presence_changed(channel, sorted(came), sorted(gone))
        await send_to_all(self.hub.listeners(channel), text)

    # --- Names --------------------------------------------------------------------------------------------------------

    def _topic(self, channel: int) -> str:
        return f"{self.prefix}:channel:{channel}"

    def _topics(self, channels: Iterable[int]) -> list[str]:
        return [self._topic(channel) for channel in sorted(channels)]

    def _open_bus(self) -> AbstractAsyncContextManager[Bus]:
        limits = Limits(
            length=self.history_length, seconds=self.history_seconds, presence_seconds=self.presence_seconds
        )
        if self.redis_url == "memory://":
            return nullcontext(MemoryBus(limits=limits))
        try:
            # Only who uses Redis needs its client installed.
            from ensue.integrations.channels.redis_bus import open_bus

            return open_bus(self.redis_url, clock=self.clock, limits=limits)
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


def _channel(topic: str) -> int:
    return int(topic.rpartition(":")[2])
