"""The page and the example of accounts do what they say."""

from __future__ import annotations

import re

from ensue import App
from ensue.integrations.accounts import Accounts
from ensue.integrations.accounts.records import KINDS
from examples import accounts as example
from tests.docs.pages import DOCS, run_page
from tests.integrations.accounts.accounts_app import PASSWORD, SECRET, quick
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
