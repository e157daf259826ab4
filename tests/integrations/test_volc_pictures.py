"""Volcengine's pictures against a local service that behaves as the documentation says, well and badly."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from ensue import App, AsyncTask, DeclarationError, Integration, Property
from ensue.integrations.volc.signature import Credentials, Unsigned, signed_headers
from ensue.integrations.volc_pictures import GET_RESULT, SUBMIT, VolcPictures
from ensue.testing import Answer, AppHarness, HttpDouble, IntegrationConformance

ASKED = f"POST /?Action={SUBMIT}"
POLLED = f"POST /?Action={GET_RESULT}"
SECRET = "a-secret-that-nobody-sees"


class Picture(AsyncTask):
    prompt: Property[str]
    width: Property[int | None] = Property(default=None)
    size: Property[int | None] = Property(default=None)
    scale: Property[float | None] = Property(default=None)
    image_urls: Property[list[str] | None] = Property(default=None)


class Shelf(Integration):
    """Object storage in a dict."""

    async def setup(self, controller: Any) -> None:
        self.kept: dict[str, tuple[bytes, str]] = {}
        self.down = False

    async def put(self, key: str, data: bytes, content_type: str) -> str:
        if self.down:
            raise ConnectionError("the shelf is gone")
        self.kept[key] = data, content_type
        return f"https://shelf/{key}"


@dataclass
class World:
    harness: AppHarness
    service: HttpDouble
    pictures: VolcPictures

    async def picture(self, **values: Any) -> Picture:
        """A new picture, as far as delivery brings it."""
        made = await self.harness.store.create(Picture(**{"prompt": "a cat", **values}))
        await self.harness.drain()
        return await self.now(made)

    async def now(self, picture: Picture) -> Picture:
        return await self.harness.store.get(Picture, picture.id)

    async def later(self, seconds: float, picture: Picture) -> Picture:
        """What it is after so many seconds of visits and deliveries."""
        await self.harness.advance(seconds)
        return await self.now(picture)


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[World]:
    async with HttpDouble() as service:
        pictures = VolcPictures(
            tasks=Picture,
            endpoint=service.url,
            access_key="AK",
            secret_key=SECRET,
            submit_timeout_seconds=0.5,
            **options,
        )
        integrations: dict[str, Integration] = {"pictures": pictures, "shelf": Shelf()}
        async with AppHarness(App(entities=[Picture], integrations=integrations)) as harness:
            yield World(harness, service, pictures)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running() as made:
        yield made


def said(code: int = 10000, message: str = "Success", **data: Any) -> dict[str, Any]:
    return {"code": code, "data": data or None, "message": message, "request_id": "r1", "status": code}


async def test_from_queue_to_picture(world: World) -> None:
    world.service.on(ASKED, said(task_id="7"))
    world.service.queue(POLLED, said(status="in_queue"), said(status="generating"))
    world.service.on(POLLED, said(status="done", image_urls=["https://links/1.jpg"]))
    picture = await world.picture(width=2048)
    assert (picture.status, picture.external_id, picture.attempts) == ("processing", "7", 1)
    picture = await world.later(60, picture)
    assert (picture.status, picture.result) == ("completed", {"image_urls": ["https://links/1.jpg"]})
    (asked,) = world.service.sent(ASKED)
    assert asked.query == {"Action": SUBMIT, "Version": "2022-08-31"}
    assert asked.json() == {"req_key": "jimeng_t2i_v40", "prompt": "a cat", "width": 2048}
    polled = world.service.sent(POLLED)
    assert len(polled) == 3
    assert polled[0].json() == {"req_key": "jimeng_t2i_v40", "task_id": "7", "req_json": '{"return_url":true}'}


async def test_a_request_is_signed_as_it_arrives(world: World) -> None:
    world.service.on(ASKED, said(task_id="7"))
    await world.picture()
    (request,) = world.service.sent(ASKED)
    at = datetime.strptime(request.headers["x-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert at == world.harness.clock.now()
    headers = {"Host": request.headers["host"], "Content-Type": request.headers["content-type"]}
    unsigned = Unsigned("POST", "/", request.query, headers, request.body)
    expected = signed_headers(unsigned, Credentials("AK", SECRET, "cn-north-1", "cv"), at)
    assert request.headers["authorization"] == expected["Authorization"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"prompt": "猫" * 801}, "`prompt` has 801 characters; the service takes at most 800"),
        ({"image_urls": [f"https://pictures/{number}" for number in range(11)]}, "`image_urls` names 11 pictures"),
        ({"size": 1024**2 - 1}, "`size` is 1048575; the service makes pictures of 1048576 to 16777216 pixels"),
        ({"size": 4096**2 + 1}, "`size` is 16777217"),
        ({"scale": 1.5}, "`scale` is 1.5; the service takes 0 to 1"),
    ],
)
async def test_what_the_service_refuses_by_its_documentation_is_not_sent(
    world: World, given: dict[str, Any], says: str
) -> None:
    picture = await world.picture(**given)
    assert picture.status == "failed"
    assert picture.error is not None
    assert says in picture.error
    assert "猫" not in picture.error
    assert world.service.sent(ASKED) == []


async def test_what_is_just_within_bounds_is_sent(world: World) -> None:
    world.service.on(ASKED, said(task_id="7"))
    given = {"prompt": "猫" * 800, "size": 4096**2, "scale": 1.0, "image_urls": [f"https://p/{n}" for n in range(10)]}
    assert (await world.picture(**given)).status == "processing"


async def test_bounds_are_those_of_the_documented_model_only() -> None:
    async with running(req_key="another_model") as world:
        world.service.on(ASKED, said(task_id="7"))
        assert (await world.picture(prompt="a" * 801)).status == "processing"


@pytest.mark.parametrize("code", [50411, 50412, 50413, 50512])
async def test_refused_content_is_not_sent_again(world: World, code: int) -> None:
    world.service.on(ASKED, Answer.failing(400, said(code, "Text risk")))
    picture = await world.later(60, await world.picture())
    assert picture.status == "failed"
    assert picture.error is not None
    assert "content_refused" in picture.error
    assert "Text risk" in picture.error
    assert len(world.service.sent(ASKED)) == 1


@pytest.mark.parametrize("code", [50429, 50430])
async def test_too_many_waits_and_loses_no_attempt(world: World, code: int) -> None:
    world.service.queue(ASKED, *[Answer.throttled(9, content=said(code, "too many"))] * 3)
    world.service.on(ASKED, said(task_id="7"))
    world.service.on(POLLED, said(status="generating"))
    picture = await world.picture()
    assert picture.status == "queued"
    await world.harness.advance(5)
    assert len(world.service.sent(ASKED)) == 1  # not before it was said
    picture = await world.later(60, picture)
    assert (picture.status, len(world.service.sent(ASKED))) == ("processing", 4)


@pytest.mark.parametrize("code", [50500, 50501])
async def test_an_internal_error_is_not_repeated_at_once(world: World, code: int) -> None:
    world.service.queue(ASKED, Answer.failing(500, said(code, "Internal Error")))
    world.service.on(ASKED, said(task_id="7"))
    picture = await world.picture()
    await world.harness.advance(25)
    assert len(world.service.sent(ASKED)) == 1
    picture = await world.later(30, picture)
    assert (picture.status, len(world.service.sent(ASKED))) == ("processing", 2)


async def test_an_endpoint_that_is_none_is_said_at_the_start() -> None:
    pictures = VolcPictures(tasks=Picture, access_key="k", secret_key="s", endpoint="visual.example.com")
    with pytest.raises(DeclarationError, match=r"endpoint is 'visual.example.com'; expected https://host"):
        async with AppHarness(App(entities=[Picture], integrations={"pictures": pictures})):
            raise AssertionError("started")


async def test_wrong_keys_fail_no_task(world: World) -> None:
    world.service.queue(ASKED, *[Answer.failing(401, said(100010, "SignatureDoesNotMatch"))] * 2)
    world.service.on(ASKED, said(task_id="7"))
    picture = await world.picture()
    assert picture.status == "queued"
    assert (await world.later(60, picture)).status == "processing"


@pytest.mark.parametrize(
    "answer",
    [
        Answer.ok(said(task_id="7")).lost(),  # accepted, and the connection reset
        Answer.ok(said(task_id="7")).half(),
        Answer.ok(said(task_id="7")).withheld(),
        Answer.failing(502, "Bad Gateway"),
        Answer.ok({"code": 10000, "message": "Success"}),
    ],
    ids=["accepted, then reset", "half an answer", "no answer", "a gateway's error", "no task_id"],
)
async def test_an_unknown_outcome_is_never_submitted_twice(world: World, answer: Answer) -> None:
    world.service.queue(ASKED, answer)
    world.service.on(ASKED, said(task_id="8"))
    picture = await world.later(60, await world.picture())
    assert picture.status == "failed"
    assert picture.error is not None
    assert picture.error.startswith("unknown outcome")
    assert len(world.service.sent(ASKED)) == 1
    # The operator found it at the provider after all.
    world.service.on(POLLED, said(status="done", image_urls=["u"]))
    assert await world.pictures.adopt(picture, "7")
    picture = await world.later(10, picture)
    assert (picture.status, picture.external_id) == ("completed", "7")


async def test_an_operator_may_submit_again(world: World) -> None:
    world.service.queue(ASKED, Answer.ok(said(task_id="7")).lost(), said(task_id="8"))
    picture = await world.picture()
    assert picture.status == "failed"
    await world.pictures.submit_again(picture)
    await world.harness.drain()
    picture = await world.now(picture)
    assert (picture.status, picture.external_id, picture.attempts) == ("processing", "8", 2)


async def test_the_policy_may_say_to_submit_again() -> None:
    async with running(on_unknown="resubmit") as world:
        world.service.queue(ASKED, Answer.ok(said(task_id="7")).lost())
        world.service.on(ASKED, said(task_id="8"))
        world.service.on(POLLED, said(status="generating"))
        picture = await world.later(30, await world.picture())
        assert (picture.status, picture.external_id, len(world.service.sent(ASKED))) == ("processing", "8", 2)


async def test_a_dead_service_is_waited_for(world: World) -> None:
    world.service.on(ASKED, said(task_id="7"))
    world.service.on(POLLED, said(status="done", image_urls=["u"]))
    world.service.refuse()
    picture = await world.picture()
    await world.later(60, picture)
    assert (await world.now(picture)).status == "queued"
    world.service.heal()
    assert (await world.later(120, picture)).status == "completed"


@pytest.mark.parametrize(
    "answer",
    [
        Answer.failing(500, said(50500, "Internal Error")),
        Answer.throttled(3, content=said(50429)),
        Answer.ok(said(status="done", image_urls=["u"])).half(),
        Answer.ok(said(status="done", image_urls=["u"])).lost(),
        Answer.hang(),
        Answer.failing(502, "Bad Gateway"),
        said(status="a word that nobody knows"),
    ],
    ids=["500", "429", "half", "reset", "hang", "502", "unknown word"],
)
async def test_a_failed_poll_fails_no_task(world: World, answer: Any) -> None:
    world.service.on(ASKED, said(task_id="7"))
    world.service.queue(POLLED, answer, answer)
    world.service.on(POLLED, said(status="done", image_urls=["u"]))
    picture = await world.later(180, await world.picture())
    assert (picture.status, picture.result) == ("completed", {"image_urls": ["u"]})


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer.failing(400, said(50512, "Image risk", status="done")), "content_refused"),
        (said(status="not_found"), "not_found"),
        (said(59999, "something else", status="done"), "something else"),
    ],
)
async def test_done_badly(world: World, answer: Any, error: str) -> None:
    world.service.on(ASKED, said(task_id="7"))
    world.service.on(POLLED, answer)
    picture = await world.later(60, await world.picture())
    assert picture.status == "failed"
    assert picture.error is not None
    assert error in picture.error
    assert len(world.service.sent(ASKED)) == 1


@pytest.mark.parametrize("answer", [said(status="expired"), Answer.failing(400, said(50511, "Output risk"))])
async def test_what_expired_or_came_out_wrong_is_submitted_again(world: World, answer: Any) -> None:
    world.service.queue(ASKED, said(task_id="7"), said(task_id="8"))
    world.service.queue(POLLED, answer)
    world.service.on(POLLED, said(status="done", image_urls=["u"]))
    picture = await world.later(60, await world.picture())
    assert (picture.status, picture.external_id, picture.attempts) == ("completed", "8", 2)


async def test_submitting_again_has_an_end(world: World) -> None:
    world.service.on(ASKED, said(task_id="7"))
    world.service.on(POLLED, Answer.failing(400, said(50511, "Output risk")))
    picture = await world.later(120, await world.picture())
    assert (picture.status, picture.attempts) == ("failed", 3)
    assert picture.error is not None
    assert "output_refused" in picture.error


async def test_pictures_are_copied_to_storage() -> None:
    async with running(storage="shelf") as world:
        world.service.on(ASKED, said(task_id="a/7"))
        world.service.on(POLLED, said(status="done", image_urls=[f"{world.service.url}/1.jpg"]))
        world.service.on("GET /1.jpg", Answer.ok(b"jpeg", headers={"Content-Type": "image/jpeg"}))
        shelf = world.harness.integration("shelf")
        shelf.down = True
        picture = await world.later(30, await world.picture())
        assert picture.status == "processing"
        shelf.down = False
        picture = await world.later(60, picture)
        assert picture.result == {"image_urls": ["https://shelf/pictures/a%2F7/1.jpg"]}
        assert shelf.kept == {"pictures/a%2F7/1.jpg": (b"jpeg", "image/jpeg")}


async def test_the_secret_is_nowhere(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.service.on(ASKED, Answer.failing(500, "<html>"))
    picture = await world.later(30, await world.picture())
    assert SECRET not in repr(world.pictures)
    assert SECRET not in f"{caplog.text} {picture!r}"


class TestConformance(IntegrationConformance[HttpDouble]):
    """With the policy that lets an unknown outcome be submitted again: without it, a shutdown in the middle of a
    submission fails the task for an operator, as `test_an_unknown_outcome_is_never_submitted_twice` shows.
    """

    def peer(self) -> HttpDouble:
        service = HttpDouble()
        service.on(ASKED, said(task_id="7"))
        service.on(POLLED, said(status="generating"))
        return service

    def integration(self, peer: HttpDouble) -> VolcPictures:
        return VolcPictures(tasks=Picture, submit_timeout_seconds=1.0, on_unknown="resubmit")

    def app(self, integration: Integration) -> App:
        return App(entities=[Picture], integrations={"pictures": integration})

    def environment(self, peer: HttpDouble) -> dict[str, str]:
        return {"VOLC_ACCESS_KEY": "AK-7f3a9", "VOLC_SECRET_KEY": SECRET, "VOLC_VISUAL_ENDPOINT": peer.url}

    async def cause(self, controller: Any) -> None:
        await controller.store.create(Picture(prompt="a cat"))

    async def work(self, peer: HttpDouble) -> int:
        return len([request for request in peer.accepted if request.query["Action"] == SUBMIT])
