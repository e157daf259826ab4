"""Accounts as any integration: its life, outages of the mail service, repeats, shutdowns and secrets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import timedelta

import httpx2
import pytest_asyncio

from ensue import App, Controller
from ensue.integrations.accounts import AccountMessage, Accounts
from ensue.integrations.accounts.doubles import QuickPasswords
from ensue.testing import Answer, AppHarness, HttpDouble, IntegrationConformance
from tests.integrations.accounts.accounts_app import SECRET, User, new_user


class TestAccounts(IntegrationConformance[HttpDouble]):
    """The peer is a mail service, to which the app's `send` posts messages with their keys."""

    health_exempt = "What messages are sent by is the app's; accounts themselves need nothing but the database."

    @pytest_asyncio.fixture(autouse=True)
    async def client(self) -> AsyncIterator[None]:
        async with httpx2.AsyncClient(trust_env=False) as self.http:
            yield

    def peer(self) -> HttpDouble:
        service = HttpDouble(idempotency_header="idempotency-key")
        service.on("POST /mail", lambda request: Answer.failing(422) if b"poison" in request.body else Answer.ok())
        return service

    def integration(self, peer: HttpDouble) -> Accounts:
        async def send(message: AccountMessage) -> None:
            letter = {"to": message.login, "text": f"Set a new password: https://app.example/#{message.token}"}
            headers = {"idempotency-key": message.key, "connection": "close"}
            (await self.http.post(f"{peer.url}/mail", json=letter, headers=headers)).raise_for_status()

        return Accounts(users=User, new_user=new_user, send=send)

    def app(self, integration: Accounts) -> App:  # type: ignore[override]  # what `integration` gave
        return App(user=User, integrations={"accounts": integration})

    def environment(self, peer: HttpDouble) -> Mapping[str, str]:
        cheap = {
            "ACCOUNTS_ARGON2_TIME_COST": "1",
            "ACCOUNTS_ARGON2_MEMORY_KIB": "8",
            "ACCOUNTS_ARGON2_PARALLELISM": "1",
        }
        return {"ACCOUNTS_SECRET": SECRET, **cheap}

    def harness(self, app: App, peer: HttpDouble) -> AppHarness:
        return AppHarness(app, env=self.environment(peer), clients={"accounts.passwords": QuickPasswords()})

    async def cause(self, controller: Controller) -> None:
        await _ask_for_reset(controller, "ann")

    async def cause_poison(self, controller: Controller) -> None:
        await _ask_for_reset(controller, "poison")

    async def work(self, peer: HttpDouble) -> object:
        return dict(peer.accepted_keys)


async def _ask_for_reset(controller: Controller, login: str) -> None:
    """What `request_password_reset` writes."""
    store = controller.store
    user = await store.create(User(name=login))
    token = await store.create(
        "AccountToken",
        purpose="reset",
        salt="salt",
        login=login,
        user=user.id,
        expires_at=controller.engine.clock.now() + timedelta(days=3),
    )
    await store.create("AccountEvent", kind="reset_requested", user=user.id, token=token.id)
