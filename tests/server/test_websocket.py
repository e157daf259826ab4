"""`/ws` over a real network: requests, subscriptions, and clients that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ensue import Context, Unavailable
from tests.server.network import WAIT_SECONDS, Served, Talk, serving_app
from tests.server.shop import Comment, Post, User, make_app

SUBSCRIBE = {"id": 1, "type": "subscribe", "record": "Post", "key": 1, "fields": ["title"]}


async def close_code(talk: Talk) -> int | None:
    """The code with which the server ends a connection, whatever it says before."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await asyncio.wait_for(talk.websocket.recv(), WAIT_SECONDS)
    return talk.websocket.close_code


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something has happened."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event to wait on
            await asyncio.sleep(0.01)


async def silence(talk: Talk) -> None:
    """Nothing more is said: an answer to a later question is the next thing to be heard."""
    assert await talk.ask({"type": "ping", "id": "still"}) == {"id": "still", "type": "pong"}


def code_of(message: Any) -> str:
    """The code of an error, which must have the shape that HTTP's have."""
    assert set(message["error"]) == {"code", "message", "fields", "request_id"}, message
    return message["error"]["code"]


class TestRequests:
    """Interactions and API calls, answered by id."""

    async def test_an_interaction(self, shop: Served) -> None:
        async with shop.connect() as talk:
            payload = {"post": 1, "text": "hi"}
            message = {"id": 7, "type": "interaction", "name": "AddComment", "payload": payload, "idempotency_key": "k"}
            answer = await talk.ask(message)
            assert (answer["id"], answer["type"]) == (7, "result")
            assert answer["data"]["event"]["user"] == {"id": 1}
            assert (await talk.ask({**message, "id": 8}))["data"]["replayed"] is True

    async def test_an_interaction_that_reads_and_one_without_payload(self, shop: Served) -> None:
        async with shop.connect() as talk:
            answer = await talk.ask({"id": "a", "type": "interaction", "name": "ListPosts"})
            assert [post["title"] for post in answer["data"]["records"]] == ["first"]

    async def test_an_api_call(self, shop: Served) -> None:
        async with shop.connect() as talk:
            message = {"id": 1, "type": "api", "namespace": "desk", "name": "query_status", "payload": {"task_id": 5}}
            assert (await talk.ask(message))["data"] == {"task": 5, "place": None}

    @pytest.mark.parametrize(
        ("message", "code"),
        [
            ({"type": "interaction", "name": "Nothing"}, "unknown_interaction"),
            ({"type": "interaction", "name": "AddComment", "payload": {"post": "x"}}, "invalid"),
            ({"type": "interaction", "name": "AddComment", "payload": []}, "invalid"),
            ({"type": "interaction", "name": "AddComment", "payload": {"post": 1, "text": "spam"}}, "spam"),
            ({"type": "interaction", "name": "AddComment", "payload": {"post": 1, "text": "boom"}}, "internal"),
            ({"type": "interaction"}, "invalid_message"),
            ({"type": "interaction", "name": "ListPosts", "typo": 1}, "invalid_message"),
            ({"type": "nothing"}, "invalid_message"),
            ({}, "invalid_message"),
            ({"type": "api", "namespace": "x", "name": "y"}, "unknown_integration"),
            ({"type": "subscribe"}, "invalid_message"),
            ({"type": "subscribe", "record": "Post"}, "invalid_message"),
            ({"type": "subscribe", "record": "Post", "key": "x"}, "invalid_message"),
            ({"type": "subscribe", "record": "Post", "key": 1, "read": "ListPosts"}, "invalid_message"),
            ({"type": "subscribe", "read": "ListPosts", "key": 1}, "invalid_message"),
            ({"type": "subscribe", "record": "Pots", "key": 1}, "unknown_record"),
            ({"type": "subscribe", "record": "AddComment", "key": 1}, "unknown_record"),
            ({"type": "subscribe", "record": "Post", "key": 77}, "not_found"),
            ({"type": "subscribe", "record": "Post", "key": 2**70}, "invalid_message"),
            ({"type": "subscribe", "record": "Post", "key": 1, "fields": ["titel"]}, "invalid"),
            ({"type": "subscribe", "record": "Post", "key": 1, "fields": [{"a": 1}]}, "invalid"),
            ({"type": "subscribe", "record": "Post", "key": 1, "fields": ["title"] * 201}, "invalid"),
            ({"type": "subscribe", "read": "AddComment", "payload": {"post": 1, "text": "x"}}, "invalid"),
            ({"type": "subscribe", "read": "ListPosts", "payload": {"titel": ""}}, "invalid"),
            ({"type": "unsubscribe", "subscription": 9}, "unknown_subscription"),
        ],
    )
    async def test_errors_have_the_shape_of_http(self, shop: Served, message: dict[str, Any], code: str) -> None:
        async with shop.connect() as talk:
            answer = await talk.ask({"id": 3, **message})
            assert (answer["id"], answer["type"], code_of(answer)) == (3, "error", code)
            await silence(talk)

    @pytest.mark.parametrize("text", ["", "{", "[1]", "1", '"x"', "null", "[" * 50_000, '{"id": [], "type": "ping"}'])
    async def test_what_is_not_a_message_is_answered(self, shop: Served, text: str) -> None:
        async with shop.connect() as talk:
            answer = await talk.ask(text)
            assert answer["id"] is None
            assert code_of(answer) in ("invalid_json", "invalid_message")
            await silence(talk)

    async def test_the_log_says_why_something_can_not_be_done_now(
        self, shop: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def fail(*_: Any, **__: Any) -> Any:
            raise Unavailable("db.internal:5432 refuses", retryable=False)

        async with shop.connect() as talk:
            monkeypatch.setattr(shop.app.controller, "dispatch", fail)
            answer = await talk.ask({"id": 1, "type": "interaction", "name": "Register", "payload": {"name": "x"}})
            assert code_of(answer) == "unavailable"
            answer = await talk.ask({"id": 2, "type": "subscribe", "read": "ListPosts"})
            assert code_of(answer) == "unavailable"
        assert "a WebSocket request can't be done now: db.internal:5432 refuses" in caplog.text
        assert "a subscription can't be done now: db.internal:5432 refuses" in caplog.text

    async def test_requests_run_side_by_side(self, shop: Served) -> None:
        async with shop.connect() as talk:
            for number in range(30):
                name = {"name": f"u{number}"}
                await talk.say({"id": number, "type": "interaction", "name": "Register", "payload": name})
            answers = [await talk.hear() for _ in range(30)]
            assert {answer["id"] for answer in answers} == set(range(30))
            assert {answer["type"] for answer in answers} == {"result"}


class TestEnds:
    """How a connection ends, by code."""

    async def test_binary(self, shop: Served) -> None:
        async with shop.connect() as talk:
            await talk.say(b"{}")
            assert await close_code(talk) == 1003

    async def test_too_large(self) -> None:
        async with serving_app(make_app(), body_limit_bytes=1000) as shop, shop.connect() as talk:
            await talk.say({"type": "ping", "id": "x" * 2000})
            assert await close_code(talk) == 1009

    async def test_too_large_in_bytes_though_not_in_characters(self) -> None:
        async with serving_app(make_app(), body_limit_bytes=1000) as shop, shop.connect() as talk:
            await talk.say(json.dumps({"type": "ping", "id": "ü" * 600}, ensure_ascii=False))
            assert await close_code(talk) == 1009

    async def test_a_token_that_has_expired(self, shop: Served) -> None:
        async with shop.connect(user=None, path="/ws?token=old") as talk:
            assert await close_code(talk) == 4401

    async def test_an_authentication_that_fails_by_itself(self) -> None:
        def broken(_: Any) -> Any:
            raise RuntimeError("a secret detail")

        async with serving_app(make_app(), authenticate=broken) as shop, shop.connect() as talk:
            assert await close_code(talk) == 1011

    async def test_an_integration_that_refuses(self, shop: Served) -> None:
        async with shop.connect(user=13) as talk:
            assert await close_code(talk) == 1013

    async def test_the_server_stops(self) -> None:
        app = make_app()
        async with app:
            application = app.asgi()
            async with serving_under(application) as shop, shop.connect(user=None) as talk:
                await silence(talk)
                await application._stop_serving()
                assert await close_code(talk) == 1012

    async def test_what_was_asked_is_answered_before_the_server_stops(self) -> None:
        service = serving_app(make_app())
        shop = await service.__aenter__()
        async with shop.connect() as asking, shop.connect() as silent:
            payload = {"seconds": 0.5}
            await asking.say({"id": 1, "type": "api", "namespace": "desk", "name": "slow", "payload": payload})
            await silence(asking)  # so that the server has heard of it
            await silence(silent)
            stopping = asyncio.create_task(service.__aexit__(None, None, None))
            assert await close_code(silent) == 1012
            answer = await asking.hear()
            assert (answer["id"], answer["type"]) == (1, "result")
            assert await close_code(asking) == 1012
            await stopping

    async def test_pages_of_foreign_sites_are_refused(self, shop: Served) -> None:
        with pytest.raises(InvalidStatus) as caught:
            async with shop.connect(additional_headers={"origin": "https://evil.example"}):
                pass
        assert caught.value.response.status_code == 403
        async with shop.connect(additional_headers={"origin": f"http://127.0.0.1:{shop.port}"}) as talk:
            await silence(talk)

    async def test_pages_of_listed_sites_are_welcome(self) -> None:
        headers = {"origin": "https://app.example"}
        async with (
            serving_app(make_app(), cors_origins=["https://app.example"]) as shop,
            shop.connect(additional_headers=headers) as talk,
        ):
            await silence(talk)

    @pytest.mark.parametrize(
        ("query", "headers", "status"),
        [("a" * 8200, "", b"414"), ("", f"Cookie: {'a' * 8200}\r\n", b"431"), ("", "X-Some: a\r\n" * 200, b"431")],
    )
    async def test_a_handshake_that_is_too_large_is_answered(
        self, shop: Served, query: str, headers: str, status: bytes
    ) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", shop.port)
        upgrade = "Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        writer.write(f"GET /ws?{query} HTTP/1.1\r\n{upgrade}{key}{headers}\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), WAIT_SECONDS)
        assert answer.split()[1] == status
        writer.close()

    async def test_clients_that_vanish_leave_nothing(self, shop: Served) -> None:
        serving = shop.app.running
        assert serving is not None
        for _ in range(5):
            async with shop.connect() as talk:
                await talk.ask(SUBSCRIBE)
                talk.websocket.transport.abort()
        await until(lambda: len(serving.handles.websockets) == 0)
        await shop.app.controller.store.update(Post, 1, title="later")

    async def test_a_request_goes_on_when_its_client_is_gone(self, shop: Served) -> None:
        async with shop.connect() as talk:
            payload = {"post": 1, "text": "last words"}
            await talk.say({"id": 1, "type": "interaction", "name": "AddComment", "payload": payload})
        store = shop.app.controller.store
        async with asyncio.timeout(WAIT_SECONDS):
            while await store.count(Comment) == 0:  # noqa: ASYNC110  # a row has no event to wait on
                await asyncio.sleep(0.01)

    async def test_heartbeats(self) -> None:
        async with serving_app(make_app(), heartbeat_seconds=0.05) as shop, shop.connect(user=None) as talk:
            heard = [json.loads(await talk.websocket.recv()) for _ in range(4)]
            assert heard.count({"type": "ping"}) == 3
            await talk.say({"type": "pong"})
            await silence(talk)


def serving_under(application: Any) -> Any:
    """Served without lifespan, as by a host that mounts it."""
    from tests.server.network import serving

    async def without_lifespan(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await application(scope, receive, send)

    return serving(without_lifespan)


class TestSubscriptions:
    """First the data, then every change."""

    async def test_a_record(self, shop: Served) -> None:
        store = shop.app.controller.store
        async with shop.connect() as talk:
            whole = {"id": 1, "title": "first", "comment_count": 0, "author": {"id": 1}}
            message = {"id": "s", "type": "subscribe", "record": "Post", "key": 1}
            assert await talk.ask(message) == {"id": "s", "type": "result", "data": whole}
            await store.update(Post, 1, title="second")
            change = {"type": "change", "subscription": "s", "data": {**whole, "title": "second"}}
            assert await talk.hear() == change
            # Derived data counts as well.
            await store.create(Comment(text="x", post=Post.ref(1), author=User.ref(1)))
            assert (await talk.hear())["data"]["comment_count"] == 1
            await store.delete_many(Comment, Comment.post.id == 1)
            assert (await talk.hear())["data"]["comment_count"] == 0
            await store.delete(Post, 1)
            assert await talk.hear() == {"type": "change", "subscription": "s", "data": None}

    async def test_only_what_differs_is_pushed(self, shop: Served) -> None:
        store = shop.app.controller.store
        async with shop.connect() as talk:
            assert (await talk.ask(SUBSCRIBE))["data"] == {"id": 1, "title": "first"}
            await store.create(Comment(text="x", post=Post.ref(1), author=User.ref(1)))
            await store.create(Post(title="another", author=User.ref(1)))
            await asyncio.sleep(0.1)
            await silence(talk)

    async def test_fields_of_other_records(self, shop: Served) -> None:
        store = shop.app.controller.store
        async with shop.connect() as talk:
            fields = ["title", "author.name", ["comments", ["text"]]]
            answer = await talk.ask({**SUBSCRIBE, "fields": fields})
            assert answer["data"] == {"id": 1, "title": "first", "author": {"id": 1, "name": "ann"}, "comments": []}
            await store.update(User, 1, name="eve")
            assert (await talk.hear())["data"]["author"]["name"] == "eve"
            await store.create(Comment(text="x", post=Post.ref(1), author=User.ref(1)))
            assert (await talk.hear())["data"]["comments"] == [{"id": 1, "text": "x"}]

    async def test_a_read(self, shop: Served) -> None:
        store = shop.app.controller.store
        async with shop.connect() as talk:
            message = {"id": 1, "type": "subscribe", "read": "ListPosts", "payload": {"title": "new"}}
            assert (await talk.ask(message))["data"] == {"records": []}
            await store.create(Post(title="old", author=User.ref(1)))
            post = await store.create(Post(title="new", author=User.ref(1)))
            assert [item["id"] for item in (await talk.hear())["data"]["records"]] == [post.id]
            await store.delete(Post, post.id)
            assert (await talk.hear())["data"] == {"records": []}

    async def test_a_write_right_after_the_answer_arrives(self, shop: Served) -> None:
        store = shop.app.controller.store
        async with shop.connect() as talk:
            for number in range(30):
                answer = await talk.ask({**SUBSCRIBE, "id": number})
                assert answer["type"] == "result"
                await store.update(Post, 1, title=f"title {number}")
                assert (await talk.hear())["data"]["title"] == f"title {number}"
                assert (await talk.ask({"id": "u", "type": "unsubscribe", "subscription": number}))["data"] == {}

    async def test_writes_during_subscribing_are_never_missed(self, shop: Served) -> None:
        store = shop.app.controller.store
        stop = False

        async def write() -> int:
            number = 0
            while not stop:
                number += 1
                await store.update(Post, 1, title=str(number))
                await asyncio.sleep(0)
            return number

        writer = asyncio.create_task(write())
        async with shop.connect() as talk:
            for number in range(20):
                await talk.say({**SUBSCRIBE, "id": number})
            await asyncio.sleep(0.1)
            stop = True
            last = await writer
            latest: dict[Any, int] = {}
            async with asyncio.timeout(WAIT_SECONDS):
                while len(latest) < 20 or set(latest.values()) != {last}:
                    message = await talk.hear()
                    key = message["id"] if message["type"] == "result" else message["subscription"]
                    # A result comes before any change, and states never go back.
                    assert (message["type"] == "result") == (key not in latest)
                    title = int(message["data"]["title"])
                    assert title > latest.get(key, -1)
                    latest[key] = title

    @pytest.mark.parametrize(
        ("asked", "code", "tells", "hides"),
        [
            ({"record": "Pots"}, "unknown_record", "Did you mean 'Post'?", "Comment"),
            ({"record": "Remark"}, "unknown_record", "There is: Post.", "Comment"),
            ({"record": "User", "fields": ["namee"]}, "not_allowed", "User", "email"),
            ({"record": "Post", "fields": ["titel"]}, "invalid", "Did you mean 'title'?", "Comment"),
            ({"record": "Post", "fields": ["author.namee"]}, "not_allowed", "User", "email"),
            ({"record": "Post", "fields": ["author.zip"]}, "not_allowed", "User", "email"),
        ],
    )
    async def test_mistakes_tell_only_of_what_is_open(
        self, asked: dict[str, Any], code: str, tells: str, hides: str
    ) -> None:
        async with serving_app(make_app(), subscribable=["Post"]) as shop, shop.connect() as talk:
            answer = await talk.ask({"id": 3, "type": "subscribe", "key": 1, **asked})
            message = answer["error"]["message"]
            assert code_of(answer) == code
            assert tells in message
            assert hides not in message

    async def test_an_app_that_opens_nothing_names_no_type(self) -> None:
        async with serving_app(make_app()) as shop, shop.connect() as talk:
            answer = await talk.ask({"id": 3, "type": "subscribe", "record": "Pots", "key": 1})
            assert code_of(answer) == "unknown_record"
            assert answer["error"]["message"] == "There is no record type 'Pots'."

    async def test_unsubscribed_is_silent(self, shop: Served) -> None:
        async with shop.connect() as talk:
            await talk.ask(SUBSCRIBE)
            assert code_of(await talk.ask(SUBSCRIBE)) == "duplicate_id"
            await talk.ask({"id": 2, "type": "unsubscribe", "subscription": 1})
            await shop.app.controller.store.update(Post, 1, title="later")
            await asyncio.sleep(0.1)
            await silence(talk)
            assert (await talk.ask(SUBSCRIBE))["data"]["title"] == "later"

    async def test_many_subscribers_read_once(self, shop: Served) -> None:
        run = shop.app.running
        assert run is not None
        names: list[str] = []
        async with AsyncExitStack() as stack:
            talks = [await stack.enter_async_context(shop.connect()) for _ in range(20)]
            for talk in talks:
                for number in range(20):
                    await talk.say({**SUBSCRIBE, "id": number})
            for talk in talks:
                for _ in range(20):
                    assert (await talk.hear())["type"] == "result"
            run.driver.observers.append(lambda statement, _: names.append(statement.name))
            await run.controller.store.update(Post, 1, title="for all")
            for talk in talks:
                heard = [await talk.hear() for _ in range(20)]
                assert {message["data"]["title"] for message in heard} == {"for all"}
                assert {message["subscription"] for message in heard} == set(range(20))
        assert len([name for name in names if "read" in name]) == 1, names


class TestPermission:
    """What was not opened stays closed."""

    async def test_nothing_is_open_by_itself(self) -> None:
        async with serving_app(make_app()) as shop, shop.connect() as talk:
            assert code_of(await talk.ask(SUBSCRIBE)) == "not_allowed"
            read = {"id": 2, "type": "subscribe", "read": "ListPosts"}
            assert (await talk.ask(read))["type"] == "result"

    async def test_the_unknown_are_asked_to_sign_in(self, shop: Served) -> None:
        async with shop.connect(user=None) as talk:
            assert code_of(await talk.ask(SUBSCRIBE)) == "not_authenticated"
            read = {"id": 2, "type": "subscribe", "read": "ListPosts"}
            assert code_of(await talk.ask(read)) == "not_allowed"

    async def test_fields_do_not_lead_around_it(self) -> None:
        async with serving_app(make_app(), subscribable=[Post]) as shop, shop.connect() as talk:
            for fields in (["author.email"], [["author", []]], [["comments", ["text"]]], ["comments"]):
                assert code_of(await talk.ask({**SUBSCRIBE, "fields": fields})) == "not_allowed"
            assert (await talk.ask({**SUBSCRIBE, "fields": ["author.id"]}))["type"] == "result"

    async def test_a_rule_for_each_record(self) -> None:
        allowed = {1, 2}

        async def allow(ctx: Context, record: type[Any], key: int) -> bool:
            return record is User and key in allowed and ctx.user is not None

        async with serving_app(make_app(), allow_subscribe=allow) as shop, shop.connect() as talk:
            user = {"id": 1, "type": "subscribe", "record": "User", "key": 1}
            assert (await talk.ask(user))["data"]["name"] == "ann"
            assert code_of(await talk.ask({**user, "id": 2, "key": 3})) == "not_allowed"
            assert code_of(await talk.ask({**SUBSCRIBE, "id": 3})) == "not_allowed"
            # Taken back: the next change is not shown, and the subscription ends.
            allowed.clear()
            await shop.app.controller.store.update(User, 1, name="secret")
            message = await talk.hear()
            assert (message["type"], message["subscription"], code_of(message)) == ("end", 1, "not_allowed")
            await silence(talk)


class TestSlowClients:
    """One who does not listen holds up nobody."""

    @pytest.mark.parametrize("ws", ["auto", "ensue.server.live.wire:FrameProtocol"])
    async def test_a_slow_client_is_sent_away(self, ws: str) -> None:
        app = make_app()
        served = serving_app(app, ws=ws, subscribable=[Post], send_messages_max=20)
        async with served as shop, shop.connect() as quick:
            await quick.ask(SUBSCRIBE)
            slow = await self._subscribe_and_stop_reading(shop.port)
            run = app.running
            assert run is not None
            await until(lambda: len(run.handles.websockets) == 2)
            text = "x" * 200_000
            async with asyncio.timeout(30):
                number = 0
                while len(run.handles.websockets) == 2:
                    number += 1
                    await run.controller.store.update(Post, 1, title=f"{number} {text}")
                    assert (await quick.hear())["data"]["title"].startswith(f"{number} ")
            # The code arrives if the client at last takes what was on the way to it.
            await asyncio.to_thread(_read_until, slow, (4408).to_bytes(2, "big"))
            slow.close()
            self._kept.close()
            await silence(quick)

    async def _subscribe_and_stop_reading(self, port: int) -> socket.socket:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
        request = (
            f"GET /ws?token=user-1 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        text = json.dumps(SUBSCRIBE).encode()
        writer.write(request.encode())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)
        await reader.readuntil(b'"result"')
        connection = writer.get_extra_info("socket").dup()
        writer.transport.pause_reading()
        connection.setblocking(True)
        self._kept = writer
        return connection


def _read_until(connection: socket.socket, wanted: bytes) -> None:
    found = b""
    connection.settimeout(15)
    while wanted not in found:
        chunk = connection.recv(1_000_000)
        assert chunk, "the connection ended without the code"
        found = found[-10:] + chunk


async def test_two_apps_in_one_process_are_apart() -> None:
    first, second = make_app(), make_app()
    async with (
        serving_app(first, subscribable=[Post]) as one,
        serving_app(second, subscribable=[Post]) as other,
        one.connect() as talk,
    ):
        await talk.ask(SUBSCRIBE)
        await other.app.controller.store.update(Post, 1, title="elsewhere")
        await asyncio.sleep(0.1)
        await silence(talk)
