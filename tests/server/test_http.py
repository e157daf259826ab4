"""Every route over a real network, and every way to use it wrong."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import pytest

from ensue import Unavailable
from ensue.server import body
from ensue.server.body import DISCARDED_BYTES_MAX
from tests.server.network import Served, serving, serving_app
from tests.server.shop import Comment, Post, User, authenticate, make_app

ERROR = {"code", "message", "fields", "request_id"}


def error_of(response: Any, status: int, code: str) -> dict[str, Any]:
    """The error of a response that must be one."""
    body = response.json()
    assert (response.status_code, body["error"]["code"]) == (status, code), body
    assert set(body) == {"error"}
    assert set(body["error"]) == ERROR
    assert body["error"]["request_id"] == response.headers["x-request-id"]
    return body["error"]


async def test_an_interaction_is_dispatched_and_tells_what_followed(shop: Served) -> None:
    response = await shop.interact("AddComment", {"post": 1, "text": "hi"})
    assert response.status_code == 200
    body = response.json()
    assert set(body) == {"event", "changes", "replayed"}
    assert body["event"]["text"] == "hi"
    assert body["event"]["post"] == {"id": 1}
    assert body["event"]["user"] == {"id": 1}
    assert body["replayed"] is False
    # Types and ids only: what followed may concern others.
    assert {"type": "create", "record": "Comment", "id": 1} in body["changes"]
    assert {"type": "update", "record": "Post", "id": 1} in body["changes"]
    post = await shop.app.controller.store.get(Post, 1)
    assert post.comment_count == 1


async def test_an_idempotency_key_makes_a_repeat_a_replay(shop: Served) -> None:
    headers = {"idempotency-key": "k1"}
    first = await shop.interact("AddComment", {"post": 1, "text": "hi"}, headers=headers)
    again = await shop.interact("AddComment", {"post": 1, "text": "hi"}, headers=headers)
    assert again.json()["replayed"] is True
    assert again.json()["changes"] == []
    assert again.json()["event"]["id"] == first.json()["event"]["id"]
    other = await shop.interact("AddComment", {"post": 1, "text": "other"}, headers=headers)
    error_of(other, 409, "idempotency_mismatch")
    assert await shop.app.controller.store.count(Comment) == 1


@pytest.mark.parametrize("key", ["", "k" * 256])
async def test_an_idempotency_key_of_a_wrong_length_is_refused(shop: Served, key: str) -> None:
    response = await shop.interact("Register", {"name": "x"}, headers={"idempotency-key": key})
    reason = f"has {len(key)} characters; expected 1 to 255"
    assert error_of(response, 422, "invalid")["fields"] == {"idempotency_key": reason}


async def test_an_interaction_that_reads_gives_records(shop: Served) -> None:
    response = await shop.interact("ListPosts")
    assert response.json() == {"records": [{"id": 1, "title": "first", "comment_count": 0, "author": {"id": 1}}]}
    assert (await shop.interact("ListPosts", {"title": "other"})).json() == {"records": []}


async def test_an_api_call_gives_its_result(shop: Served) -> None:
    response = await shop.call(
        "/api/integrations/desk/query_status", {"task_id": 3, "places": [{"city": "Rome"}]}, user=1
    )
    assert response.json() == {"task": 3, "place": {"city": "Rome", "street": ""}}
    response = await shop.call("/api/integrations/desk/first_post", {})
    assert response.json()["title"] == "first"


class TestRefusals:
    """One shape of errors, whatever went wrong."""

    async def test_each_wrong_field_is_named(self, shop: Served) -> None:
        wrong = {
            "whole": "x",
            "ratio": "y",
            "taken_at": "2026-01-01T00:00:00",
            "colour": "green",
            "size": "huge",
            "place": {"street": "s"},
            "raw": "!",
            "note": 3,
            "post": {"id": 1},
            "typo": 1,
        }
        fields = error_of(await shop.interact("Measure", wrong), 422, "invalid")["fields"]
        assert set(fields) == set(wrong)
        assert "`int`" in fields["whole"]
        assert "timezone" in fields["taken_at"]
        assert "city" in fields["place"]

    async def test_missing_fields_are_named_too(self, shop: Served) -> None:
        fields = error_of(await shop.interact("Measure", {"whole": 2**63}), 422, "invalid")["fields"]
        assert fields == {
            "whole": "is out of range; integers have 64 bits",
            **dict.fromkeys(["ratio", "taken_at", "colour", "size", "place"], "is missing"),
        }

    async def test_all_kinds_are_accepted_in_their_json_form(self, shop: Served) -> None:
        given = {
            "whole": -(2**63),
            "ratio": 1,
            "taken_at": "2026-01-01T00:00:00+02:00",
            "colour": "blue",
            "size": "small",
            "place": {"city": "Rome"},
            "raw": "eA==",
            "note": None,
            "post": 1,
        }
        response = await shop.interact("Measure", given)
        assert response.status_code == 200, response.text
        event = response.json()["event"]
        assert event["taken_at"] == "2025-12-31T22:00:00Z"
        assert (event["whole"], event["colour"], event["raw"], event["post"]) == (-(2**63), "blue", "eA==", {"id": 1})

    async def test_a_reference_to_nothing_is_a_wrong_field(self, shop: Served) -> None:
        fields = error_of(await shop.interact("AddComment", {"post": 77, "text": "x"}), 422, "invalid")["fields"]
        assert set(fields) == {"post"}

    async def test_a_guard_that_says_no(self, shop: Served) -> None:
        error_of(await shop.interact("AddComment", {"post": 1, "text": "x"}, user=None), 403, "not_allowed")

    async def test_a_rejection_of_the_application(self, shop: Served) -> None:
        error = error_of(await shop.interact("AddComment", {"post": 1, "text": "spam"}), 422, "spam")
        assert (error["message"], error["fields"]) == ("This looks like spam.", {"text": "is spam"})

    async def test_a_defect_tells_nothing(self, shop: Served, caplog: pytest.LogCaptureFixture) -> None:
        response = await shop.interact("AddComment", {"post": 1, "text": "boom"}, headers={"x-request-id": "find-me"})
        assert error_of(response, 500, "internal")["request_id"] == "find-me"
        assert "secret" not in response.text
        assert "a secret detail" in caplog.text

    async def test_an_api_result_that_json_cannot_say_is_a_defect(self, shop: Served) -> None:
        error_of(await shop.call("/api/integrations/desk/broken"), 500, "internal")

    async def test_unknown_names(self, shop: Served) -> None:
        error = error_of(await shop.interact("AddComent"), 404, "unknown_interaction")
        assert "AddComment" in error["message"]
        error_of(await shop.call("/api/integrations/disk/x"), 404, "unknown_integration")
        error_of(await shop.call("/api/integrations/desk/x"), 404, "unknown_api_call")

    async def test_unknown_paths_and_methods(self, shop: Served) -> None:
        error_of(await shop.http.get("/nothing"), 404, "unknown_route")
        error_of(await shop.http.get("/health/"), 404, "unknown_route")
        response = await shop.http.get("/api/interactions/AddComment")
        error_of(response, 405, "method_not_allowed")
        assert response.headers["allow"] == "POST"

    @pytest.mark.parametrize(
        "body", [b"{", b"\xff", b'{"a": NaN}', b"[" * 100_000, b'{"whole": 1e999}', b"1" * 5_000, b'"\\ud800"']
    )
    async def test_what_is_not_json(self, shop: Served, body: bytes) -> None:
        headers = {"content-type": "application/json"}
        response = await shop.http.post("/api/interactions/Measure", content=body, headers=headers)
        error_of(response, 400, "invalid_json")

    @pytest.mark.parametrize("body", [b"[]", b"1", b'"x"', b"null", b"true"])
    async def test_json_that_is_no_object(self, shop: Served, body: bytes) -> None:
        headers = {"content-type": "application/json"}
        response = await shop.http.post("/api/interactions/Measure", content=body, headers=headers)
        assert "expected an object" in error_of(response, 422, "invalid")["message"]

    @pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
    async def test_what_any_page_could_send_is_not_accepted(self, shop: Served, kind: str | None) -> None:
        headers = {} if kind is None else {"content-type": kind}
        response = await shop.http.post("/api/interactions/Register", content=b'{"name": "x"}', headers=headers)
        error_of(response, 415, "unsupported_media_type")

    async def test_what_is_compressed_is_not_accepted(self, shop: Served) -> None:
        headers = {"content-type": "application/json", "content-encoding": "gzip"}
        response = await shop.http.post("/api/interactions/Register", content=gzip.compress(b"{}"), headers=headers)
        assert "Content-Encoding gzip" in error_of(response, 415, "unsupported_media_type")["message"]

    async def test_the_websocket_without_an_upgrade(self, shop: Served) -> None:
        response = await shop.http.get("/ws")
        assert "proxy" in error_of(response, 426, "websocket_only")["message"]
        assert response.headers["upgrade"] == "websocket"

    async def test_an_empty_body_is_an_empty_payload(self, shop: Served) -> None:
        response = await shop.http.post("/api/interactions/Register", headers={"content-type": "application/json"})
        assert error_of(response, 422, "invalid")["fields"] == {"name": "is missing"}

    async def test_tokens_that_are_wrong(self, shop: Served) -> None:
        response = await shop.http.post("/api/interactions/ListPosts", json={}, headers={"authorization": "Bearer old"})
        assert error_of(response, 401, "not_authenticated")["message"] == "The token has expired."
        assert response.headers["www-authenticate"] == "Bearer"
        error_of(await shop.call("/api/integrations/desk/query_status", {"task_id": 1}), 401, "not_authenticated")

    @pytest.mark.parametrize(("retryable", "after"), [(True, "1"), (False, None)])
    async def test_what_can_not_be_done_now(
        self,
        shop: Served,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        retryable: bool,
        after: str | None,
    ) -> None:
        async def fail(*_: Any, **__: Any) -> Any:
            raise Unavailable("db.internal:5432 refuses", retryable=retryable)

        monkeypatch.setattr(shop.app.controller, "dispatch", fail)
        response = await shop.interact("Register", {"name": "x"})
        error_of(response, 503, "unavailable")
        assert response.headers.get("retry-after") == after
        assert "internal:5432" not in response.text
        # Nobody else tells whoever runs it why.
        assert "POST /api/interactions/Register can't be done now: db.internal:5432 refuses" in caplog.text

    async def test_conflicts_of_constraints(self, shop: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        async def fail(*_: Any, **__: Any) -> Any:
            await shop.app.controller.store.create(User(name="ann"))

        monkeypatch.setattr(shop.app.controller, "dispatch", fail)
        error_of(await shop.interact("Register", {"name": "x"}), 409, "unique")

    async def test_wrong_parameters_of_an_api_call(self, shop: Served) -> None:
        response = await shop.call("/api/integrations/desk/query_status", {"task_id": "x", "more": 1}, user=1)
        fields = error_of(response, 422, "invalid")["fields"]
        assert set(fields) == {"task_id", "more"}
        assert fields["task_id"] == "expected `int`, got `str`"


class TestSizes:
    """A body is never read further than it may be."""

    async def test_a_declared_length_is_enough_to_refuse(self) -> None:
        async with serving_app(make_app(), body_limit_bytes=1000) as shop:
            response = await shop.interact("Register", {"name": "x" * 1000})
            error_of(response, 413, "too_large")
            assert (await shop.interact("Register", {"name": "x" * 900})).status_code == 200

    @pytest.mark.parametrize("declared", [True, False])
    async def test_a_client_that_sends_too_much_gets_its_answer(self, *, declared: bool) -> None:
        async def long() -> Any:
            for _ in range(300):
                yield b" " * 10_000

        async with serving_app(make_app(), body_limit_bytes=100_000) as shop:
            headers = {"content-type": "application/json"}
            content = b" " * 3_000_000 if declared else long()
            response = await shop.http.post("/api/interactions/Register", content=content, headers=headers)
            error_of(response, 413, "too_large")

    async def test_who_asks_before_sending_is_answered_at_once(self) -> None:
        async with serving_app(make_app(), body_limit_bytes=1000) as shop:
            reader, writer = await asyncio.open_connection("127.0.0.1", shop.port)
            head = "POST /api/interactions/Register HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Content-Length: 5000\r\nExpect: 100-continue\r\n\r\n".encode())
            assert (await asyncio.wait_for(reader.readline(), 4)).startswith(b"HTTP/1.1 413")
            writer.close()

    async def test_a_client_that_takes_its_time_is_sent_away(
        self, shop: Served, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(body, "READ_SECONDS", 0.0)
        monkeypatch.setattr(body, "READ_BYTES_PER_SECOND", 1 << 30)
        reader, writer = await asyncio.open_connection("127.0.0.1", shop.port)
        head = "POST /api/interactions/Register HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        writer.write(f'{head}Content-Length: 12\r\n\r\n{{"na'.encode())
        # To its end: the connection is closed, though the body is not complete.
        answer = await asyncio.wait_for(reader.read(), 4)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"too_slow" in answer
        writer.close()

    async def test_what_is_read_stops_soon_after_the_limit(self) -> None:
        asked = 0

        async def receive() -> dict[str, Any]:
            nonlocal asked
            asked += 1
            return {"type": "http.request", "body": b" " * 10_000, "more_body": True}

        sent: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            sent.append(message)

        app = make_app()
        async with app:
            headers = [(b"content-type", b"application/json")]
            scope = {"type": "http", "method": "POST", "path": "/api/interactions/Register", "headers": headers}
            scope |= {"query_string": b"", "root_path": "", "scheme": "http", "http_version": "1.1"}
            await app.asgi(body_limit_bytes=50_000)(scope, receive, send)
        assert sent[0]["status"] == 413
        assert asked * 10_000 <= 50_000 + DISCARDED_BYTES_MAX + 20_000


class TestSurroundings:
    """Mounting, CORS, and an app that is not running."""

    async def test_an_app_that_was_not_entered_says_what_to_add(self) -> None:
        async with serving_without_lifespan() as shop:
            error = error_of(await shop.http.get("/health"), 503, "not_running")
            assert "async with app:" in error["message"]
            error_of(await shop.interact("Register", {"name": "x"}), 503, "not_running")

    async def test_request_ids_are_taken_over_if_they_are_fit(self, shop: Served) -> None:
        response = await shop.http.get("/health", headers={"x-request-id": "abc-1"})
        assert response.headers["x-request-id"] == "abc-1"
        response = await shop.http.get("/health", headers={"x-request-id": 'x" injected="1'})
        assert "injected" not in response.headers["x-request-id"]

    async def test_pages_of_listed_origins_may_call(self) -> None:
        async with serving_app(make_app(), cors_origins=["https://app.example"]) as shop:
            asking = {"origin": "https://app.example", "access-control-request-method": "POST"}
            asking["access-control-request-headers"] = "content-type,idempotency-key,authorization"
            response = await shop.http.options("/api/interactions/Register", headers=asking)
            assert response.status_code == 200
            assert response.headers["access-control-allow-origin"] == "https://app.example"
            asking["origin"] = "https://evil.example"
            response = await shop.http.options("/api/interactions/Register", headers=asking)
            assert response.status_code == 400
            # An error can be read by the page too.
            response = await shop.interact("Nothing", headers={"origin": "https://app.example"})
            assert response.headers["access-control-allow-origin"] == "https://app.example"
            error_of(response, 404, "unknown_interaction")

    async def test_without_cors_no_header_is_sent(self, shop: Served) -> None:
        response = await shop.http.get("/health", headers={"origin": "https://app.example"})
        assert "access-control-allow-origin" not in response.headers

    async def test_health(self, shop: Served) -> None:
        response = await shop.http.get("/health")
        assert response.status_code == 200
        body = response.json()
        assert body["status"] == "ok"
        assert body["database"] == {"up": True}
        assert body["integrations"] == {"desk": {"up": True}}
        assert set(body["delivery"]) == {"waiting", "lag_seconds"}

    async def test_health_of_a_part(self) -> None:
        app = make_app()
        async with serving_app(app) as shop:
            app.integrations["desk"].up = False  # type: ignore[attr-defined]
            response = await shop.http.get("/health")
            assert (response.status_code, response.json()["status"]) == (200, "degraded")
            assert "10.0.0.7" not in response.text
            response = await shop.http.get("/health?strict=1", headers={"authorization": "Bearer user-1"})
            assert response.status_code == 503
            assert "10.0.0.7" in response.text

    async def test_health_without_a_database(self, shop: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        async def fail(work: Any) -> Any:
            work.close()
            raise ConnectionError("gone")

        assert shop.app.running is not None
        monkeypatch.setattr(shop.app.running.driver, "read", fail)
        response = await shop.http.get("/health")
        assert (response.status_code, response.json()["status"]) == (503, "down")

    async def test_health_when_nobody_can_be_known(self) -> None:
        async def without_sessions(_: Any) -> Any:
            raise Unavailable("The database with the sessions does not answer.")

        async with serving_app(make_app(), authenticate=without_sessions) as shop:
            response = await shop.http.get("/health", headers={"authorization": "Bearer user-1"})
        assert (response.status_code, response.json()["status"]) == (200, "ok")


def serving_without_lifespan() -> Any:
    """A server that does not run lifespans, as a host does that mounts the app."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await inner(scope, receive, send)

    inner = make_app().asgi(authenticate=authenticate)
    return serving(application)
