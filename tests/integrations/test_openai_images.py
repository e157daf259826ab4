"""Pictures by OpenAI's images API against a local service: answered at once, and the same way as all tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from ensue import App, AsyncTask, DeclarationError, Integration, Property, TaskEvent
from ensue.integrations.openai_images import OpenAIImages
from ensue.testing import Answer, AppHarness, HttpDouble, IntegrationConformance

ASKED = "POST /v1/images/generations"
MADE = {"created": 1, "data": [{"url": "https://images/1.png"}], "usage": {"total_tokens": 120}}


class Drawing(AsyncTask):
    prompt: Property[str]
    size: Property[str | None] = Property(default=None)


@dataclass
class World:
    harness: AppHarness
    service: HttpDouble

    async def drawing(self) -> Drawing:
        made = await self.harness.store.create(Drawing(prompt="a cat", size="1024x1024"))
        await self.harness.drain()
        return await self.now(made)

    async def now(self, drawing: Drawing) -> Drawing:
        return await self.harness.store.get(Drawing, drawing.id)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with HttpDouble(idempotency_header="Idempotency-Key") as service:
        images = OpenAIImages(
            tasks=Drawing, api_key="sk-hidden", base_url=f"{service.url}/v1", submit_timeout_seconds=0.5
        )
        async with AppHarness(App(entities=[Drawing], integrations={"images": images})) as harness:
            yield World(harness, service)


async def test_an_answer_at_once_goes_the_way_of_all_tasks(world: World) -> None:
    world.service.on(ASKED, MADE)
    drawing = await world.drawing()
    assert (drawing.status, drawing.progress, drawing.cost) == ("completed", 1.0, 120.0)
    assert drawing.result == {"images": [{"url": "https://images/1.png"}]}
    assert [event.status for event in await world.harness.store.find(TaskEvent)] == ["processing", "completed"]
    (request,) = world.service.requests
    assert request.json() == {"model": "gpt-image-1", "prompt": "a cat", "size": "1024x1024"}
    assert request.headers["authorization"] == "Bearer sk-hidden"
    assert request.headers["idempotency-key"].startswith("images.submit_Drawing:Drawing:1:")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer.failing(400, {"error": {"message": "safety system"}}), "safety system"),
        (Answer.ok(MADE).lost(), "unknown outcome"),
        (Answer.ok(MADE).withheld(), "unknown outcome"),
        (Answer.ok({"data": []}), "unknown outcome"),
    ],
    ids=["refused", "accepted, then reset", "no answer", "no pictures"],
)
async def test_what_was_refused_or_may_have_been_made_is_not_asked_for_again(
    world: World, answer: Any, error: str
) -> None:
    world.service.queue(ASKED, answer)
    world.service.on(ASKED, MADE)
    drawing = await world.drawing()
    await world.harness.advance(30)
    assert drawing.status == "failed"
    assert drawing.error is not None
    assert error in drawing.error
    assert "sk-hidden" not in drawing.error
    assert len(world.service.requests) == 1


async def test_a_wrong_key_fails_no_task(world: World) -> None:
    world.service.queue(ASKED, Answer.failing(401, {"error": "no such key"}))
    world.service.on(ASKED, MADE)
    drawing = await world.drawing()
    assert drawing.status == "queued"
    await world.harness.advance(30)
    assert (await world.now(drawing)).status == "completed"


@pytest.mark.parametrize("url", ["api.example.com/v1", "ftp://api.example.com", "https://"])
async def test_an_address_that_is_none_is_said_at_the_start(url: str) -> None:
    app = App(entities=[Drawing], integrations={"images": OpenAIImages(tasks=Drawing, api_key="k", base_url=url)})
    with pytest.raises(DeclarationError, match=r"base_url is .*; expected https://host"):
        async with AppHarness(app):
            raise AssertionError("started")


async def test_throttling_is_obeyed_under_the_same_key(world: World) -> None:
    world.service.queue(ASKED, Answer.throttled(7))
    world.service.on(ASKED, MADE)
    drawing = await world.drawing()
    await world.harness.advance(6)
    assert len(world.service.requests) == 1
    await world.harness.advance(20)
    assert (await world.now(drawing)).status == "completed"
    assert len({request.headers["idempotency-key"] for request in world.service.requests}) == 1


class TestConformance(IntegrationConformance[HttpDouble]):
    """With the policy that lets an unknown outcome be asked for again, since this service folds repeats of a key."""

    def peer(self) -> HttpDouble:
        service = HttpDouble(idempotency_header="Idempotency-Key")
        service.on(ASKED, MADE)
        return service

    def integration(self, peer: HttpDouble) -> OpenAIImages:
        return OpenAIImages(tasks=Drawing, submit_timeout_seconds=1.0, on_unknown="resubmit")

    def app(self, integration: Integration) -> App:
        return App(entities=[Drawing], integrations={"images": integration})

    def environment(self, peer: HttpDouble) -> dict[str, str]:
        return {"OPENAI_API_KEY": "sk-secret-5a1", "OPENAI_BASE_URL": f"{peer.url}/v1"}

    async def cause(self, controller: Any) -> None:
        await controller.store.create(Drawing(prompt="a cat"))

    async def work(self, peer: HttpDouble) -> dict[str, int]:
        return dict(peer.accepted_keys)
