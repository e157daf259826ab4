"""Who in this process listens to which channel: connections, their users, and the users' channels.

Decides membership in memory only; leaves reading it to the integration and transport to a bus. Invariants: a channel is
wanted exactly while a connected user is known to be a member of it; a connection listens to it from when it was told so
until its user is no longer a member.
"""

from __future__ import annotations

from collections.abc import Iterable

from ensue.integrations.connection import Connection


class Hub:
    """Connections by user, and channels by user.

    >>> hub = Hub()
    >>> hub.set_channels(1, [7])
    >>> list(hub.users())
    []
    """

    def __init__(self) -> None:
        self._connections: dict[int, dict[str, Connection]] = {}
        self._channels: dict[int, frozenset[int]] = {}
        self._members: dict[int, set[int]] = {}
        self._told: dict[str, set[int]] = {}
        self._listening: dict[int, dict[str, Connection]] = {}

    def add(self, user: int, connection: Connection) -> None:
        """Note that `connection` is the user's."""
        self._connections.setdefault(user, {})[connection.id] = connection

    def remove(self, user: int, connection: Connection) -> None:
        """Forget `connection`, and with the user's last one the user's channels."""
        self._silence([connection], self._told.pop(connection.id, ()))
        of_user = self._connections.get(user, {})
        of_user.pop(connection.id, None)
        if not of_user:
            self._connections.pop(user, None)
            self._set(user, frozenset())

    def set_channels(self, user: int, channels: Iterable[int]) -> None:
        """What the user is a member of now; without effect for a user who is not connected."""
        if user in self._connections:
            self._set(user, frozenset(channels))

    def users(self) -> tuple[int, ...]:
        """The users who are connected."""
        return tuple(self._connections)

    def channels(self) -> set[int]:
        """Every channel that somebody who is connected here is a member of."""
        return set(self._members)

    def channels_of(self, user: int) -> frozenset[int]:
        """The channels of one connected user."""
        return self._channels.get(user, frozenset())

    def users_on(self, channel: int) -> frozenset[int]:
        """The connected users who are members of a channel."""
        return frozenset(self._members.get(channel, ()))

    def connections_of(self, user: int) -> tuple[Connection, ...]:
        """The connections of one user."""
        return tuple(self._connections.get(user, {}).values())

    def connections_on(self, channel: int) -> tuple[Connection, ...]:
        """The connections of the members of one channel, whether they listen yet or not."""
        users = self._members.get(channel, ())
        return tuple(connection for user in users for connection in self.connections_of(user))

    def listeners(self, channel: int) -> tuple[Connection, ...]:
        """The connections that a message on `channel` goes to."""
        return tuple(self._listening.get(channel, {}).values())

    def told(self, connection: Connection) -> frozenset[int] | None:
        """Which channels the connection was told that it listens to; None before it was told anything."""
        found = self._told.get(connection.id)
        return None if found is None else frozenset(found)

    def listen(self, connection: Connection, channels: Iterable[int]) -> None:
        """The connection has been told that it listens to these too."""
        if connection.id in self._connections.get(connection.user.id, {}):
            told = self._told.setdefault(connection.id, set())
            told.update(channels)
            for channel in told & self.channels_of(connection.user.id):
                self._listening.setdefault(channel, {})[connection.id] = connection

    def stop(self, connection: Connection, channels: Iterable[int]) -> None:
        """The connection has been told that it listens to these no more."""
        self._told.get(connection.id, set()).difference_update(channels)
        self._silence([connection], channels)

    def _silence(self, connections: Iterable[Connection], channels: Iterable[int]) -> None:
        ids = [connection.id for connection in connections]
        for channel in channels:
            listening = self._listening.get(channel, {})
            for id_ in ids:
                listening.pop(id_, None)
            if not listening:
                self._listening.pop(channel, None)

    def _set(self, user: int, channels: frozenset[int]) -> None:
        before = self._channels.pop(user, frozenset())
        if channels:
            self._channels[user] = channels
        for channel in channels - before:
            self._members.setdefault(channel, set()).add(user)
        # At once, before anybody is told: what is said from here on is not for them.
        self._silence(self.connections_of(user), before - channels)
        for channel in before - channels:
            members = self._members[channel]
            members.discard(user)
            if not members:
                del self._members[channel]
