"""Sessions: begun by a login, continued by refresh tokens, ended by whoever may.

Decides when a session counts as alive and what a refresh token is worth. Leaves who may do what to `Accounts`.
Invariants: of a session's refresh tokens only the newest continues it; an older one that is shown again ends it, since
then two have it, except within a grace in which a client may have lost the answer; what ends a session here is heeded
here at once, and in every other process within the interval of its patrol.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from weakref import WeakSet

from ensue.background import Background
from ensue.clock import Clock
from ensue.engine.store import Store
from ensue.errors import Rejected, Unavailable
from ensue.expression.trace import match
from ensue.integrations.accounts.records import AccountSession
from ensue.integrations.accounts.tokens import Claims, Tokens, digest, read_refresh, same
from ensue.integrations.connection import Authenticated

logger = logging.getLogger("ensue.integrations.accounts")

REMEMBERED_MAX = 10_000
ASKED_AT_ONCE = 1_000
LABEL_CHARACTERS_MAX = 200


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long an access token, an unused refresh token and a session live, and how long an old refresh token is
    forgiven."""

    access: timedelta
    refresh: timedelta
    session: timedelta
    grace: timedelta


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that lives, and the two tokens that its client gets now."""

    user: int
    session: int
    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_in_seconds: int
    refresh_expires_in_seconds: int


class Presence:
    """One client that is let in: what its access token says, for as long as that holds."""

    def __init__(self, sessions: Sessions, claims: Claims) -> None:
        self._sessions = sessions
        self.claims = claims
        self.ended = False
        self.changed = asyncio.Event()

    def authenticated(self, user: Any) -> Authenticated:
        """What the server is given."""
        return Authenticated(user, self.remaining, self.changed)

    async def remaining(self) -> float:
        """The seconds that are left. Asked for a WebSocket only, which the patrol looks after from here on."""
        self._sessions.look_after(self)
        return 0.0 if self.ended else max(0.0, self.claims.expires - self._sessions.clock.now().timestamp())

    def renew(self, claims: Claims) -> None:
        """Stay for as long as a newer token of the same user says."""
        self.claims = claims
        self.changed.set()

    def end(self) -> None:
        """The session has ended."""
        self.ended = True
        self.changed.set()


class Sessions(Background):
    """The sessions of an app, as one process knows them; an async context manager, in which the patrol goes round."""

    task_name = "ensue.accounts.patrol"

    def __init__(self, store: Store, clock: Clock, *, tokens: Tokens, lifetimes: Lifetimes, check: timedelta) -> None:
        self.clock = clock
        self._store = store
        self._tokens = tokens
        self._lifetimes = lifetimes
        self._check_seconds = check.total_seconds()
        self._known: dict[int, tuple[float, int | None]] = {}
        """When a session was read last, and whose it was; None if it had ended."""
        self._present: dict[int, WeakSet[Presence]] = {}
        self._touched: set[int] = set()
        self._commits = 0
        self._wake = asyncio.Event()

    # --- Beginning, going on, ending ----------------------------------------------------------------------------------

    async def open(self, user: int, *, address: str, label: str) -> Opened:
        """A new session, in the caller's transaction."""
        now = self.clock.now()
        salt = secrets.token_urlsafe(32)
        row = await self._store.create(
            "AccountSession",
            user=user,
            expires_at=now + self._lifetimes.session,
            refresh_expires_at=now + self._lifetimes.refresh,
            salt=salt,
            generation=1,
            refresh_hash="",
            label=label[:LABEL_CHARACTERS_MAX],
            address=address,
        )
        token = self._tokens.refresh(row.id, 1, salt)
        await self._store.update(AccountSession, row.id, refresh_hash=digest(token))
        return self._opened(row, token)

    async def continue_(self, text: str) -> Opened:
        """The session that a refresh token continues, with new tokens.

        Raises `Rejected("not_authenticated")`; the session is ended if the token was used before, longer ago than the
        grace.
        """
        token = read_refresh(text)
        row = None if token is None else await self._read(token.session)
        if token is None or row is None or not self._tokens.is_refresh(token, row.salt) or not self._lives(row):
            raise _no_session()
        if token.generation == row.generation and same(digest(text), row.refresh_hash):
            renewed = await self._rotate(row)
            if renewed is not None:
                return self._opened(row, renewed)
            row = await self._read(token.session)
        if row is None or not self._lives(row) or token.generation >= row.generation:
            raise _no_session()
        newest = self._tokens.refresh(row.id, row.generation, row.salt)
        recent = self.clock.now() - row.rotated_at <= self._lifetimes.grace
        if token.generation == row.generation - 1 and recent and same(digest(newest), row.refresh_hash):
            return self._opened(row, newest)
        await self._end_for_reuse(row)
        raise _no_session()

    async def end(self, condition: Any, *, by: str) -> int:
        """End those sessions that satisfy `condition` and live; gives how many."""
        living = condition & AccountSession.ended_at.is_null()
        return await self._store.update_many(AccountSession, living, ended_at=self.clock.now(), ended_by=by)

    async def of_user(self, user: int) -> list[Any]:
        """The user's sessions that live, the newest first."""
        found: list[Any] = await self._store.find(
            "AccountSession", _of(user) & AccountSession.ended_at.is_null(), order_by=["-started_at"]
        )
        return [row for row in found if self._lives(row)]

    async def end_of_user(self, user: int, *, by: str, session: int | None = None, but: int | None = None) -> int:
        """End the sessions of a user: one, or all, or all but one."""
        condition = _of(user)
        if session is not None:
            condition &= AccountSession.id == session
        if but is not None:
            condition &= AccountSession.id != but
        return await self.end(condition, by=by)

    async def prune(self, *, older_than: timedelta) -> int:
        """Forget sessions that came to their end that long ago."""
        return await self._store.delete_many(AccountSession, AccountSession.expires_at < self.clock.now() - older_than)

    async def _rotate(self, row: Any) -> str | None:
        """The next refresh token; None if another request was quicker."""
        now = self.clock.now()
        token = self._tokens.refresh(row.id, row.generation + 1, row.salt)
        this = (AccountSession.id == row.id) & (AccountSession.generation == row.generation)
        changed = await self._store.update_many(
            AccountSession,
            this & AccountSession.ended_at.is_null(),
            generation=row.generation + 1,
            refresh_hash=digest(token),
            rotated_at=now,
            refresh_expires_at=now + self._lifetimes.refresh,
        )
        return token if changed else None

    async def _end_for_reuse(self, row: Any) -> None:
        async def work() -> None:
            if await self.end(AccountSession.id == row.id, by="refresh_reused"):
                await self._store.create("AccountEvent", kind="refresh_reused", user=row.user.id, session=row.id)

        await self._store.run(work)
        logger.warning("session %d of user %d was ended: a used refresh token came again", row.id, row.user.id)

    def _opened(self, row: Any, refresh_token: str) -> Opened:
        now = self.clock.now()
        ends = min(now + self._lifetimes.access, row.expires_at)
        claims = Claims(row.user.id, row.id, int(ends.timestamp()))
        left = min(now + self._lifetimes.refresh, row.expires_at) - now
        return Opened(
            user=row.user.id,
            session=row.id,
            access_token=self._tokens.access(claims),
            refresh_token=refresh_token,
            expires_in_seconds=max(0, int((ends - now).total_seconds())),
            refresh_expires_in_seconds=max(0, int(left.total_seconds())),
        )

    def _lives(self, row: Any) -> bool:
        now = self.clock.now()
        return row.ended_at is None and row.expires_at > now and row.refresh_expires_at > now

    async def _read(self, session: int) -> Any:
        return await self._store.find_one("AccountSession", AccountSession.id == session)

    # --- Who is let in ------------------------------------------------------------------------------------------------

    async def admit(self, token: str) -> Presence:
        """The client with this access token. Raises `Rejected("not_authenticated")` if its session has ended."""
        claims = self._tokens.read_access(token, now=self.clock.now())
        return await self.admit_claims(claims)

    async def admit_claims(self, claims: Claims) -> Presence:
        """The same, of claims that were verified."""
        known = self._known.get(claims.session)
        if known is None or self.clock.monotonic_seconds() - known[0] >= self._check_seconds:
            owners = await self._look([claims.session])
        else:
            owners = {claims.session: known[1]}
        if owners[claims.session] != claims.user:
            raise Rejected("not_authenticated", "The session has ended. Sign in.")
        return Presence(self, claims)

    def look_after(self, presence: Presence) -> None:
        """Have the patrol end `presence` when its session ends."""
        self._present.setdefault(presence.claims.session, WeakSet()).add(presence)

    def touched(self, names: Mapping[str, frozenset[int]]) -> None:
        """A commit of this process changed these records."""
        if found := names.get("AccountSession"):
            self._commits += 1
            for session in found:
                self._known.pop(session, None)
            self._touched |= found & self._present.keys()
            self._wake.set()

    async def _look(self, sessions: Iterable[int]) -> dict[int, int | None]:
        """Whose these sessions are now; None of one that has ended."""
        asked = sorted(sessions)
        commits = self._commits
        rows: list[Any] = await self._store.find("AccountSession", AccountSession.id.in_(asked))
        alive = {row.id: row.user.id for row in rows if row.ended_at is None and row.expires_at > self.clock.now()}
        owners = {session: alive.get(session) for session in asked}
        # A commit meanwhile may have been too late for what was read, and its word too early to clear it.
        if commits == self._commits:
            self._remember(owners)
        return owners

    def _remember(self, owners: Mapping[int, int | None]) -> None:
        now = self.clock.monotonic_seconds()
        for session, owner in owners.items():
            self._known.pop(session, None)
            self._known[session] = (now, owner)
        while len(self._known) > REMEMBERED_MAX:
            del self._known[next(iter(self._known))]

    async def _run(self) -> None:
        """Look after those who are connected: all of them often, and some at once after a commit of this process."""
        loop = asyncio.get_running_loop()
        all_at = loop.time() + self._check_seconds
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(all_at):
                    await self._wake.wait()
            self._wake.clear()
            asked, self._touched = self._touched, set()
            if loop.time() >= all_at:
                all_at = loop.time() + self._check_seconds
                self._present = {session: there for session, there in self._present.items() if there}
                asked |= self._present.keys()
            try:
                await self._go_round(asked)
            except Unavailable as error:
                # Tokens still expire, and the next round asks again.
                logger.warning("whether sessions were ended can't be read now: %s", error)

    async def _go_round(self, sessions: set[int]) -> None:
        asked = sorted(sessions)
        for start in range(0, len(asked), ASKED_AT_ONCE):
            owners = await self._look(asked[start : start + ASKED_AT_ONCE])
            for session, owner in owners.items():
                for presence in tuple(self._present.get(session, ())):
                    if owner is None:
                        presence.end()


def _of(user: int) -> Any:
    return match("user.id", "=", user)


def _no_session() -> Rejected:
    return Rejected("not_authenticated", "This refresh token continues no session. Sign in.")
