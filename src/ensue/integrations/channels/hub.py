"""Who in this process listens to which channel: connections, their users, and the users' channels.

Decides membership in memory only; leaves reading it to the integration and transport to a bus. Invariant: a channel has
listeners exactly while a connected user is known to be a member of it.
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
        self._listeners: dict[int, set[int]] = {}

    def add(self, user: int, connection: Connection) -> None:
        """Note that `connection` is the user's."""
        self._connections.setdefault(user, {})[connection.id] = connection

    def remove(self, user: int, connection: Connection) -> None:
        """Forget `connection`, and with the user's last one the user's channels."""
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
        """Every channel that somebody here listens to."""
        return set(self._listeners)

    def channels_of(self, user: int) -> frozenset[int]:
        """The channels of one connected user."""
        return self._channels.get(user, frozenset())

    def users_on(self, channel: int) -> frozenset[int]:
        """The connected users who are members of a channel."""
        return frozenset(self._listeners.get(channel, ()))

    def connections_of(self, user: int) -> tuple[Connection, ...]:
        """The connections of one user."""
        return tuple(self._connections.get(user, {}).values())

    def listeners(self, channel: int) -> tuple[Connection, ...]:
        """The connections that a message on `channel` goes to."""
        users = self._listeners.get(channel, ())
        return tuple(connection for user in users for connection in self._connections.get(user, {}).values())

    def _set(self, user: int, channels: frozenset[int]) -> None:
        before = self._channels.pop(user, frozenset())
        if channels:
            self._channels[user] = channels
        for channel in channels - before:
            self._listeners.setdefault(channel, set()).add(user)
        for channel in before - channels:
            listening = self._listeners[channel]
            listening.discard(user)
            if not listening:
                del self._listeners[channel]
