"""The page and the example of accounts do what they say."""

from __future__ import annotations

import re

from ensue import App
from ensue.integrations.accounts import Accounts
from ensue.integrations.accounts.records import KINDS
from examples import accounts as example
from examples.channels import app as chat
from tests.docs.pages import DOCS, run_page
from tests.integrations.accounts.accounts_app import PASSWORD, SECRET, Client, quick
from tests.server.network import serving

PAGE = DOCS / "integrations" / "accounts.md"


async def test_the_page_runs() -> None:
    await run_page(PAGE)


def test_the_page_names_every_setting_call_and_kind() -> None:
    text = PAGE.read_text()
    named = set(re.findall(r"`(\w+)`", text))
    assert set(Accounts.__ensue_settings__) <= named
    assert set(KINDS) <= named


async def test_the_page_names_every_call() -> None:
    app = App(user=example.User, integrations={"accounts": Accounts(users=example.User)})
    async with quick(app, env={"ACCOUNTS_SECRET": SECRET}) as harness:
        named = set(re.findall(r"`(\w+)`", PAGE.read_text()))
        assert set(harness.run.apis["accounts"]) <= named


async def test_the_example() -> None:
    environment = {"ACCOUNTS_SECRET": SECRET}
    async with example.app.run(database="sqlite:///:memory:", env=environment), serving(example.served) as served:
        base = "/api/integrations/accounts"
        answer = await served.call(f"{base}/register", {"login": "ann", "password": PASSWORD})
        bearer = {"authorization": f"Bearer {answer.json()['access_token']}"}
        assert (await served.call("/api/interactions/WriteNote", {"text": "milk"})).status_code == 403
        await served.call("/api/interactions/WriteNote", {"text": "milk"}, headers=bearer)
        notes = await served.call("/api/interactions/MyNotes", headers=bearer)
        assert [note["text"] for note in notes.json()["records"]] == ["milk"]
        assert (await served.call(f"{base}/request_password_reset", {"login": "ann"})).json() == {"accepted": True}


async def test_the_chat_could_have_logins() -> None:
    """The classes of the channels example as they are, with accounts in place of its login by name."""
    members = {"accounts": Accounts(users=chat.User, new_user=lambda who: chat.User(name=who.login))}
    app = App(
        user=chat.User,
        entities=chat.app.entities,
        interactions=chat.app.interactions,
        globals=chat.app.globals,
        integrations=members,
    )
    async with quick(app, env={"ACCOUNTS_SECRET": SECRET}) as harness:
        client = Client(harness)
        await client.call("register", login="ada", password=PASSWORD)
        known = await client.accounts.authenticate(client.request())
        assert known is not None
        await harness.controller.dispatch(chat.OpenChannel(name="lobby"), user=known.user)
        assert (await harness.store.find_one(chat.Channel)).name == "lobby"
