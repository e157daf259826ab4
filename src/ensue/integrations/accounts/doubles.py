"""What stands in for the slow and the outside parts of accounts in a test.

Decides nothing about accounts: all else runs as in production. Invariant: a hash made here is recognised as such, so
it can't be mistaken for one that protects something.
"""

from __future__ import annotations

import hashlib

from ensue.integrations.accounts.messages import AccountMessage, Purpose
from ensue.integrations.accounts.passwords import Compared, normalised

_MARK = "insecure-for-tests:"


class QuickPasswords:
    """Hashes at once, so that a test with many logins is quick: `AppHarness(app, clients={"accounts.passwords":
    QuickPasswords()})`.

    `outdated` says that hashes should be made anew, as if parameters had changed.
    """

    def __init__(self) -> None:
        self.outdated = False
        self.compared: list[bool] = []

    async def hash(self, password: str, /) -> str:
        """A hash that protects nothing."""
        return _MARK + hashlib.sha256(normalised(password).encode()).hexdigest()

    async def compare(self, password_hash: str | None, password: str, /) -> Compared:
        """As Argon2 would answer."""
        right = password_hash == await self.hash(password)
        self.compared.append(right)
        return Compared(right, outdated=right and self.outdated)


class Mailbox:
    """Keeps what is sent: `Accounts(send=mailbox.send, …)`; `fail` is raised in place of the next messages."""

    def __init__(self) -> None:
        self.messages: list[AccountMessage] = []
        self.fail: Exception | None = None

    async def send(self, message: AccountMessage) -> None:
        """Keep the message."""
        if self.fail is not None:
            raise self.fail
        self.messages.append(message)

    def token(self, purpose: Purpose, login: str) -> str:
        """The token of the newest message for this purpose and login. Raises LookupError if there is none."""
        for message in reversed(self.messages):
            if (message.purpose, message.login) == (purpose, login):
                return message.token
        raise LookupError(f"No message {purpose!r} was sent to {login!r}.")
