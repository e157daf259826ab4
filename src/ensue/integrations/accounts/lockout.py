"""Lockout: who failed often has to wait, longer each time.

Decides how long, and counts. Leaves what a failure is to its caller, who pays for an attempt before it is made, so
that many at a time gain nothing, and is given back what a success cost. Invariant: it is counted by what was tried,
whether or not there is such an account, so the answers tell nothing about that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ensue.clock import Clock
from ensue.engine.store import Store
from ensue.errors import ConstraintViolated, Rejected
from ensue.integrations.accounts.records import AccountAttempt

DOUBLINGS_MAX = 40


class TooManyAttempts(Rejected):
    """Try again after `retry_after_seconds`; over HTTP it is 429 with `Retry-After`."""

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__("too_many_attempts", "Too many attempts. Wait a while before the next one.")
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, slots=True)
class Pauses:
    """How long who failed has to wait: nothing for the first `free` times, then `first`, doubled each time to `longest`.

    After `forgotten` without a failure the count begins anew.

    >>> Pauses(free=2, first=timedelta(seconds=1)).after(4)
    datetime.timedelta(seconds=2)
    """

    free: int = 5
    first: timedelta = timedelta(seconds=1)
    longest: timedelta = timedelta(minutes=15)
    forgotten: timedelta = timedelta(days=1)

    def after(self, failures: int) -> timedelta:
        """The pause after that many failures in a row."""
        over = failures - self.free
        return timedelta(0) if over <= 0 else min(self.longest, self.first * 2 ** min(over - 1, DOUBLINGS_MAX))


@dataclass(frozen=True, slots=True)
class LockoutPolicy:
    """The pauses of each account, and of each network address, from which many accounts may be tried."""

    account: Pauses = field(default_factory=Pauses)
    address: Pauses = field(default_factory=lambda: Pauses(free=20))


class Lockout:
    """Counts attempts in the database, so that all processes count together."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def charge(self, subjects: Mapping[str, Pauses]) -> None:
        """Count one attempt of each subject. Raises `TooManyAttempts`, and counts nothing, while one has to wait."""
        for subject in subjects:
            await self._ensure(subject)
        await self._store.run(lambda: self._charge(subjects))

    async def forgive(self, subject: str) -> None:
        """The subject has proved who it is: its count begins anew."""
        await self._store.update_many(AccountAttempt, AccountAttempt.subject == subject, failures=0, blocked_until=None)

    async def give_back(self, subject: str) -> None:
        """The attempt was no failure: it doesn't count, but earlier ones do."""
        failed = (AccountAttempt.subject == subject) & (AccountAttempt.failures > 0)
        await self._store.update_many(AccountAttempt, failed, failures=AccountAttempt.failures - 1, blocked_until=None)

    async def prune(self, *, older_than: timedelta) -> int:
        """Forget what is too long ago to count."""
        return await self._store.delete_many(AccountAttempt, AccountAttempt.last_at < self._clock.now() - older_than)

    async def _ensure(self, subject: str) -> None:
        if await self._store.find_one(AccountAttempt, AccountAttempt.subject == subject) is None:
            try:
                await self._store.create(AccountAttempt(subject=subject))
            except ConstraintViolated:
                return  # somebody else just did

    async def _charge(self, subjects: Mapping[str, Pauses]) -> None:
        now = self._clock.now()
        # In one order, as others lock the same rows.
        for subject in sorted(subjects):
            found = AccountAttempt.subject == subject
            # Takes the row's lock, so what is read next stays true.
            await self._store.update_many(AccountAttempt, found, failures=AccountAttempt.failures + 1)
            attempt = await self._store.find_one(AccountAttempt, found)
            if attempt is not None:
                await self._settle(attempt, subjects[subject], now)

    async def _settle(self, attempt: AccountAttempt, pauses: Pauses, now: datetime) -> None:
        if attempt.blocked_until is not None and attempt.blocked_until > now:
            raise TooManyAttempts((attempt.blocked_until - now).total_seconds())
        failures = 1 if attempt.last_at < now - pauses.forgotten else attempt.failures
        pause = pauses.after(failures)
        await self._store.update(
            AccountAttempt,
            attempt.id,
            failures=failures,
            last_at=now,
            blocked_until=now + pause if pause else None,
        )
