"""What is sent to the owner of an account, and what an app is told of a new one.

Decides what these values hold. Leaves how a message is sent to the app. Invariant: a token is in no repr, and an error
of the app's that quotes it is told without it, since errors are kept and logged.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias

import msgspec

Purpose = Literal["register", "exists", "reset"]


@dataclass(frozen=True, slots=True)
class AccountMessage:
    """Something to send to whoever owns `login`: an e-mail address or phone number, if that is what logins are.

    `purpose` says what for: `"register"` brings the token by which a registration is confirmed, `"reset"` the one by
    which a new password is set, and `"exists"` tells, without a token, that somebody tried to register it again. `key`
    is the same whenever the same message is sent again.
    """

    purpose: Purpose
    login: str
    key: str
    user: int | None = None
    expires_at: datetime | None = None
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Registration:
    """Who wants an account: `login` as it is kept, and the `profile` that the client gave, which nobody checked."""

    login: str
    profile: Mapping[str, Any] = field(default_factory=dict[str, Any])


Send: TypeAlias = Callable[[AccountMessage], Awaitable[object]]


class SignedIn(msgspec.Struct, frozen=True):
    """Who one is from now on. With cookies both tokens are empty here: they are in the cookies."""

    user: int
    session: int
    access_token: str
    refresh_token: str
    expires_in_seconds: int

    def __repr__(self) -> str:
        return f"SignedIn(user={self.user}, session={self.session}, …)"


class Accepted(msgspec.Struct, frozen=True):
    """It will be seen to, if there is such an account; the answer is the same if there is none."""

    accepted: bool = True


class Ticket(msgspec.Struct, frozen=True):
    """Good for opening one WebSocket, soon: `/ws?ticket=…`."""

    ticket: str
    expires_in_seconds: int

    def __repr__(self) -> str:
        return "Ticket(…)"


class SessionInfo(msgspec.Struct, frozen=True):
    """A session of one's own; `current` is the one that asks."""

    id: int
    started_at: datetime
    refreshed_at: datetime
    expires_at: datetime
    label: str
    address: str
    current: bool


class SendFailed(Exception):
    """An app's `send` failed, and its error held the token: here is what it said without it."""


async def send_safely(send: Send, message: AccountMessage) -> None:
    """Send `message`; an error that quotes the token is replaced by one that doesn't."""
    try:
        await send(message)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        if message.token and message.token in text:
            raise SendFailed(text.replace(message.token, "<hidden>")) from None
        raise
