"""Passwords: hashed and compared with Argon2id, off the event loop.

Decides how much is hashed at a time and how many may wait for it. Leaves which password belongs to whom to the
records. Invariants: a comparison takes as long for an account that doesn't exist as for one that does; no password is
in an error or a repr.
"""

from __future__ import annotations

import asyncio
import secrets
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from ensue.errors import DeclarationError, Problem, Unavailable
from ensue.integrations.settings.environment import WRONG_SETTING

if TYPE_CHECKING:
    from argon2 import PasswordHasher

T = TypeVar("T")

WAITING_MAX = 64
"""Beyond it a login is refused at once: who waits longer than for 64 hashes has given up."""


@dataclass(frozen=True, slots=True)
class Compared:
    """Whether a password was right, and whether its hash should be made anew, with the parameters of today."""

    right: bool
    outdated: bool = False


class Passwords(Protocol):
    """Hashes and compares; what `Accounts` enters as `"accounts.passwords"`."""

    async def hash(self, password: str, /) -> str: ...

    async def compare(self, password_hash: str | None, password: str, /) -> Compared: ...


@dataclass(frozen=True, slots=True)
class Argon2Parameters:
    """The cost of a hash. The defaults are those of RFC 9106 for little memory: 64 MiB, three passes."""

    time_cost: int = 3
    memory_kib: int = 65_536
    parallelism: int = 4


class Argon2Passwords:
    """`Passwords` by argon2-cffi, in `threads` threads; an async context manager.

    Raises `Unavailable` when too many wait already. Hashing releases the interpreter's lock, so threads are enough.
    """

    def __init__(self, parameters: Argon2Parameters, *, threads: int = 2) -> None:
        self._hasher = _hasher(parameters)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="ensue-argon2")
        self._waiting = 0
        self._nobody = ""

    async def __aenter__(self) -> Self:
        self._nobody = await self.hash(secrets.token_urlsafe(32))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def hash(self, password: str, /) -> str:
        """The hash of `password`, with its parameters and salt."""
        return await self._run(lambda: self._hasher.hash(normalised(password)))

    async def compare(self, password_hash: str | None, password: str, /) -> Compared:
        """Whether `password` is the one that was hashed; with None, for nobody, it takes as long and is wrong."""
        return await self._run(lambda: self._compare(password_hash, normalised(password)))

    def _compare(self, password_hash: str | None, password: str) -> Compared:
        from argon2.exceptions import InvalidHashError, VerificationError

        known = self._nobody if password_hash is None else password_hash
        try:
            self._hasher.verify(known, password)
        except (VerificationError, InvalidHashError):
            return Compared(right=False)
        return Compared(password_hash is not None, outdated=self._hasher.check_needs_rehash(known))

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= WAITING_MAX:
            raise Unavailable(f"{self._waiting} passwords wait to be hashed. Try again in a moment.")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._waiting -= 1


def normalised(password: str) -> str:
    """The password as it is hashed: keyboards differ in how they compose a letter (NFC)."""
    return unicodedata.normalize("NFC", password)


def _hasher(parameters: Argon2Parameters) -> PasswordHasher:
    try:
        from argon2 import PasswordHasher
    except ImportError as failure:
        raise DeclarationError(
            Problem(WRONG_SETTING, f"Accounts need Argon2: pip install 'ensue[accounts]' ({failure}).")
        ) from failure
    return PasswordHasher(
        time_cost=parameters.time_cost, memory_cost=parameters.memory_kib, parallelism=parameters.parallelism
    )
