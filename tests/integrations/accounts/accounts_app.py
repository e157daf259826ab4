"""An app with accounts, and what a test needs to be a client of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ensue import App, Context, Entity, Integration, Property, Rejected, api
from ensue.integrations.accounts import Accounts, Registration
from ensue.integrations.accounts.doubles import Mailbox, QuickPasswords
from ensue.testing.harness import AppHarness

SECRET = "a secret of thirty-two bytes or more"
PASSWORD = "correct horse battery"
BASE = "/api/integrations/accounts"


class User(Entity):
    name: Property[str]


class Desk(Integration):
    """Something that only known users may call."""

    @api()
    async def whoami(self, ctx: Context) -> int:
        return ctx.user.id


def new_user(who: Registration) -> User:
    if who.profile.get("name") == "":
        raise Rejected("no_name", "A user has a name.")
    return User(name=str(who.profile.get("name", who.login)))


def accounts_app(database: str = "sqlite:///:memory:", **settings: Any) -> App:
    """With cheap hashes, which are Argon2's all the same."""
    cheap = {"argon2_time_cost": 1, "argon2_memory_kib": 8, "argon2_parallelism": 1}
    given = {"users": User, "new_user": new_user, "secret": SECRET, **cheap, **settings}
    return App(user=User, integrations={"accounts": Accounts(**given), "desk": Desk()}, database=database)


class Client:
    """One client: calls over a request that looks like one of HTTP, which is authenticated as the server would."""

    def __init__(self, harness: AppHarness, *, host: str = "192.0.2.1") -> None:
        self.harness = harness
        self.host = host
        self.access = ""
        self.refresh = ""
        self.session = 0
        self.user = 0

    @property
    def accounts(self) -> Accounts:
        return self.harness.integration("accounts")

    async def call(self, name: str, namespace: str = "accounts", **payload: Any) -> Any:
        request = self.request()
        known = await self.accounts.authenticate(request)
        context = Context(user=known and known.user, request=request, controller=self.harness.controller)
        answer = await self.harness.run.apis[namespace][name].call(context, payload)
        if hasattr(answer, "access_token"):
            self.access, self.refresh = answer.access_token, answer.refresh_token
            self.session, self.user = answer.session, answer.user
        return answer

    async def whoami(self) -> int:
        return await self.call("whoami", "desk")

    def request(self) -> Any:
        headers = {"authorization": f"Bearer {self.access}"} if self.access else {}
        return SimpleNamespace(
            headers=headers,
            query_params={},
            cookies={},
            scope={"type": "http"},
            client=SimpleNamespace(host=self.host),
        )


def quick(app: App, **options: Any) -> AppHarness:
    """The app in a test, with passwords that are hashed at once."""
    return AppHarness(app, clients={"accounts.passwords": QuickPasswords()}, **options)


__all__ = ["BASE", "PASSWORD", "SECRET", "Client", "Mailbox", "QuickPasswords", "User", "accounts_app", "quick"]
