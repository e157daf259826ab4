"""Outgoing webhooks as any integration: its life, outages, repeats, shutdowns and secrets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

import pytest

from ensue import App, Context, Controller
from ensue.integrations.http_out import HttpOut, WebhookDelivery, WebhookEndpointEvent
from ensue.integrations.http_out.doubles import Receivers
from ensue.testing import Answer, AppHarness, HttpDouble, IntegrationConformance
from ensue.testing.conformance.integration import LONG_SECONDS
from tests.integrations.http_out.webhook_app import EVENTS, SECRET, Desk, Post, User, webhook_app

PLACE = "https://shop.example/hook?key=a-key-in-a-url"


class Hooks(HttpOut):
    """With an endpoint from the start."""

    async def setup(self, controller: Controller) -> None:
        await super().setup(controller)
        if not await self.endpoints(Context(user=User.ref(1))):
            (port,) = self.allowed_ports
            await self.create_endpoint(Context(user=User.ref(1)), f"http://127.0.0.1:{port}/hook")


class TestHttpOut(IntegrationConformance[HttpDouble]):
    """The peer is an endpoint that folds messages by their ids."""

    health_exempt = "There are many endpoints, each with a state of its own: one that is dead is its owner's affair."

    def peer(self) -> HttpDouble:
        service = HttpDouble(idempotency_header="webhook-id")
        service.on("POST /hook", lambda request: Answer.failing(400) if b"poison" in request.body else Answer.ok())
        return service

    def integration(self, peer: HttpDouble) -> HttpOut:
        return Hooks(events=EVENTS, allow=lambda ctx: True)

    def app(self, integration: HttpOut) -> App:  # type: ignore[override]  # what `integration` gave
        return App(user=User, entities=[Post], integrations={"hooks": integration})

    def environment(self, peer: HttpDouble) -> Mapping[str, str]:
        return {
            "HTTP_OUT_SECRET": SECRET,
            "HTTP_OUT_ALLOW_HTTP": "1",
            "HTTP_OUT_ALLOWED_ADDRESSES": "127.0.0.1/32",
            "HTTP_OUT_ALLOWED_PORTS": peer.address.rpartition(":")[2],
        }

    async def cause(self, controller: Controller) -> None:
        author = await controller.store.create(User(name="ann"))
        await controller.store.create(Post(title="Rain", author=author))

    async def cause_poison(self, controller: Controller) -> None:
        author = await controller.store.create(User(name="ann"))
        await controller.store.create(Post(title="poison", author=author))

    async def work(self, peer: HttpDouble) -> object:
        return dict(peer.accepted_keys)

    async def test_poison_holds_up_nobody(self) -> None:
        """As everywhere, but the error is with the delivery: its endpoint's owner sees it, the ledger is not full of it."""
        async with self.peer() as peer, self.harness(self.app(self.integration(peer)), peer) as harness:  # type: ignore[arg-type]
            await self.cause_poison(harness.controller)
            await harness.drain()
            await self.cause(harness.controller)
            await harness.drain()
            assert len(peer.accepted) == 1
            await harness.advance(LONG_SECONDS)
            poison, other = await harness.store.find(WebhookDelivery, order_by=[WebhookDelivery.id])
            assert (poison.state, poison.last_error) == ("failed", "It answered 400.")
            assert other.state == "delivered"


async def test_no_secret_and_no_url_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    receivers = Receivers()
    async with AppHarness(webhook_app(), clients={"hooks.http": receivers.transport}) as harness:
        desk = await Desk.open(harness)
        made = await desk.call("create_endpoint", url=PLACE)
        receivers.answer(PLACE, 500)
        await desk.post()
        await harness.drain()
        receivers.answer(PLACE, 410)
        await harness.advance(60)
        errors = [delivery.last_error for delivery in await desk.log(made.endpoint)]
    said = "\n".join([*(_everything(record) for record in caplog.records), *errors])
    assert len(receivers.of(PLACE)) == 2
    for secret in (SECRET, made.secret, made.secret.removeprefix("whsec_"), "a-key-in-a-url"):
        assert secret not in said


def _everything(record: logging.LogRecord) -> str:
    return f"{logging.Formatter().format(record)} {vars(record)!r}"


@pytest.mark.parametrize("url", ["sqlite_url", "postgres_url"])
async def test_workers_at_a_time(url: str, request: pytest.FixtureRequest) -> None:
    """Two workers on a database of either kind deliver each message once, and count failures together."""
    async with HttpDouble(idempotency_header="webhook-id") as service:
        service.on("POST /hook", 200)
        service.on("POST /dead", Answer.failing(410))
        database = request.getfixturevalue(url)
        one, other = webhook_app(service), webhook_app(service)
        async with one.run(database=database, env={}) as run, other.run(database=database, env={}):
            store, hooks = run.controller.store, one.integrations["hooks"]
            assert isinstance(hooks, HttpOut)
            author = await store.create(User(name="ann"))
            for path in ("hook", "dead"):
                await hooks.create_endpoint(Context(user=author), f"{service.url}/{path}")
            for number in range(10):
                await store.create(Post(title=f"post {number}", author=author))
            await service.until(lambda it: len(it.accepted_keys) == 10)
            while await store.count(WebhookDelivery, WebhookDelivery.state == "pending"):  # noqa: ASYNC110 - in the database
                await asyncio.sleep(0.02)
            assert set(service.accepted_keys.values()) == {1}
            events = await store.find(WebhookEndpointEvent, WebhookEndpointEvent.kind == "disabled")
            assert [event.reason for event in events] == ["gone"]
            await hooks._prune()
            assert await store.count(WebhookDelivery) >= 10


async def test_a_network_that_is_slow_does_not_hold_up_others() -> None:
    """One endpoint that never answers keeps its own lanes busy, and nobody else's."""
    async with HttpDouble() as service:
        service.on("POST /hang", Answer.hang())
        service.on("POST /hook", 200)
        app = webhook_app(service)
        async with app.run(env={}, grace_seconds=0.1) as run:
            store, hooks = run.controller.store, app.integrations["hooks"]
            assert isinstance(hooks, HttpOut)
            author = await store.create(User(name="ann"))
            for path in ("hang", "hook"):
                await hooks.create_endpoint(Context(user=author), f"{service.url}/{path}")
            await store.create_many([Post(title=f"post {number}", author=author) for number in range(30)])
            await service.until(lambda it: len(it.sent("POST /hook")) == 30)
            assert 0 < len(service.sent("POST /hang")) <= 4
