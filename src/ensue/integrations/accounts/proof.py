"""Proof: whether a password is the one of a login, counted.

Decides what an attempt costs and how a login is written. Leaves what is done with a proof to `Accounts`. Invariant:
for a login that nobody has, the same is counted, hashed and written as for one that somebody has.
"""

from __future__ import annotations

import unicodedata
from typing import Any

from ensue.engine.store import Store
from ensue.errors import InvalidValue, Unavailable
from ensue.integrations.accounts.lockout import Lockout, LockoutPolicy
from ensue.integrations.accounts.passwords import Passwords
from ensue.integrations.accounts.records import AccountCredential
from ensue.integrations.accounts.tokens import Tokens

LOGIN_CHARACTERS_MAX = 254
BY_ACCOUNT = frozenset({"account", "register_login", "reset_login"})
"""The kinds of subjects that are counted by `LockoutPolicy.account`; others are network addresses."""


class Proof:
    """Proves who knows a password."""

    def __init__(
        self, store: Store, *, lockout: Lockout, policy: LockoutPolicy, passwords: Passwords, tokens: Tokens
    ) -> None:
        self._store = store
        self._lockout = lockout
        self._policy = policy
        self._passwords = passwords
        self._tokens = tokens

    async def credential(self, name: str) -> Any:
        """The credential of a login; None if nobody has it."""
        return await self._store.find_one("AccountCredential", AccountCredential.login == name)

    async def of(self, name: str, address: str, password: str) -> Any:
        """The credential of this login, if the password is right; None else, also if there is none."""
        await self.charge(account=name, address=address)
        try:
            credential: Any = await self.credential(name)
            known = None if credential is None else credential.password_hash
            compared = await self._passwords.compare(known, password)
            renewed = await self._passwords.hash(password) if compared.outdated else None
        except Unavailable:
            await self._give_back(account=name, address=address)
            raise
        if credential is None or not compared.right:
            user = None if credential is None else credential.user.id
            await self._store.create("AccountEvent", kind="log_in_failed", user=user, address=address)
            return None
        if renewed is not None:
            unchanged = (AccountCredential.id == credential.id) & (AccountCredential.password_hash == known)
            await self._store.update_many(AccountCredential, unchanged, password_hash=renewed)
        await self.forgive(name)
        await self._give_back(address=address)
        return credential

    async def charge(self, **subjects: str) -> None:
        """Count an attempt of each, by what it is; an empty one is not known. Raises `TooManyAttempts`."""
        await self._lockout.charge(
            {
                self._tokens.subject(kind, text): self._policy.account if kind in BY_ACCOUNT else self._policy.address
                for kind, text in subjects.items()
                if text
            }
        )

    async def forgive(self, name: str) -> None:
        """Whoever has this login has proved it: what others guessed doesn't count any more."""
        await self._lockout.forgive(self._tokens.subject("account", name))

    async def _give_back(self, **subjects: str) -> None:
        for kind, text in subjects.items():
            if text:
                await self._lockout.give_back(self._tokens.subject(kind, text))


def normalised_login(login: str) -> str:
    """A login as it is kept: without surrounding space, in NFKC, without case. Raises `InvalidValue`.

    >>> normalised_login(" Ann@Example.com ")
    'ann@example.com'
    """
    name = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", login.strip()).casefold())
    if not 0 < len(name) <= LOGIN_CHARACTERS_MAX or not name.isprintable():
        raise InvalidValue("The login is empty, too long, or holds what can't be printed.", fields={"login": "is none"})
    return name
