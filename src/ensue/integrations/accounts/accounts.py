"""Accounts: who a client is, by a login and a password, and for how long.

Decides which calls there are and what each of them changes. Leaves tokens, passwords, sessions and counting to modules
of their own, and what a user is to the app. Invariants: each change is written together with the `AccountEvent` that
tells it; what is answered, and how long that takes, is the same whether or not there is an account; no password and no
token is in a log, an event, an effect or an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from ensue.errors import ConstraintViolated, DeclarationError, InvalidValue, Problem, Rejected
from ensue.expression.trace import match
from ensue.integrations.accounts.lockout import Lockout, LockoutPolicy
from ensue.integrations.accounts.messages import (
    Accepted,
    AccountMessage,
    Registration,
    Send,
    SessionInfo,
    SignedIn,
    Ticket,
    send_safely,
)
from ensue.integrations.accounts.once import OneTimeTokens
from ensue.integrations.accounts.passwords import Argon2Parameters, Argon2Passwords, Passwords
from ensue.integrations.accounts.proof import LOGIN_CHARACTERS_MAX, Proof, normalised_login
from ensue.integrations.accounts.records import AccountCredential, AccountEvent, AccountToken, add_records
from ensue.integrations.accounts.requests import (
    ACCESS_COOKIE,
    REFRESH_COOKIE,
    SCOPE,
    address_of,
    own_page,
    set_cookie,
    shown_by,
)
from ensue.integrations.accounts.sessions import Lifetimes, Opened, Presence, Sessions
from ensue.integrations.accounts.tokens import SECRET_BYTES_MIN, Claims, Tokens
from ensue.integrations.api import API, add_answer_header, api
from ensue.integrations.connection import Authenticated
from ensue.integrations.contract import Integration
from ensue.integrations.running.repeated import repeated
from ensue.integrations.settings.environment import WRONG_SETTING, env
from ensue.schema.effect import Effect, SideEffect
from ensue.schema.entity import Entity
from ensue.schema.interaction import Context
from ensue.schema.schema import Schema

if TYPE_CHECKING:
    from ensue.engine.controller import Controller

PASSWORD_CHARACTERS_MAX = 1_024
TICKET_LIFETIME = timedelta(seconds=30)
PRUNE_SECONDS = 3_600.0
KEPT = timedelta(days=30)
LIFETIMES = (
    "access_lifetime",
    "refresh_lifetime",
    "session_lifetime",
    "reset_lifetime",
    "registration_lifetime",
    "revocation_check",
    "events_kept",
)
COUNTS = ("password_characters_min", "argon2_time_cost", "argon2_parallelism", "argon2_threads")
# As browsers send it, or it would match nobody: in small letters, without a path. Apps on phones have schemes of their own.
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9_.\[\]:-]+")

Login = Annotated[str, msgspec.Meta(min_length=1, max_length=LOGIN_CHARACTERS_MAX)]
Password = Annotated[
    str,
    msgspec.Meta(
        min_length=1, max_length=PASSWORD_CHARACTERS_MAX, extra_json_schema={"format": "password", "writeOnly": True}
    ),
]
Token = Annotated[str, msgspec.Meta(max_length=512, extra_json_schema={"format": "password", "writeOnly": True})]
Label = Annotated[str, msgspec.Meta(max_length=200)]


class Accounts(Integration):
    """Registration, login and sessions for the users of an app.

    >>> accounts = Accounts(users=User, new_user=lambda who: User(name=who.login))
    >>> app = App(user=User, integrations={"accounts": accounts})
    >>> served = app.asgi(authenticate=accounts.authenticate)

    `new_user` makes the record of a new user (None: nobody can register). `send` sends messages to owners of accounts:
    with it passwords can be reset, and with `verification=True` registrations are confirmed. `check_password(login,
    password)` raises `Rejected` for one that is too easy. With `user_fields` the user is read, with these fields, for
    each request; without, callbacks get its id only. Further settings, and what each call does: `docs/integrations/
    accounts.md`.
    """

    users: type[Entity]
    new_user: Callable[[Registration], Entity] | None = None
    send: Send | None = None
    check_password: Callable[[str, str], None] | None = None
    user_fields: Sequence[Any] | None = None
    verification: bool = env("ACCOUNTS_VERIFICATION", default=False)
    secret: str = env("ACCOUNTS_SECRET")
    previous_secrets: list[str] = env("ACCOUNTS_PREVIOUS_SECRETS", default=[])
    password_characters_min: int = env("ACCOUNTS_PASSWORD_CHARACTERS_MIN", default=10, secret=False)
    argon2_time_cost: int = env("ACCOUNTS_ARGON2_TIME_COST", default=3)
    argon2_memory_kib: int = env("ACCOUNTS_ARGON2_MEMORY_KIB", default=65_536)
    argon2_parallelism: int = env("ACCOUNTS_ARGON2_PARALLELISM", default=4)
    argon2_threads: int = env("ACCOUNTS_ARGON2_THREADS", default=2)
    access_lifetime: timedelta = env("ACCOUNTS_ACCESS_LIFETIME", default=timedelta(minutes=10))
    refresh_lifetime: timedelta = env("ACCOUNTS_REFRESH_LIFETIME", default=timedelta(days=14))
    refresh_grace: timedelta = env("ACCOUNTS_REFRESH_GRACE", default=timedelta(seconds=10))
    session_lifetime: timedelta = env("ACCOUNTS_SESSION_LIFETIME", default=timedelta(days=90))
    reset_lifetime: timedelta = env("ACCOUNTS_RESET_LIFETIME", default=timedelta(minutes=30))
    registration_lifetime: timedelta = env("ACCOUNTS_REGISTRATION_LIFETIME", default=timedelta(days=1))
    revocation_check: timedelta = env("ACCOUNTS_REVOCATION_CHECK", default=timedelta(seconds=5))
    lockout: LockoutPolicy = LockoutPolicy()
    events_kept: timedelta = env("ACCOUNTS_EVENTS_KEPT", default=timedelta(days=365))
    cookies: bool = env("ACCOUNTS_COOKIES", default=False)
    cookie_origins: list[str] = env("ACCOUNTS_COOKIE_ORIGINS", default=[])

    # --- Life ---------------------------------------------------------------------------------------------------------

    async def configure(self, schema: Schema) -> None:
        add_records(schema, self.users)

    async def setup(self, controller: Controller) -> None:
        self._check_settings()
        self._store = store = controller.store
        self._tokens = Tokens([text.encode() for text in (self.secret, *self.previous_secrets)])
        self._once = OneTimeTokens(store, self.clock, self._tokens)
        self._lockout = Lockout(store, self.clock)
        parameters = Argon2Parameters(self.argon2_time_cost, self.argon2_memory_kib, self.argon2_parallelism)
        hashing: Any = Argon2Passwords(parameters, threads=self.argon2_threads)
        self._passwords: Passwords = await self.enter(hashing, name="passwords")
        self._proof = Proof(
            store, lockout=self._lockout, policy=self.lockout, passwords=self._passwords, tokens=self._tokens
        )
        lifetimes = Lifetimes(self.access_lifetime, self.refresh_lifetime, self.session_lifetime, self.refresh_grace)
        self._sessions = await self.enter(
            Sessions(store, self.clock, tokens=self._tokens, lifetimes=lifetimes, check=self.revocation_check),
            name="sessions",
        )
        controller.on_commit(lambda commit: self._sessions.touched(commit.touched))
        await self.enter(repeated(self._prune, seconds=PRUNE_SECONDS, name="pruning of accounts"), name="pruning")

    def create_side_effects(self) -> list[SideEffect]:
        if self.send is None:
            return []
        return [
            SideEffect(
                "send_message",
                AccountEvent,
                on="create",
                content=self._send_message,
                where=lambda event: ~event.token.is_null(),
            )
        ]

    def create_apis(self) -> list[API]:
        calls: list[Callable[..., Any]] = []
        if self.new_user is not None:
            calls += [self.request_registration, self.confirm_registration] if self.verification else [self.register]
        if self.send is not None:
            calls += [self.request_password_reset, self.reset_password]
        return [API(call.__name__, call, allow_anonymous=True) for call in calls]

    # --- Who asks -----------------------------------------------------------------------------------------------------

    async def authenticate(self, connection: Any) -> Authenticated | None:
        """The user of a request or a WebSocket, for `app.asgi(authenticate=…)`; None for one that shows nothing.

        Looks at `Authorization: Bearer …`, at `?ticket=…` of a WebSocket, and at the cookie, if there are cookies.
        Raises `Rejected("not_authenticated")` for a token that is forged, has expired, or whose session has ended; a
        cookie like that is as good as none. A WebSocket is closed when its session ends.
        """
        shown = shown_by(connection, cookies=self.cookies, origins=self.cookie_origins)
        if shown is None:
            return None
        try:
            if shown.kind == "ticket":
                presence = await self._admit_ticket(shown.text)
            else:
                presence = await self._sessions.admit(shown.text)
        except Rejected:
            # A browser sends what it has, also to the calls by which it would get a new one.
            if shown.kind == "cookie":
                return None
            raise
        connection.scope[SCOPE] = presence
        return presence.authenticated(await self._user(presence.claims.user))

    async def _user(self, id: int) -> Any:
        if self.user_fields is None:
            return self.users.ref(id)
        user = await self._store.find_one(self.users, match("id", "=", id), fields=[*self.user_fields])
        if user is None:
            raise Rejected("not_authenticated", "There is no such user any more.")
        return user

    async def _admit_ticket(self, text: str) -> Presence:
        row = await self._once.find(text, "socket")
        await self._once.use(row)
        return await self._sessions.admit_claims(msgspec.convert(row.profile, Claims))

    # --- Coming and going ---------------------------------------------------------------------------------------------

    @api(allow_anonymous=True)
    async def log_in(
        self, ctx: Context, login: Login, password: Password, *, label: Label = "", cookie: bool = False
    ) -> SignedIn:
        """Sign in. `label` is how the session is called in the list of them; `cookie` puts the tokens into cookies."""
        name, address = normalised_login(login), address_of(ctx.request)
        self._check_cookie(ctx, wanted=cookie)
        credential = await self._proof.of(name, address, password)
        if credential is None:
            raise Rejected("wrong_credentials", "There is no account with this login and password.")
        opened = await self._store.run(
            lambda: self._begin(credential.user.id, "logged_in", address=address, label=label)
        )
        return self._signed_in(ctx, opened, cookie=cookie)

    async def register(
        self,
        ctx: Context,
        login: Login,
        password: Password,
        *,
        profile: dict[str, Any] | None = None,
        label: Label = "",
        cookie: bool = False,
    ) -> SignedIn:
        """Make an account and sign in. `profile` is whatever the app wants to know of a new user."""
        self._check_cookie(ctx, wanted=cookie)
        registration = self._registration(login, password, profile)
        address = address_of(ctx.request)
        await self._proof.charge(register=address)
        password_hash = await self._passwords.hash(password)
        opened = await self._store.run(lambda: self._create(registration, password_hash, address=address, label=label))
        return self._signed_in(ctx, opened, cookie=cookie)

    async def request_registration(
        self, ctx: Context, login: Login, password: Password, profile: dict[str, Any] | None = None
    ) -> Accepted:
        """Ask for an account. A message to `login` brings the token that confirms it, if it is not taken."""
        registration = self._registration(login, password, profile)
        name, address = registration.login, address_of(ctx.request)
        await self._proof.charge(register=address, register_login=name)
        password_hash = await self._passwords.hash(password)
        taken = await self._proof.credential(name)
        kept: dict[str, Any] = {"purpose": "exists", "user": taken.user.id} if taken is not None else {}

        async def work() -> None:
            # The same writes either way, so that the time they take tells nothing.
            values: dict[str, Any] = {"purpose": "register", "login": name, "password_hash": password_hash, **kept}
            row = await self._once.make(
                lifetime=self.registration_lifetime, profile=dict(registration.profile), **values
            )
            await self._tell("registration_requested", address=address, token=row.id)

        await self._store.run(work)
        return Accepted()

    async def confirm_registration(
        self, ctx: Context, token: Token, label: Label = "", cookie: bool = False
    ) -> SignedIn:
        """Make the account that was asked for, and sign in."""
        self._check_cookie(ctx, wanted=cookie)
        address = address_of(ctx.request)
        row = await self._once.find(token, "register")

        async def work() -> Opened:
            await self._once.use(row)
            registration = Registration(row.login, row.profile)
            return await self._create(registration, row.password_hash, address=address, label=label)

        return self._signed_in(ctx, await self._store.run(work), cookie=cookie)

    @api(allow_anonymous=True)
    async def refresh(self, ctx: Context, refresh_token: Token = "") -> SignedIn:
        """New tokens for an old refresh token, which is used up by it. Without one the cookie's is meant."""
        from_cookie = not refresh_token and self.cookies
        if from_cookie:
            self._check_cookie(ctx, wanted=True)
            refresh_token = ctx.request.cookies.get(REFRESH_COOKIE, "")
        return self._signed_in(ctx, await self._sessions.continue_(refresh_token), cookie=from_cookie)

    @api()
    async def log_out(self, ctx: Context) -> Accepted:
        """End the session that asks: its tokens are worth nothing from here on."""
        session = _presence(ctx).claims.session
        await self._end(ctx, "logged_out", session=session)
        return Accepted()

    @api()
    async def log_out_everywhere(self, ctx: Context) -> Accepted:
        """End all sessions of the user, the one that asks included."""
        await self._end(ctx, "logged_out_everywhere")
        return Accepted()

    @api()
    async def sessions(self, ctx: Context) -> list[SessionInfo]:
        """The user's sessions, the newest first."""
        presence = _found_presence(ctx)
        current = None if presence is None else presence.claims.session
        return [
            SessionInfo(
                row.id, row.started_at, row.rotated_at, row.expires_at, row.label, row.address, row.id == current
            )
            for row in await self._sessions.of_user(_id(ctx.user))
        ]

    @api()
    async def end_session(self, ctx: Context, session: int) -> Accepted:
        """End one of the user's sessions."""
        await self._end(ctx, "logged_out", session=session)
        return Accepted()

    @api()
    async def socket_ticket(self, ctx: Context) -> Ticket:
        """A ticket for `/ws?ticket=…`, where browsers can't send headers: good once, for 30 seconds."""
        claims = asdict(_presence(ctx).claims)
        row = await self._once.make("socket", lifetime=TICKET_LIFETIME, user=_id(ctx.user), profile=claims)
        return Ticket(self._once.text(row), int(TICKET_LIFETIME.total_seconds()))

    @api()
    async def renew_socket(self, ctx: Context, access_token: Token) -> int:
        """Keep the WebSocket that asks open for as long as this newer token lives; gives the seconds."""
        presence = _presence(ctx)
        renewed = await self._sessions.admit(access_token)
        if renewed.claims.user != presence.claims.user:
            raise Rejected("not_allowed", "The token is another user's. Open another connection for it.")
        presence.renew(renewed.claims)
        return int(await presence.remaining())

    # --- Passwords ----------------------------------------------------------------------------------------------------

    @api()
    async def change_password(self, ctx: Context, current_password: Password, new_password: Password) -> Accepted:
        """Set a new password; all other sessions of the user end."""
        user, address = _id(ctx.user), address_of(ctx.request)
        credential = await self._store.find_one("AccountCredential", match("user.id", "=", user))
        if credential is None:
            raise Rejected("no_password", "This user has no password to change.")
        self._check_new_password(credential.login, new_password)
        if await self._proof.of(credential.login, address, current_password) is None:
            raise Rejected("wrong_credentials", "The current password is not this one.")
        password_hash = await self._passwords.hash(new_password)
        presence = _found_presence(ctx)
        but = None if presence is None else presence.claims.session
        await self._store.run(
            lambda: self._set_password(user, password_hash, "password_changed", address=address, but=but)
        )
        return Accepted()

    async def request_password_reset(self, ctx: Context, login: Login) -> Accepted:
        """Ask for a message with the token by which a new password can be set."""
        name, address = normalised_login(login), address_of(ctx.request)
        await self._proof.charge(reset=address, reset_login=name)
        credential = await self._proof.credential(name)
        user = None if credential is None else credential.user.id

        async def work() -> None:
            row = await self._once.make("reset", lifetime=self.reset_lifetime, login=name, user=user)
            await self._tell("reset_requested", user=user, address=address, token=row.id)

        await self._store.run(work)
        return Accepted()

    async def reset_password(self, ctx: Context, token: Token, new_password: Password) -> Accepted:
        """Set a new password with the token of the message; all sessions of the user end."""
        address = address_of(ctx.request)
        row = await self._once.find(token, "reset")
        self._check_new_password(row.login, new_password)
        password_hash = await self._passwords.hash(new_password)

        async def work() -> None:
            await self._once.use(row)
            await self._set_password(row.user.id, password_hash, "password_reset", address=address)
            # Whoever can read the owner's messages is the owner, and need not wait because others guessed.
            await self._proof.forgive(row.login)

        await self._store.run(work)
        return Accepted()

    async def set_login(self, user: Any, login: str, password: str) -> None:
        """For the app's own code: give a user (a record or an id) this login and password; all its sessions end."""
        id_, name = _id(user), normalised_login(login)
        password_hash = await self._passwords.hash(password)

        async def work() -> None:
            known: Any = await self._store.find_one("AccountCredential", match("user.id", "=", id_))
            if known is None:
                await self._store.create("AccountCredential", login=name, password_hash=password_hash, user=id_)
            else:
                await self._store.update(AccountCredential, known.id, login=name)
            await self._set_password(id_, password_hash, "password_changed", address="")

        await self._store.run(work)

    # --- Messages -----------------------------------------------------------------------------------------------------

    async def _send_message(self, effect: Effect[AccountEvent]) -> None:
        """Side effect: make the token that an event names, and send it; nothing of it is in the effect."""
        row: Any = None if effect.record.token is None else await self._once.read(effect.record.token)
        if self.send is None or not self._once.good(row) or (row.purpose == "reset" and row.user is None):
            return
        message = AccountMessage(
            purpose=row.purpose,
            login=row.login,
            key=effect.key,
            user=None if row.user is None else row.user.id,
            expires_at=row.expires_at,
            token="" if row.purpose == "exists" else self._once.text(row),
        )
        await send_safely(self.send, message)

    # --- What they have in common -------------------------------------------------------------------------------------

    def _registration(self, login: str, password: str, profile: dict[str, Any] | None) -> Registration:
        assert self.new_user is not None
        registration = Registration(normalised_login(login), profile or {})
        self._check_new_password(registration.login, password)
        # Refuses a profile that doesn't fit, before it matters whether the login is taken.
        self.new_user(registration)
        return registration

    async def _create(self, registration: Registration, password_hash: str, *, address: str, label: str) -> Opened:
        """The user, the credential and the first session."""
        assert self.new_user is not None
        if await self._proof.credential(registration.login) is not None:
            raise _taken()
        user = await self._store.create(self.new_user(registration))
        try:
            await self._store.create(
                "AccountCredential", login=registration.login, password_hash=password_hash, user=user.id
            )
        except ConstraintViolated as error:
            raise _taken() from error
        return await self._begin(user.id, "registered", address=address, label=label)

    async def _begin(self, user: int, kind: str, *, address: str, label: str) -> Opened:
        opened = await self._sessions.open(user, address=address, label=label)
        await self._tell(kind, user=user, address=address, session=opened.session)
        return opened

    async def _end(self, ctx: Context, kind: str, *, session: int | None = None) -> None:
        user = _id(ctx.user)

        async def work() -> None:
            if await self._sessions.end_of_user(user, by=kind, session=session):
                await self._tell(kind, user=user, address=address_of(ctx.request), session=session)

        await self._store.run(work)
        presence = _found_presence(ctx)
        over_http = getattr(ctx.request, "scope", {}).get("type") == "http"
        if self.cookies and over_http and presence is not None and session in (None, presence.claims.session):
            self._set_cookies(ctx, "", "", seconds=(0, 0))

    async def _set_password(
        self, user: int, password_hash: str, kind: str, *, address: str, but: int | None = None
    ) -> None:
        now = self.clock.now()
        of_user = match("user.id", "=", user)
        await self._store.update_many("AccountCredential", of_user, password_hash=password_hash, changed_at=now)
        await self._sessions.end_of_user(user, by=kind, but=but)
        await self._store.update_many("AccountToken", of_user & AccountToken.used_at.is_null(), used_at=now)
        await self._tell(kind, user=user, address=address)

    async def _tell(self, kind: str, **values: Any) -> None:
        await self._store.create("AccountEvent", kind=kind, **values)

    def _signed_in(self, ctx: Context, opened: Opened, *, cookie: bool) -> SignedIn:
        access, refresh = opened.access_token, opened.refresh_token
        if cookie:
            seconds = (opened.expires_in_seconds, opened.refresh_expires_in_seconds)
            self._set_cookies(ctx, access, refresh, seconds=seconds)
            access = refresh = ""
        return SignedIn(opened.user, opened.session, access, refresh, opened.expires_in_seconds)

    def _set_cookies(self, ctx: Context, access: str, refresh: str, *, seconds: tuple[int, int]) -> None:
        path = f"{ctx.request.scope.get('root_path', '')}/api/integrations/{self.namespace}/refresh"
        add_answer_header(ctx, "set-cookie", set_cookie(ACCESS_COOKIE, access, path="/", seconds=seconds[0]))
        add_answer_header(ctx, "set-cookie", set_cookie(REFRESH_COOKIE, refresh, path=path, seconds=seconds[1]))

    def _check_cookie(self, ctx: Context, *, wanted: bool) -> None:
        """Refuse cookies where there are none, and for pages of others, which would sign their reader in as someone."""
        if not wanted:
            return
        if not self.cookies:
            raise Rejected("no_cookies", "This app gives no cookies; take the tokens from the answer.")
        if getattr(ctx.request, "scope", {}).get("type") != "http" or not own_page(ctx.request, self.cookie_origins):
            raise Rejected("origin_not_allowed", "Cookies are given to pages only: over HTTP, with an Origin.")

    def _check_new_password(self, login: str, password: str) -> None:
        if len(password) < self.password_characters_min or password.casefold() == login:
            text = f"has to have at least {self.password_characters_min} characters, and not to be the login"
            raise InvalidValue(f"The password {text}.", fields={"password": text})
        if self.check_password is not None:
            self.check_password(login, password)

    def _check_settings(self) -> None:
        wrong: list[Problem] = []
        for name, secret in [("secret", self.secret), *(("previous_secrets", text) for text in self.previous_secrets)]:
            if len(secret.encode()) < SECRET_BYTES_MIN:
                text = (
                    f"has {len(secret.encode())} bytes; expected at least {SECRET_BYTES_MIN}, by chance: "
                    '`python -c "import secrets; print(secrets.token_urlsafe(48))"`.'
                )
                wrong.append(Problem(WRONG_SETTING, f"{self.namespace}.{name} {text}"))
        wrong += [
            Problem(WRONG_SETTING, f"{self.namespace}.{name} must be longer than nothing.")
            for name in LIFETIMES
            if getattr(self, name) <= timedelta(0)
        ]
        if self.refresh_grace < timedelta(0):
            wrong.append(Problem(WRONG_SETTING, f"{self.namespace}.refresh_grace must be 0s (never) or longer."))
        # Argon2 needs 8 KiB for each lane.
        least = {**dict.fromkeys(COUNTS, 1), "argon2_memory_kib": 8 * max(1, self.argon2_parallelism)}
        wrong += [
            Problem(WRONG_SETTING, f"{self.namespace}.{name} is {getattr(self, name)}; expected {count} or more.")
            for name, count in least.items()
            if getattr(self, name) < count
        ]
        wrong += [
            Problem(
                WRONG_SETTING,
                f"{self.namespace}.cookie_origins has {origin!r}; expected https://host[:port], in small letters.",
            )
            for origin in self.cookie_origins
            if ORIGIN.fullmatch(origin) is None
        ]
        if self.verification and self.send is None:
            text = "needs send=…, which brings the token to whoever registers."
            wrong.append(Problem(WRONG_SETTING, f"{self.namespace}.verification {text}"))
        if wrong:
            raise DeclarationError(wrong)

    async def _prune(self) -> None:
        await self._sessions.prune(older_than=KEPT)
        await self._once.prune(older_than=timedelta(days=1))
        longest = max(self.lockout.account.forgotten, self.lockout.address.forgotten)
        await self._lockout.prune(older_than=longest)
        await self._store.delete_many(AccountEvent, AccountEvent.at < self.clock.now() - self.events_kept)


def _presence(ctx: Context) -> Presence:
    found = _found_presence(ctx)
    if found is None:
        raise Rejected("no_session", "This call is about the session that makes it, and was not made with one.")
    return found


def _found_presence(ctx: Context) -> Presence | None:
    return getattr(ctx.request, "scope", {}).get(SCOPE)


def _id(user: Any) -> int:
    return user if isinstance(user, int) else user.id


def _taken() -> Rejected:
    return Rejected("login_taken", "There is an account with this login.", fields={"login": "is already taken"})
