"""One-time tokens: made for a purpose, sent to somebody, used once.

Decides when one is still good. Leaves what it is good for to `Accounts`. Invariant: of any number of requests with one
token, one succeeds.
"""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import Any

from ensue.clock import Clock
from ensue.engine.store import Store
from ensue.errors import Rejected
from ensue.integrations.accounts.records import AccountToken
from ensue.integrations.accounts.tokens import Tokens, read_once


class OneTimeTokens:
    """The one-time tokens of an app."""

    def __init__(self, store: Store, clock: Clock, tokens: Tokens) -> None:
        self._store = store
        self._clock = clock
        self._tokens = tokens

    async def make(self, purpose: str, *, lifetime: timedelta, user: int | None = None, **values: Any) -> Any:
        """A new token's record."""
        return await self._store.create(
            "AccountToken",
            purpose=purpose,
            salt=secrets.token_urlsafe(32),
            expires_at=self._clock.now() + lifetime,
            user=user,
            **values,
        )

    def text(self, row: Any) -> str:
        """The token itself, which is kept nowhere."""
        return self._tokens.once(row.purpose, row.id, row.salt)

    def good(self, row: Any) -> bool:
        """Whether it can still be used."""
        return row is not None and row.used_at is None and row.expires_at > self._clock.now()

    async def read(self, id: int) -> Any:
        """The record with this id; None if there is none."""
        return await self._store.find_one("AccountToken", AccountToken.id == id)

    async def find(self, text: str, purpose: str) -> Any:
        """The record of a token that is still good. Raises `Rejected("token_invalid")`."""
        token = read_once(text)
        row: Any = None if token is None else await self.read(token.id)
        if row is None or token is None or not self._tokens.is_once(token, purpose, row.salt):
            raise _invalid()
        if row.purpose != purpose or not self.good(row):
            raise _invalid()
        return row

    async def use(self, row: Any) -> None:
        """Use it up, in the caller's transaction if there is one. Raises `Rejected("token_invalid")` if it was."""
        unused = (AccountToken.id == row.id) & AccountToken.used_at.is_null()
        # What a registration kept for this moment is of no use afterwards.
        if not await self._store.update_many(AccountToken, unused, used_at=self._clock.now(), password_hash=""):
            raise _invalid()

    async def prune(self, *, older_than: timedelta) -> int:
        """Forget those that came to their end that long ago."""
        return await self._store.delete_many(AccountToken, AccountToken.expires_at < self._clock.now() - older_than)


def _invalid() -> Rejected:
    return Rejected("token_invalid", "This link or code is not valid any more. Ask for a new one.")
