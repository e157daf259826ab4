"""Inside another application: paths, life and errors stay ours."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route

from ensue import App, DeclarationError
from ensue.server.logs import JsonFormatter
from tests.server.network import serving, serving_app
from tests.server.shop import Post, User, authenticate, make_app


async def _teapot(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"host": repr(error)}, 418)


def host(app: App, *, enters: bool = True) -> Starlette:
    """An application of the shape that FastAPI's have, with ours under `/shop` and handlers of its own for all errors."""

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncGenerator[None]:
        if not enters:
            yield
            return
        async with app:
            user = await app.controller.store.create(User(name="ann"))
            await app.controller.store.create(Post(title="first", author=user))
            yield

    routes = [
        Route("/", lambda _: PlainTextResponse("the host")),
        Mount("/shop", app.asgi(authenticate=authenticate, subscribable=[Post])),
    ]
    handlers: Any = {404: _teapot, 405: _teapot, Exception: _teapot}
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)


async def test_everything_works_under_a_path() -> None:
    app = make_app()
    async with serving(host(app), app) as shop:
        assert (await shop.http.get("/")).text == "the host"
        response = await shop.call("/shop/api/interactions/AddComment", {"post": 1, "text": "x"}, user=1)
        assert response.status_code == 200
        assert (await shop.http.get("/shop/health")).json()["status"] == "ok"
        assert (await shop.http.get("/shop/openapi.json")).json()["servers"] == [{"url": "/shop"}]
        assert "openapi.json" in (await shop.http.get("/shop/docs")).text
        async with shop.connect(path="/shop/ws") as talk:
            answer = await talk.ask({"id": 1, "type": "subscribe", "record": "Post", "key": 1, "fields": ["title"]})
            assert answer["data"]["title"] == "first"


async def test_errors_keep_their_shape_in_a_host_with_its_own() -> None:
    app = make_app()
    async with serving(host(app), app) as shop:
        for response, status in (
            (await shop.http.get("/shop/nothing"), 404),
            (await shop.http.get("/shop/api/interactions/AddComment"), 405),
            (await shop.call("/shop/api/interactions/AddComment", {"post": 1, "text": "boom"}, user=1), 500),
            (await shop.call("/shop/api/interactions/AddComment", {"post": "x"}, user=1), 422),
        ):
            assert response.status_code == status
            assert "error" in response.json()
        assert (await shop.http.get("/nothing")).status_code == 418


async def test_a_host_that_does_not_enter_the_app_is_told_how() -> None:
    async with serving(host(make_app(), enters=False)) as shop:
        response = await shop.http.get("/shop/health")
        assert response.status_code == 503
        assert "async with app:" in response.json()["error"]["message"]


async def test_a_lifespan_leaves_an_entered_app_alone() -> None:
    app = make_app()
    async with app:
        run = app.running
        async with serving(app.asgi(), app) as shop:
            assert (await shop.http.get("/health")).status_code == 200
        assert app.running is run


async def test_an_app_can_be_served_again() -> None:
    app = make_app()
    application = app.asgi(authenticate=authenticate, subscribable=[Post])
    for _ in range(2):
        async with serving(application, app) as shop:
            user = await app.controller.store.create(User(name="ann"))
            post = await app.controller.store.create(Post(title="first", author=user))
            async with shop.connect() as talk:
                message = {"id": 1, "type": "subscribe", "record": "Post", "key": post.id}
                assert (await talk.ask(message))["data"]["title"] == "first"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"cors_origins": "https://x"}, r"expected several: cors_origins=\['https://x'\]"),
        ({"subscribable": "Post"}, "expected several"),
        ({"subscribable": Post}, r"expected several: subscribable=\[Post\]"),
        ({"body_limit_bytes": 0}, "out of range"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], text: str) -> None:
    with pytest.raises(DeclarationError, match=text):
        make_app().asgi(**options)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Pots", "Did you mean 'Post'"),
        ("AddComment", "AddComment, which is neither an entity nor a relation"),
    ],
)
async def test_what_cannot_be_subscribed_to_is_an_error_at_start(name: str, text: str) -> None:
    app = make_app()
    application = app.asgi(subscribable=[name])
    started: list[Any] = []

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        started.append(message)

    with pytest.raises(DeclarationError, match=text):
        await application({"type": "lifespan", "state": {}}, receive, send)
    assert started[0]["type"] == "lifespan.startup.failed"
    assert app.running is None


async def test_log_lines_are_json_with_ids_and_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    lines: list[dict[str, Any]] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(msgspec.json.decode(JsonFormatter().format(record)))

    logger = logging.getLogger("ensue.server")
    kept = Kept()
    logger.addHandler(kept)
    caplog.set_level("INFO", "ensue.server")
    try:
        async with serving_app(make_app()) as shop:
            path = "/api/interactions/AddComment?token=user-1"
            headers = {"x-request-id": "r-1", "cookie": "secret=1"}
            response = await shop.call(path, {"post": 1, "text": "hush"}, headers=headers)
            assert response.status_code == 200
    finally:
        logger.removeHandler(kept)
    call, request = lines
    assert call["call"] == "AddComment"
    assert len(call["dispatch_id"]) == 32
    assert (request["path"], request["status"]) == ("/api/interactions/AddComment", 200)
    assert call["request_id"] == request["request_id"] == "r-1"
    text = str(lines)
    assert "hush" not in text
    assert "secret" not in text
    assert "user-1" not in text
