"""Accounts over a real network: bearer tokens, cookies, WebSockets; and where secrets must not be."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from ensue import App, Rejected
from ensue.integrations.accounts.records import AccountToken
from tests.integrations.accounts.accounts_app import BASE, PASSWORD, SECRET, Mailbox, accounts_app
from tests.server.network import WAIT_SECONDS, Served, Talk, serving

WRONG = "a wrong password, typed"
ACCESS, REFRESH = "__Host-ensue-access", "__Secure-ensue-refresh"


@contextlib.asynccontextmanager
async def served_app(app: App) -> AsyncIterator[Served]:
    accounts: Any = app.integrations["accounts"]
    async with serving(app.asgi(authenticate=accounts.authenticate), app) as served:
        yield served


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Served]:
    async with served_app(accounts_app()) as served:
        yield served


async def post(served: Served, name: str, *, token: str = "", **payload: Any) -> httpx2.Response:
    return await _post(served, name, token, payload)


async def _post(served: Served, name: str, token: str, payload: dict[str, Any]) -> httpx2.Response:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    path = name if name.startswith("/") else f"{BASE}/{name}"
    return await served.http.post(path, json=payload, headers=headers)


async def sign_up(served: Served, login: str = "ann") -> dict[str, Any]:
    answer = await post(served, "register", login=login, password=PASSWORD)
    assert answer.status_code == 200, answer.text
    return answer.json()


@contextlib.asynccontextmanager
async def socket(served: Served, token: str, *, ticket: str = "") -> AsyncIterator[Talk]:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    query = f"?ticket={ticket}" if ticket else ""
    async with connect(f"ws://127.0.0.1:{served.port}/ws{query}", additional_headers=headers) as websocket:
        yield Talk(websocket)


async def code(talk: Talk) -> int | None:
    with contextlib.suppress(ConnectionClosed):
        while True:
            await asyncio.wait_for(talk.websocket.recv(), WAIT_SECONDS)
    return talk.websocket.close_code


WHOAMI = {"id": 1, "type": "api", "namespace": "desk", "name": "whoami"}


class TestBearer:
    """Tokens in the header."""

    async def test_statuses(self, served: Served) -> None:
        ann = await sign_up(served)
        whoami = "/api/integrations/desk/whoami"
        assert (await post(served, whoami, token=ann["access_token"])).json() == ann["user"]
        assert (await post(served, whoami)).status_code == 401
        assert (await post(served, whoami, token="a1.1.1.1.x")).status_code == 401
        assert (await post(served, "log_in", login="ann", password=WRONG)).status_code == 401
        for _ in range(6):
            answer = await post(served, "log_in", login="ann", password=WRONG)
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["retry-after"]) <= 2

    async def test_the_description_tells_no_password(self, served: Served) -> None:
        document = (await served.http.get("/openapi.json")).text
        assert '"format":"password"' in document
        assert '"writeOnly":true' in document


class TestWebSocket:
    """A connection lives no longer than what it was let in for."""

    async def test_it_is_closed_at_log_out(self, served: Served) -> None:
        ann = await sign_up(served)
        async with socket(served, ann["access_token"]) as talk, socket(served, ann["access_token"]) as other:
            assert (await talk.ask(WHOAMI))["data"] == ann["user"]
            assert (await other.ask(WHOAMI))["data"] == ann["user"]
            await post(served, "log_out", token=ann["access_token"])
            assert await code(talk) == 4440
            assert await code(other) == 4440

    async def test_it_is_closed_when_its_token_expires_unless_it_is_renewed(self) -> None:
        async with served_app(accounts_app(access_lifetime=_seconds(2))) as served:
            ann = await sign_up(served)
            async with socket(served, ann["access_token"]) as talk, socket(served, ann["access_token"]) as other:
                await other.ask(WHOAMI)
                renewed = (await post(served, "refresh", refresh_token=ann["refresh_token"])).json()
                await asyncio.sleep(0)
                payload = {"access_token": renewed["access_token"]}
                request = {"id": 2, "type": "api", "namespace": "accounts", "name": "renew_socket", "payload": payload}
                assert 0 <= (await talk.ask(request))["data"] <= 2
                assert await code(other) == 4440
                assert await code(talk) == 4440

    async def test_a_revocation_elsewhere_reaches_it(self, sqlite_url: str) -> None:
        first = accounts_app(sqlite_url, revocation_check=_seconds(0.1))
        second = accounts_app(sqlite_url, revocation_check=_seconds(0.1))
        async with served_app(first) as one, served_app(second) as two:
            ann = await sign_up(one)
            async with socket(two, ann["access_token"]) as talk:
                assert (await talk.ask(WHOAMI))["data"] == ann["user"]
                await post(one, "log_out_everywhere", token=ann["access_token"])
                assert await code(talk) == 4440

    async def test_a_ticket_opens_one(self, served: Served) -> None:
        ann = await sign_up(served)
        ticket = (await post(served, "socket_ticket", token=ann["access_token"])).json()["ticket"]
        async with socket(served, "", ticket=ticket) as talk:
            assert (await talk.ask(WHOAMI))["data"] == ann["user"]
            async with socket(served, "", ticket=ticket) as again:
                assert await code(again) == 4401
            await post(served, "log_out", token=ann["access_token"])
            assert await code(talk) == 4440

    async def test_cookies_are_not_given_over_it(self) -> None:
        async with served_app(accounts_app(cookies=True)) as served, socket(served, "") as talk:
            payload = {"login": "ann", "password": PASSWORD, "cookie": True}
            request = {"id": 2, "type": "api", "namespace": "accounts", "name": "register", "payload": payload}
            assert (await talk.ask(request))["error"]["code"] == "origin_not_allowed"

    async def test_another_users_token_renews_nothing(self, served: Served) -> None:
        ann, bob = await sign_up(served), await sign_up(served, "bob")
        async with socket(served, ann["access_token"]) as talk:
            payload = {"access_token": bob["access_token"]}
            request = {"id": 2, "type": "api", "namespace": "accounts", "name": "renew_socket", "payload": payload}
            assert (await talk.ask(request))["error"]["code"] == "not_allowed"


class Browser:
    """What a browser adds: an Origin, and the cookies it keeps (by name; paths are looked at by hand)."""

    def __init__(self, served: Served, origin: str = "") -> None:
        self.served = served
        self.origin = origin or f"http://127.0.0.1:{served.port}"
        self.cookies: dict[str, str] = {}
        self.set: list[str] = []

    async def post(self, path: str, **payload: Any) -> httpx2.Response:
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        headers = {"origin": self.origin, **({"cookie": cookies} if cookies else {})}
        answer = await self.served.http.post(path, json=payload, headers=headers)
        self.set = answer.headers.get_list("set-cookie")
        for line in self.set:
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value
        self.served.http.cookies.clear()
        return answer


class TestCookies:
    """Tokens that scripts can't read."""

    async def test_a_session_by_cookies(self) -> None:
        async with served_app(accounts_app(cookies=True)) as served:
            browser = Browser(served)
            answer = await browser.post(f"{BASE}/register", login="ann", password=PASSWORD, cookie=True)
            assert (answer.json()["access_token"], answer.json()["refresh_token"]) == ("", "")
            access, refresh = browser.set
            assert access.startswith(f"{ACCESS}=a1.")
            assert refresh.startswith(f"{REFRESH}=r1.")
            assert f"Path={BASE}/refresh;" in refresh
            for line in browser.set:
                assert line.endswith("; HttpOnly; Secure; SameSite=Strict")
            assert (await browser.post("/api/integrations/desk/whoami")).json() == answer.json()["user"]
            before = dict(browser.cookies)
            assert (await browser.post(f"{BASE}/refresh")).status_code == 200
            assert browser.cookies[REFRESH] != before[REFRESH]
            await browser.post(f"{BASE}/log_out")
            assert all("Max-Age=0" in line for line in browser.set)
            browser.cookies = before
            assert (await browser.post("/api/integrations/desk/whoami")).status_code == 401

    async def test_pages_of_others_can_do_nothing_with_them(self) -> None:
        app: Any = accounts_app(cookies=True)
        async with served_app(app) as served:
            browser = Browser(served)
            await browser.post(f"{BASE}/register", login="ann", password=PASSWORD, cookie=True)
            foreign = Browser(served, "https://evil.example")
            foreign.cookies = browser.cookies
            for path in ("/api/integrations/desk/whoami", f"{BASE}/refresh", f"{BASE}/log_out"):
                answer = await foreign.post(path)
                assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
            # Nor from a page that has no place, whose requests have no Host either.
            nowhere = SimpleNamespace(headers={"origin": "null"}, cookies=browser.cookies, scope={"type": "http"})
            with pytest.raises(Rejected, match="origin_not_allowed"):
                await app.integrations["accounts"].authenticate(nowhere)
            # Nor sign somebody in as somebody else.
            foreign.cookies = {}
            answer = await foreign.post(f"{BASE}/log_in", login="ann", password=PASSWORD, cookie=True)
            assert answer.status_code == 403
            # Without an Origin it is no page at all.
            cookies = f"{ACCESS}={browser.cookies[ACCESS]}"
            answer = await served.http.post("/api/integrations/desk/whoami", json={}, headers={"cookie": cookies})
            assert answer.status_code == 401

    async def test_a_stale_cookie_is_as_good_as_none(self) -> None:
        async with served_app(accounts_app(cookies=True)) as served:
            browser = Browser(served)
            browser.cookies[ACCESS] = "a1.1.1.1.x"
            answer = await browser.post(f"{BASE}/register", login="ann", password=PASSWORD, cookie=True)
            assert answer.status_code == 200

    async def test_without_the_setting_there_are_none(self, served: Served) -> None:
        browser = Browser(served)
        answer = await browser.post(f"{BASE}/register", login="ann", password=PASSWORD, cookie=True)
        assert answer.json()["error"]["code"] == "no_cookies"
        ann = await sign_up(served)
        browser.cookies[ACCESS] = ann["access_token"]
        assert (await browser.post("/api/integrations/desk/whoami")).status_code == 401


class TestSecrecy:
    """After everything was done, no secret is anywhere but with its owner."""

    async def test_no_secret_is_left_behind(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        caplog.set_level(logging.DEBUG)
        logging.getLogger().setLevel(logging.DEBUG)
        mailbox = _Failing()
        path = tmp_path / "accounts.db"
        app = accounts_app(f"sqlite:///{path}", send=mailbox.send, verification=True, cookies=True)
        said: list[str] = []
        async with served_app(app) as served:
            secrets = await _live(served, mailbox, said)
            said += [repr(app.integrations["accounts"]), repr(await app.controller.store.find(AccountToken))]
            said.append((await served.http.get("/openapi.json")).text)
            said.append(await _ledger(app))
            seen = {"database": b"".join(map(Path.read_bytes, _files(tmp_path)))}
        seen["database afterwards"] = path.read_bytes()
        seen["log"] = "\n".join(_everything(record) for record in caplog.records if not _is_ours(record)).encode()
        seen["errors, answers and reprs"] = "\n".join(said).encode()
        output = capfd.readouterr()
        seen["output"] = (output.out + output.err).encode()
        assert len(seen["log"]) > 1_000
        assert len(seen["database"]) > 10_000
        assert len(secrets) >= 14
        for secret in secrets:
            for where, found in seen.items():
                assert secret.encode() not in found, f"a secret ({secret[:6]}…) is in the {where}"


class _Failing(Mailbox):
    """Fails at first, quoting what it was to send."""

    async def send(self, message: Any) -> None:
        self.messages.append(message)
        if len(self.messages) % 2:
            raise OSError(f"can't reach https://mail.example/?token={message.token}")


async def _live(served: Served, mailbox: Mailbox, said: list[str]) -> set[str]:
    """A full session, with its mistakes; gives every secret that occurred, and whatever was answered without one."""
    secrets = {SECRET, PASSWORD, WRONG, "the next password"}

    async def say(name: str, *, bearer: str = "", **payload: Any) -> dict[str, Any]:
        answer = await _post(served, name, bearer, payload)
        body = answer.json() if answer.text.startswith("{") else {}
        given = {body[key] for key in ("access_token", "refresh_token", "ticket") if body.get(key)}
        secrets.update(given)
        if not given:
            said.append(answer.text)
        return body

    async def token(purpose: Any) -> str:
        async with asyncio.timeout(WAIT_SECONDS):
            while len([one for one in mailbox.messages if one.purpose == purpose]) < 2:  # noqa: ASYNC110  # no event
                await asyncio.sleep(0.01)
        found = mailbox.token(purpose, "ann")
        secrets.add(found)
        return found

    await say("request_registration", login="ann", password="short")
    await say("request_registration", login="ann", password=PASSWORD, profile={"name": "Ann"})
    ann = await say("confirm_registration", token=await token("register"))
    await say("log_in", login="ann", password=WRONG)
    await say("log_in", login="nobody", password=WRONG)
    await say("log_in", login="ann", password=[WRONG])
    await say("log_in", login="ann", password=WRONG, typo=WRONG)
    again = await say("log_in", login="ann", password=PASSWORD)
    renewed = await say("refresh", refresh_token=again["refresh_token"])
    await say("refresh", refresh_token=again["refresh_token"] + "x")
    await say("socket_ticket", bearer=ann["access_token"])
    await say("request_password_reset", login="ann")
    reset = await token("reset")
    await say("reset_password", token=reset, new_password=PASSWORD)
    await say("reset_password", token=reset, new_password="the next password")
    await say("sessions", bearer=renewed["access_token"])
    last = await say("log_in", login="ann", password=PASSWORD)
    await say("change_password", bearer=last["access_token"], current_password=WRONG, new_password="the next password")
    await say(
        "change_password", bearer=last["access_token"], current_password=PASSWORD, new_password="the next password"
    )
    await say("sessions", bearer=last["access_token"])
    # Used up by the time that anybody reads it in the server's log of its requests.
    ticket = (await post(served, "socket_ticket", token=last["access_token"])).json()["ticket"]
    async with socket(served, "", ticket=ticket) as talk:
        said.append(str(await talk.ask(WHOAMI)))
        await say("log_out_everywhere", bearer=last["access_token"])
        said.append(str(await code(talk)))
    await say("/api/integrations/desk/whoami", bearer=last["access_token"])
    return secrets


def _files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


async def _ledger(app: App) -> str:
    """Everything in the table of effects, as text."""
    from ensue.store.statement import Run, Statement

    def read() -> Any:
        return (yield Run(Statement("test.ledger", "SELECT * FROM ensue_effect"), ()))

    assert app.running is not None
    return repr(await app.running.driver.read(read()))


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether it is of this test's clients, which know what they send."""
    return record.name.partition(".")[0] in ("httpx2", "httpcore2") or record.name == "websockets.client"


def _everything(record: logging.LogRecord) -> str:
    """A log record with all that any formatter could make of it."""
    formatted = logging.Formatter().format(record)
    return f"{formatted} {re.sub(r'<[^>]*object at', '<', repr(vars(record)))}"


def _seconds(number: float) -> Any:
    from datetime import timedelta

    return timedelta(seconds=number)
