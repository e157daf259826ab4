"""What `authenticate` can say besides who: that credentials end, and a WebSocket with them. And calls that set headers."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from ensue import App, Authenticated, Context, Entity, Integration, Property, Rejected, api
from ensue.integrations.api import add_answer_header
from tests.server.network import WAIT_SECONDS, Talk, serving

PING = {"type": "ping", "id": 1}
PONG = {"type": "pong", "id": 1}


class Person(Entity):
    name: Property[str]


class Wait(Rejected):
    retry_after_seconds = 2.4


class Desk(Integration):
    @api(allow_anonymous=True)
    async def cookies(self, ctx: Context) -> str:
        add_answer_header(ctx, "set-cookie", "a=1")
        add_answer_header(ctx, "set-cookie", "b=2")
        return "baked"

    @api(allow_anonymous=True)
    async def patience(self, ctx: Context) -> str:
        raise Wait("too_many", "Not so fast.")

    @api()
    async def whoami(self, ctx: Context) -> int:
        return ctx.user


def desk() -> App:
    return App(user=Person, integrations={"desk": Desk()}, database="sqlite:///:memory:")


class Gatekeeper:
    """Lets user 1 in for as long as `left` says."""

    def __init__(self, left: float = 60.0) -> None:
        self.left = left
        self.asked = 0
        self.given: list[Authenticated] = []

    def authenticate(self, _: Any) -> Authenticated:
        self.given.append(Authenticated(1, self.remaining))
        return self.given[-1]

    async def remaining(self) -> float:
        self.asked += 1
        if self.left < 0:
            raise Rejected("not_authenticated")
        return self.left


async def code(talk: Talk) -> int | None:
    with contextlib.suppress(ConnectionClosed):
        while True:
            await asyncio.wait_for(talk.websocket.recv(), WAIT_SECONDS)
    return talk.websocket.close_code


@pytest.mark.parametrize("left", [0.0, -1.0])
async def test_a_websocket_is_closed_when_its_credentials_are_revoked(left: float) -> None:
    gate = Gatekeeper()
    async with serving(desk().asgi(authenticate=gate.authenticate)) as served, served.connect(user=None) as talk:
        whoami = {"id": 2, "type": "api", "namespace": "desk", "name": "whoami"}
        assert (await talk.ask(whoami))["data"] == 1
        gate.given[0].changed.set()
        assert await talk.ask(PING) == PONG
        gate.left = left
        gate.given[0].changed.set()
        assert await code(talk) == 4440
        assert gate.asked == 3


async def test_a_websocket_is_closed_when_its_credentials_expire() -> None:
    gate = Gatekeeper(0.05)
    async with serving(desk().asgi(authenticate=gate.authenticate)) as served, served.connect(user=None) as talk:
        assert await talk.ask(PING) == PONG
        gate.left = 0.0
        assert await code(talk) == 4440


async def test_a_request_is_of_the_user_whose_credentials_they_are() -> None:
    gate = Gatekeeper(0.0)
    async with serving(desk().asgi(authenticate=gate.authenticate)) as served:
        assert (await served.call("/api/integrations/desk/whoami")).json() == 1


async def test_a_call_sets_headers_over_http_only() -> None:
    async with serving(desk().asgi()) as served, served.connect(user=None) as talk:
        answer = await served.call("/api/integrations/desk/cookies")
        assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
        said = await talk.ask({"id": 1, "type": "api", "namespace": "desk", "name": "cookies"})
        assert said["error"]["code"] == "not_over_http"


async def test_a_rejection_that_says_when_to_come_again() -> None:
    async with serving(desk().asgi()) as served:
        answer = await served.call("/api/integrations/desk/patience")
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
        assert answer.json()["error"]["code"] == "too_many"
