"""Login by name, and the signed tokens that it gives.

Decides what a token says, and when it is refused. Leaves what a user is to the application, which names its classes.
This is a demo: whoever knows a name may log in with it, there is no password. Invariant: nothing of a token is believed
before its signature was compared.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import secrets
from datetime import timedelta
from typing import Any

import msgspec

from ensue import ConstraintViolated, Context, Controller, Entity, Integration, Interaction, Rejected, api, env
from ensue.clock import Clock


class LoggedIn(msgspec.Struct):
    """Who one is from now on: `token` goes into `Authorization: Bearer …`, or `?token=…` of a WebSocket."""

    token: str
    user: int
    expires_in_seconds: int


class Login(Integration):
    """`POST /api/integrations/{namespace}/log_in` with a name: the user of that name, signed up if there is none.

    `users` is the class of users, `sign_up` the interaction that makes one of a `name`. Without `LOGIN_SECRET` the tokens
    are good until the server stops.
    """

    users: type[Entity]
    sign_up: type[Interaction]
    secret: str = env("LOGIN_SECRET", default="")
    lifetime_seconds: int = env("LOGIN_LIFETIME_SECONDS", default=8 * 3600)

    async def setup(self, controller: Controller) -> None:
        lifetime = timedelta(seconds=self.lifetime_seconds)
        self.tokens = Tokens(self.secret.encode() or secrets.token_bytes(32), clock=self.clock, lifetime=lifetime)

    @api(allow_anonymous=True)
    async def log_in(self, ctx: Context, name: str) -> LoggedIn:
        """A token for the user of this name."""
        name = name.strip()
        user = await self._find(ctx, name)
        if user is None:
            # Refused if somebody signed up with it just now, and then that is who logs in.
            with contextlib.suppress(ConstraintViolated):
                await ctx.controller.dispatch(self.sign_up(name=name))
            user = await self._find(ctx, name)
        return LoggedIn(self.tokens.issue(user.id), user.id, self.lifetime_seconds)

    async def _find(self, ctx: Context, name: str) -> Any:
        users: Any = self.users
        return await ctx.controller.store.find_one(self.users, users.name == name)

    def authenticate(self, connection: Any) -> Any:
        """The user of a request or WebSocket, for `app.asgi(authenticate=…)`; None for one without a token."""
        token = connection.headers.get("authorization", "").removeprefix("Bearer ")
        token = token or connection.query_params.get("token", "")
        return self.users.ref(self.tokens.user_of(token)) if token else None


class Tokens:
    """Makes and reads tokens: `user.expires.signature`, HMAC-SHA256 with `secret`.

    >>> tokens = Tokens(b"secret", clock=SystemClock(), lifetime=timedelta(hours=8))
    >>> tokens.user_of(tokens.issue(7))
    7
    """

    def __init__(self, secret: bytes, *, clock: Clock, lifetime: timedelta) -> None:
        self._secret = secret
        self._clock = clock
        self._lifetime = lifetime

    def issue(self, user: int) -> str:
        """A token for the user with this id."""
        content = f"{user}.{int((self._clock.now() + self._lifetime).timestamp())}"
        return f"{content}.{self._signature(content)}"

    def user_of(self, token: str) -> int:
        """The id of the user. Raises `Rejected("not_authenticated")` for a token that is forged or has expired."""
        content, _, signature = token.rpartition(".")
        # As bytes: compare_digest takes no text beyond ASCII, which anybody may send.
        if not hmac.compare_digest(signature.encode(), self._signature(content).encode()):
            raise Rejected("not_authenticated", "This token was not issued here. Log in.")
        user, _, expires = content.partition(".")
        if int(expires) <= self._clock.now().timestamp():
            raise Rejected("not_authenticated", "The token has expired. Log in again.")
        return int(user)

    def _signature(self, content: str) -> str:
        digest = hmac.new(self._secret, content.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")
