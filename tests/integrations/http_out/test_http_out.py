"""Outgoing webhooks against a service on a real socket."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from standardwebhooks import WebhookVerificationError

from ensue import DeclarationError, InvalidValue, NotFound, Rejected
from ensue.clock import ManualClock, SystemClock
from ensue.integrations.http_out import OnCreate, WebhookDelivery, WebhookEndpoint, WebhookEndpointEvent, WebhookMessage
from ensue.testing import Answer, AppHarness, HttpDouble
from tests.integrations.http_out.webhook_app import EVENTS, SECRET, Desk, Post, User, verified, webhook_app

HOOK = "POST /hook"


@pytest_asyncio.fixture
async def service() -> AsyncIterator[HttpDouble]:
    async with HttpDouble() as service:
        service.on(HOOK, Answer.ok(status=204))
        yield service


@pytest_asyncio.fixture
async def harness(service: HttpDouble) -> AsyncIterator[AppHarness]:
    # The reference implementation compares timestamps with the machine's clock.
    async with AppHarness(webhook_app(service), clock=ManualClock(SystemClock().now())) as harness:
        yield harness


@pytest_asyncio.fixture
async def desk(harness: AppHarness) -> Desk:
    return await Desk.open(harness)


async def hook(desk: Desk, service: HttpDouble, **more: Any) -> Any:
    return await desk.call("create_endpoint", url=f"{service.url}/hook", **more)


async def pass_time(harness: AppHarness, **time: float) -> None:
    """Let time pass, and deliver what is due then."""
    harness.clock.advance(seconds=timedelta(**time).total_seconds())
    await harness.drain()


class TestTelling:
    """What is sent, to whom, and that it can be trusted."""

    async def test_a_change_is_told_and_signed(self, harness: AppHarness, desk: Desk, service: HttpDouble) -> None:
        made = await hook(desk, service)
        post = await desk.post()
        await harness.drain()
        (request,) = service.requests
        content = verified(made.secret, request)
        assert content["type"] == "post.created"
        assert content["data"] == {
            "id": post.id,
            "title": "Rain",
            "views": 0,
            "author": {"id": desk.user.id, "name": "ann"},
        }
        assert datetime.fromisoformat(content["timestamp"]).tzinfo is not None
        assert request.headers["content-type"] == "application/json"
        (message,) = await harness.store.find(WebhookMessage)
        assert request.headers["webhook-id"] == message.message_id
        (delivery,) = await desk.log(made.endpoint)
        assert (delivery.state, delivery.attempts, delivery.last_status) == ("delivered", 1, 204)
        assert [attempt.status for attempt in delivery.log] == [204]

    async def test_which_events_an_endpoint_gets(self, harness: AppHarness, desk: Desk, service: HttpDouble) -> None:
        for path, events in (("all", []), ("made", ["post.created"]), ("some", ["post.*"]), ("none", ["user.*"])):
            service.on(f"POST /{path}", 200)
            await desk.call("create_endpoint", url=f"{service.url}/{path}", events=events)
        post = await desk.post()
        await harness.store.update(Post, post.id, views=1)
        await harness.store.update(Post, post.id, title="Snow")
        await harness.drain()
        await harness.store.delete(Post, post.id)
        await harness.drain()
        got = {path: sorted(one.json()["type"] for one in service.sent(f"POST /{path}")) for path in ("all", "made")}
        every = ["post.created", "post.deleted", "post.renamed"]
        assert got == {"all": every, "made": ["post.created"]}
        assert len(service.sent("POST /some")) == 3
        assert not service.sent("POST /none")
        renamed = next(one.json() for one in service.requests if one.json()["type"] == "post.renamed")
        assert renamed["data"] == {"title": "Snow"}

    async def test_endpoints_of_users_are_told_what_is_theirs(self, service: HttpDouble) -> None:
        events = {"post.created": OnCreate(Post, owner=lambda post: post.author)}
        async with AppHarness(webhook_app(service, events=events, users=User, allow=None)) as harness:
            ann, bob = await Desk.open(harness), await Desk.open(harness, "bob")
            service.on("POST /ann", 200)
            service.on("POST /bob", 200)
            mine = await ann.call("create_endpoint", url=f"{service.url}/ann")
            await bob.call("create_endpoint", url=f"{service.url}/bob")
            await ann.post()
            await harness.drain()
            assert len(service.sent("POST /ann")) == 1
            assert not service.sent("POST /bob")
            for call in ("deliveries", "rotate_secret", "delete_endpoint", "test_endpoint", "enable_endpoint"):
                with pytest.raises(NotFound):
                    await bob.call(call, endpoint=mine.endpoint)
            (delivery,) = await ann.log(mine.endpoint)
            with pytest.raises(NotFound):
                await bob.call("redeliver", delivery=delivery.id)
            await harness.store.delete(Post, 1)
            await harness.store.delete(User, ann.user.id)
            assert await harness.store.count(WebhookEndpoint) == 1

    async def test_a_rotated_secret_signs_beside_the_old_one_for_a_day(
        self, harness: AppHarness, desk: Desk, service: HttpDouble
    ) -> None:
        made = await hook(desk, service)
        renewed = await desk.call("rotate_secret", endpoint=made.endpoint)
        await desk.post()
        await harness.drain()
        first = service.requests[-1]
        assert len(first.headers["webhook-signature"].split()) == 2
        assert verified(made.secret, first) == verified(renewed.secret, first)
        await pass_time(harness, hours=25)
        await desk.post()
        await harness.drain()
        last = service.requests[-1]
        assert len(last.headers["webhook-signature"].split()) == 1
        with pytest.raises(WebhookVerificationError):
            verified(made.secret, last)

    async def test_the_apps_key_can_be_replaced(self, service: HttpDouble, sqlite_url: str) -> None:
        clock = ManualClock(SystemClock().now())
        async with AppHarness(webhook_app(service), database=sqlite_url, clock=clock) as harness:
            made = await hook(await Desk.open(harness), service)
        renewed = webhook_app(service, secret="b" * 32, previous_secrets=[SECRET])
        async with AppHarness(renewed, database=sqlite_url, clock=clock) as harness:
            await harness.store.create(Post(title="Rain", author=User.ref(1)))
            await harness.drain()
        verified(made.secret, service.requests[0])

    async def test_no_secret_is_in_the_database(self, service: HttpDouble, sqlite_url: str) -> None:
        async with AppHarness(webhook_app(service), database=sqlite_url) as harness:
            desk = await Desk.open(harness)
            made = await hook(desk, service)
            assert made.secret not in repr(made)
            assert SECRET not in repr(harness.integration("hooks"))
            await desk.post()
            await harness.drain()
        path = sqlite_url.removeprefix("sqlite:///").partition("?")[0]
        found = _read(path)
        assert made.secret.removeprefix("whsec_").encode() not in found
        assert SECRET.encode() not in found
        assert made.secret.encode() not in service.requests[0].body


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


class TestFailing:
    """Endpoints that don't do what they should."""

    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            (Answer.failing(500), "It answered 500."),
            (Answer.failing(400), "It answered 400."),
            (Answer.redirect("http://127.0.0.1:1/"), "redirects are not followed"),
            (Answer.ok().lost(), "Error"),
            (Answer(status=304), "redirects are not followed|It answered 304"),
        ],
        ids=["500", "400", "redirect", "reset", "304"],
    )
    async def test_what_is_no_success_is_tried_again(
        self, harness: AppHarness, desk: Desk, service: HttpDouble, answer: Answer, error: str
    ) -> None:
        made = await hook(desk, service)
        service.queue(HOOK, answer)
        await desk.post()
        await harness.drain()
        (delivery,) = await desk.log(made.endpoint)
        assert delivery.state == "pending"
        assert pytest.approx(5, abs=10) == (delivery.due_at - harness.clock.now()).total_seconds()
        assert re.search(error, delivery.last_error), delivery.last_error
        assert (await desk.endpoint(made.endpoint)).failures == 1
        await pass_time(harness, seconds=11)
        (delivery,) = await desk.log(made.endpoint)
        assert (delivery.state, delivery.attempts) == ("delivered", 2)
        assert len({request.headers["webhook-id"] for request in service.requests}) == 1
        assert (await desk.endpoint(made.endpoint)).failing_since is None

    async def test_each_attempt_is_signed_with_its_own_time(
        self, harness: AppHarness, desk: Desk, service: HttpDouble
    ) -> None:
        await hook(desk, service)
        service.queue(HOOK, Answer.failing(500))
        await desk.post()
        await harness.drain()
        await pass_time(harness, seconds=60)
        first, second = service.requests
        assert first.body == second.body
        assert int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) == 60

    async def test_the_schedule_of_an_endpoint_that_never_answers_well(
        self, harness: AppHarness, desk: Desk, service: HttpDouble
    ) -> None:
        made = await hook(desk, service)
        service.on(HOOK, Answer.failing(503))
        await desk.post()
        await harness.drain()
        for _ in range(80):
            await pass_time(harness, hours=1.1)
        (delivery,) = await desk.log(made.endpoint)
        assert delivery.state == "failed"
        assert timedelta(days=3) <= delivery.finished_at - delivery.since <= timedelta(days=3, hours=4)
        assert (await desk.endpoint(made.endpoint)).enabled

    async def test_five_days_of_failures_disable_an_endpoint_and_it_can_be_enabled(
        self, harness: AppHarness, desk: Desk, service: HttpDouble
    ) -> None:
        made = await hook(desk, service)
        service.on(HOOK, Answer.failing(500))
        for _ in range(6):
            await desk.post()
            await pass_time(harness, days=1)
        found = await desk.endpoint(made.endpoint)
        assert (found.enabled, found.disabled_reason) == (False, "failing")
        events = await harness.store.find(WebhookEndpointEvent)
        assert [(event.kind, event.reason) for event in events] == [("created", ""), ("disabled", "failing")]
        before = len(service.requests)
        await desk.post()
        await pass_time(harness, days=1)
        assert len(service.requests) == before
        states = {delivery.state for delivery in await desk.log(made.endpoint)}
        assert states == {"failed", "discarded"}
        service.on(HOOK, 200)
        (dead, *_) = await desk.log(made.endpoint)
        with pytest.raises(Rejected, match="disabled"):
            await desk.call("redeliver", delivery=dead.id)
        assert (await desk.call("enable_endpoint", endpoint=made.endpoint)).failures == 0
        assert await desk.call("redeliver", delivery=dead.id)
        await harness.drain()
        found = next(one for one in await desk.log(made.endpoint) if one.id == dead.id)
        assert found.state == "delivered"

    async def test_410_disables_at_once(self, harness: AppHarness, desk: Desk, service: HttpDouble) -> None:
        made = await hook(desk, service)
        service.queue(HOOK, Answer.failing(410))
        await desk.post()
        await harness.drain()
        found = await desk.endpoint(made.endpoint)
        assert (found.enabled, found.disabled_reason) == (False, "gone")
        assert (await desk.log(made.endpoint))[0].state == "failed"

    @pytest.mark.parametrize("status", [429, 503])
    async def test_who_asks_to_wait_is_waited_for(
        self, harness: AppHarness, desk: Desk, service: HttpDouble, status: int
    ) -> None:
        made = await hook(desk, service)
        service.queue(HOOK, Answer.throttled(600, status=status))
        await desk.post()
        await harness.drain()
        await desk.post("Snow")
        await harness.drain()
        await pass_time(harness, seconds=590)
        assert len(service.requests) == 1
        assert (await desk.endpoint(made.endpoint)).failures == 0
        await pass_time(harness, seconds=20)
        assert {delivery.state for delivery in await desk.log(made.endpoint)} == {"delivered"}

    async def test_a_dead_endpoint_is_left_alone_and_holds_up_nobody(
        self, harness: AppHarness, desk: Desk, service: HttpDouble
    ) -> None:
        service.on("POST /dead", Answer.failing(500))
        dead = await desk.call("create_endpoint", url=f"{service.url}/dead")
        await hook(desk, service)
        for number in range(20):
            await desk.post(f"post {number}")
            await harness.drain()
        assert len(service.sent(HOOK)) == 20
        assert len(service.sent("POST /dead")) == 5
        held = await desk.endpoint(dead.endpoint)
        assert held.held_until is not None
        # When the hold is over, one looks how it is now, and the others wait for it.
        await pass_time(harness, seconds=30)
        assert len(service.sent("POST /dead")) == 6
        service.on("POST /dead", 200)
        for _ in range(4):
            await pass_time(harness, minutes=10)
        assert {delivery.state for delivery in await desk.log(dead.endpoint)} == {"delivered"}

    async def test_told_twice_is_delivered_once(self, harness: AppHarness, desk: Desk, service: HttpDouble) -> None:
        made = await hook(desk, service)
        await desk.post()
        await harness.drain()
        deliveries = harness.integration("hooks")._deliveries
        (message,) = await harness.store.find(WebhookMessage)
        await deliveries.tell(message.message_id, "post.created", message.body, owners=None)
        (delivery,) = await harness.store.find(WebhookDelivery)
        await deliveries.attempt(delivery.id, delivery.due_at)
        await harness.drain()
        assert len(service.requests) == 1
        assert len(await desk.log(made.endpoint)) == 1


class TestManaging:
    """The calls by which endpoints are managed."""

    async def test_a_test_delivery_is_sent_once_also_when_it_is_off(
        self, harness: AppHarness, desk: Desk, service: HttpDouble
    ) -> None:
        made = await hook(desk, service)
        await desk.call("enable_endpoint", endpoint=made.endpoint, enabled=False)
        service.queue(HOOK, Answer.failing(500))
        first = await desk.call("test_endpoint", endpoint=made.endpoint)
        await harness.drain()
        await pass_time(harness, days=1)
        second = await desk.call("test_endpoint", endpoint=made.endpoint)
        await harness.drain()
        states = {delivery.id: (delivery.state, delivery.test) for delivery in await desk.log(made.endpoint)}
        assert states == {first: ("failed", True), second: ("delivered", True)}
        assert verified(made.secret, service.requests[0])["type"] == "webhook.test"
        assert (await desk.endpoint(made.endpoint)).failures == 0

    @pytest.mark.parametrize(
        ("payload", "field"),
        [
            ({"url": "ftp://example.com/"}, "url"),
            ({"url": "https://user@example.com/"}, "url"),
            ({"url": "https://example.com:8080/"}, "url"),
            ({"url": "https://example.com/", "events": ["post.*.x"]}, "events"),
            ({"url": "https://10.0.0.1/"}, "url"),
            ({"url": "https://[::ffff:169.254.169.254]/"}, "url"),
            ({"url": "https://example.com/", "events": ["a b"]}, "events"),
            ({"url": "https://example.com/", "events": ["post.deleted", "post.delted"]}, "events"),
        ],
    )
    async def test_what_is_no_endpoint(self, desk: Desk, payload: dict[str, Any], field: str) -> None:
        with pytest.raises(InvalidValue) as caught:
            await desk.call("create_endpoint", **payload)
        assert set(caught.value.fields) == {field}

    async def test_they_are_changed_and_deleted(self, harness: AppHarness, desk: Desk, service: HttpDouble) -> None:
        made = await hook(desk, service)
        changed = await desk.call("change_endpoint", endpoint=made.endpoint, events=["post.deleted"], description="x")
        assert (changed.events, changed.description, changed.url) == (["post.deleted"], "x", f"{service.url}/hook")
        await desk.post()
        await harness.drain()
        assert not service.requests
        assert await desk.call("delete_endpoint", endpoint=made.endpoint)
        assert await desk.call("endpoints") == []

    async def test_who_may(self, service: HttpDouble) -> None:
        for allow in (None, lambda ctx: False):
            async with AppHarness(webhook_app(service, allow=allow)) as harness:
                with pytest.raises(Rejected, match="not_allowed"):
                    await (await Desk.open(harness)).call("endpoints")

    async def test_the_log_is_read_in_pages(self, harness: AppHarness, desk: Desk, service: HttpDouble) -> None:
        made = await hook(desk, service)
        for _ in range(5):
            await desk.post()
        await harness.drain()
        page = await desk.call("deliveries", endpoint=made.endpoint, limit=3)
        rest = await desk.call("deliveries", endpoint=made.endpoint, before=page[-1].id)
        assert len({one.id for one in [*page, *rest]}) == 5

    async def test_what_is_old_is_forgotten(self, harness: AppHarness, desk: Desk, service: HttpDouble) -> None:
        await hook(desk, service)
        await desk.post()
        await harness.drain()
        harness.clock.advance(seconds=timedelta(days=29).total_seconds())
        await harness.integration("hooks")._prune()
        assert await harness.store.count(WebhookDelivery) == 1
        harness.clock.advance(seconds=timedelta(days=2).total_seconds())
        await harness.integration("hooks")._prune()
        assert await harness.store.count(WebhookDelivery) == await harness.store.count(WebhookMessage) == 0


class TestSettings:
    """What is refused at the start."""

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"secret": "short"}, "expected at least 32"),
            ({"allowed_addresses": ["here"]}, "no network"),
            ({"deadline": timedelta(0)}, "longer than nothing"),
            ({"kept": timedelta(0)}, "kept must be longer than nothing"),
            ({"allowed_ports": [99_999]}, "allowed_ports has 99999; expected 1 to 65535"),
            ({"ca_file": "/no/such/file"}, "ca_file is '/no/such/file', of which no certificates can be read"),
            ({"events": {"post created": EVENTS["post.created"]}}, "words joined by dots"),
            ({"events": {"webhook.test": EVENTS["post.created"]}}, "webhook.test"),
            ({"events": {"a.b": EVENTS["post.created"], "a_b": EVENTS["post.created"]}}, "dots and underscores"),
        ],
    )
    async def test_wrong_ones(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(DeclarationError, match=message):
            async with AppHarness(webhook_app(**settings)):
                pass
