"""A provider that calls back: verified, once, before or after the submission was answered, with or without polls."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ensue import (
    App,
    Inbound,
    Incoming,
    Rejected,
    StandardWebhooks,
    TaskEvent,
    TaskIntegration,
    TaskUpdate,
    env,
    webhook,
)
from ensue.testing import AppHarness, RecordedDelivery
from tests.tasks.shop import Picture

ENV = {"SHOP_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}


class CallingShop(TaskIntegration):
    """One that can't be polled."""

    tasks = Picture

    async def submit(self, task: Picture, key: str) -> str:
        return "p1"

    @webhook(verify=StandardWebhooks(secret=env("SHOP_SECRET")))
    async def finished(self, message: Inbound) -> Incoming:
        told = message.json()
        update = TaskUpdate(status=told["state"], result=told.get("result"), progress=told.get("progress"))
        return await self.completion(update, external_id=told["id"])


@asynccontextmanager
async def running() -> AsyncIterator[tuple[AppHarness, CallingShop]]:
    shop = CallingShop()
    async with AppHarness(App(entities=[Picture], integrations={"shop": shop}), env=ENV) as harness:
        yield harness, shop


def message(**content: Any) -> RecordedDelivery:
    return RecordedDelivery(json.dumps(content).encode())


async def test_a_callback_is_taken_once_and_nothing_is_polled() -> None:
    async with running() as (harness, shop):
        picture = await harness.store.create(Picture(prompt="x"))
        await harness.drain()
        halfway = message(id="p1", state="processing", progress=0.5)
        assert await harness.receive("shop.finished", halfway, id="m1") == "done"
        assert (await harness.store.get(Picture, picture.id)).progress == 0.5
        done = message(id="p1", state="completed", result={"url": "u"})
        assert await harness.receive("shop.finished", done, id="m2") == "done"
        assert await harness.receive("shop.finished", done, id="m2") == "known"
        await harness.advance(120)
        await shop.poll_due()
        picture = await harness.store.get(Picture, picture.id)
        assert (picture.status, picture.result) == ("completed", {"url": "u"})
        assert await harness.store.count(TaskEvent, TaskEvent.status == "completed") == 1


async def test_a_callback_that_comes_first_is_kept() -> None:
    async with running() as (harness, _shop):
        picture = await harness.store.create(Picture(prompt="x"))
        done = message(id="p1", state="completed", result={"url": "u"})
        assert await harness.receive("shop.finished", done, id="m1") == "done"
        assert (await harness.store.get(Picture, picture.id)).status == "queued"
        await harness.drain()
        assert (await harness.store.get(Picture, picture.id)).result == {"url": "u"}


async def test_without_any_callback_the_deadline_ends_it() -> None:
    async with running() as (harness, shop):
        picture = await harness.store.create(Picture(prompt="x"))
        await harness.drain()
        for _ in range(4):
            await harness.advance(600)
            await shop.poll_due()
        picture = await harness.store.get(Picture, picture.id)
        assert (picture.status, picture.error) == ("failed", "deadline")


async def test_a_forged_callback_changes_nothing() -> None:
    async with running() as (harness, _shop):
        picture = await harness.store.create(Picture(prompt="x"))
        await harness.drain()
        done = message(id="p1", state="completed")
        with pytest.raises(Rejected):
            await harness.receive("shop.finished", done, id="m1", sign=False)
        assert (await harness.store.get(Picture, picture.id)).status == "processing"
