"""The page and the example of outgoing webhooks do what they say."""

from __future__ import annotations

import re

from ensue.integrations.http_out import HttpOut
from ensue.integrations.http_out.doubles import Receivers
from ensue.testing import AppHarness
from examples import http_out as example
from tests.docs.pages import DOCS, run_page
from tests.integrations.http_out.webhook_app import SECRET, webhook_app

PAGE = DOCS / "integrations" / "http_out.md"
PLACE = "https://ann.example/hook"


async def test_the_page_runs() -> None:
    await run_page(PAGE)


async def test_the_page_names_every_setting_and_call() -> None:
    named = set(re.findall(r"`(\w+)`", PAGE.read_text()))
    assert set(HttpOut.__ensue_settings__) <= named
    async with AppHarness(webhook_app()) as harness:
        assert set(harness.run.apis["hooks"]) <= named


async def test_the_example() -> None:
    receivers = Receivers()
    environment = {"HTTP_OUT_SECRET": SECRET}
    async with AppHarness(example.app, env=environment, clients={"hooks.http": receivers.transport}) as harness:
        dispatch = harness.controller.dispatch
        ann, bob = [(await dispatch(example.SignUp(name=name))).event.id for name in ("ann", "bob")]
        await harness.call("hooks", "create_endpoint", user=example.User.ref(ann), url=PLACE)
        for user in (ann, bob):
            await dispatch(example.PlaceOrder(title="A print"), user=user)
        (order,) = await harness.store.find(example.Order, example.Order.customer.id == ann)
        await harness.drain()
        await dispatch(example.ShipOrder(order=order))
        await harness.drain()
        placed, moved = [one.json() for one in receivers.of(PLACE)]
        assert (placed["type"], placed["data"]["customer"]["name"]) == ("order.placed", "ann")
        assert (moved["type"], moved["data"]) == ("order.moved", {"order": order.id, "status": "shipped"})
