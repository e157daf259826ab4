"""Webhooks over a real socket: what is taken, what is refused and with which words, and what is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from ensue import App, DeclarationError, Integration, StripeSignature, UsageError, consume, env, webhook
from ensue.clock import ManualClock
from ensue.errors import Unavailable
from ensue.server.webhooks import Strangers
from tests.inbound.payments import ENV, SECRET, Bank, signed
from tests.inbound.shop import Order, Payment, PaymentEvent, User, shop
from tests.inbound.test_receive import inbox
from tests.server.network import Served, serving

PAID = "/api/webhooks/bank/paid"


@asynccontextmanager
async def bank(url: str) -> AsyncIterator[tuple[Served, Bank, App]]:
    """The shop and its bank, served."""
    integration = Bank()
    app = shop(url, integrations={"bank": integration})
    async with app.run(env=ENV), serving(app.asgi(), app) as served:
        yield served, integration, app


async def post(served: Served, body: Any, *, path: str = PAID, **options: Any) -> Any:
    content, headers = signed(body, **options)
    return await served.http.post(path, content=content, headers=headers)


async def test_a_payment_arrives_once(database_url: str) -> None:
    async with bank(database_url) as (served, integration, app):
        store = app.controller.store
        order, ann = await store.create(Order(title="x")), await store.create(User(name="ann"))
        message = {"order": order.id, "user": ann.id, "amount": 7}
        answers = await asyncio.gather(*(post(served, message) for _ in range(6)))
        assert [answer.status_code for answer in answers] == [200] * 6
        assert sorted(answer.json()["duplicate"] for answer in answers) == [False] + [True] * 5
        (payment,) = await store.find(Payment)
        assert (payment.amount, payment.by) == (7, ann)
        ((endpoint, sender_id, state, _, body, headers),) = await inbox(app)
        assert (endpoint, sender_id, state) == ("bank.paid", "m1", "done")
        assert body == integration.seen[0].body
        assert "webhook-signature" in headers


async def test_credentials_are_not_kept(sqlite_url: str) -> None:
    async with bank(sqlite_url) as (served, integration, app):
        content, headers = signed({})
        hidden = {"Authorization": "Bearer hush", "Cookie": "hush=1", "X-Api-Key": "hush"}
        await served.http.post(PAID, content=content, headers={**headers, **hidden})
        assert integration.seen[0].headers["AUTHORIZATION"] == "Bearer hush"
        assert "hush" not in (await inbox(app))[0][5]
        assert "hush" not in repr(integration.seen[0])


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"webhook-signature": "v1,AAAA"}, 401),
        ({"webhook-id": "m2"}, 401),
        ({"webhook-signature": "nonsense"}, 400),
        ({"webhook-signature": "v1,%%%"}, 400),
        ({"webhook-timestamp": "soon"}, 400),
        ({"webhook-id": ""}, 400),
    ],
)
async def test_what_can_not_be_verified_learns_nothing(sqlite_url: str, change: dict[str, str], status: int) -> None:
    async with bank(sqlite_url) as (served, integration, app):
        content, headers = signed({"order": 1})
        answer = await served.http.post(PAID, content=content, headers={**headers, **change})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["message"]) == (
            status,
            "unverified",
            "The message can't be verified.",
        )
        assert (integration.seen, await inbox(app)) == ([], [])


async def test_an_old_message_and_another_body_are_refused(sqlite_url: str) -> None:
    async with bank(sqlite_url) as (served, integration, _):
        for minutes in (-6, 6):
            assert (await post(served, {}, at=datetime.now(UTC) + timedelta(minutes=minutes))).status_code == 401
        content, headers = signed({"order": 1})
        assert (await served.http.post(PAID, content=content + b" ", headers=headers)).status_code == 401
        assert integration.seen == []


async def test_a_large_body_is_refused_unread(sqlite_url: str) -> None:
    async with bank(sqlite_url) as (served, _, app):
        answer = await served.http.post("/api/webhooks/bank/open", content=b'{"id": "1"}' + b" " * 1000)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
        assert "max_bytes" in answer.json()["error"]["message"]

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield b" " * 100

        answer = await served.http.post("/api/webhooks/bank/open", content=chunks())
        assert answer.status_code == 413
        assert await inbox(app) == []


async def test_only_its_own_path_and_method(sqlite_url: str) -> None:
    async with bank(sqlite_url) as (served, _, app):
        for path in ("/api/webhooks/bank/later", "/api/webhooks/shop/paid"):
            assert (await post(served, {}, path=path)).json()["error"]["code"] == "unknown_webhook"
        for path in (f"{PAID}/", f"{PAID}/x", "/api/webhooks/bank/", "/api/webhooks//paid", "/api/webhooks"):
            assert (await post(served, {}, path=path)).json()["error"]["code"] == "unknown_route"
        refused = await served.http.get(PAID)
        assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
        assert (await post(served, {}, path="/api/webhooks/bank/paid-later")).status_code == 200
        host = Starlette(routes=[Mount("/shop", app.asgi())])
        async with serving(host, app) as mounted:
            assert (await post(mounted, {}, path=f"/shop{PAID}")).status_code == 200


async def test_a_failure_is_kept_answered_500_and_healed_by_a_repeat(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with bank(database_url) as (served, integration, app):
        order = await app.controller.store.create(Order(title="x"))
        integration.fail = LookupError("no such thing")
        for attempt in (1, 2):
            answer = await post(served, {"order": order.id})
            assert (answer.status_code, answer.json()["error"]["code"]) == (500, "not_handled")
            assert [row[2:4] for row in await inbox(app)] == [("failed", attempt)]
        assert await app.controller.store.count(PaymentEvent) == 0
        assert "no such thing" not in answer.text
        assert '"order"' not in caplog.text
        integration.fail = None
        assert (await post(served, {"order": order.id})).json() == {"received": True, "duplicate": False}
        assert [row[2] for row in await inbox(app)] == ["done"]
        assert (await app.controller.store.get(Order, order.id)).status == "paid"
        # What was done stays done, whatever becomes of repeats.
        integration.fail = LookupError("again")
        assert (await post(served, {"order": order.id})).json() == {"received": True, "duplicate": True}


async def test_what_the_domain_refuses_is_a_failure(database_url: str) -> None:
    async with bank(database_url) as (served, _, app):
        order, ann = (
            await app.controller.store.create(Order(title="x")),
            await app.controller.store.create(User(name="a")),
        )
        answer = await post(served, {"order": order.id, "user": ann.id, "amount": -1})
        assert answer.status_code == 500
        assert [row[2] for row in await inbox(app)] == ["failed"]
        answer = await served.http.post("/api/webhooks/bank/open", content=b'{"id": "1", "text": 3}')
        assert answer.status_code == 500


async def test_without_a_database_nothing_is_concluded(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bank(sqlite_url) as (served, _, app):

        async def away(*_: Any) -> Any:
            raise Unavailable("db.internal is away")

        with monkeypatch.context() as patch:
            patch.setattr(app.controller, "bring_in", away)
            answer = await post(served, {})
        assert (answer.status_code, "db.internal" in answer.text) == (503, False)
        assert await inbox(app) == []
        assert (await post(served, {})).json()["duplicate"] is False


async def test_who_sends_nonsense_has_to_wait(sqlite_url: str) -> None:
    async with bank(sqlite_url) as (served, _, app):
        statuses = [(await post(served, {}, secret="whsec_" + "B" * 32)).status_code for _ in range(7)]
        assert statuses == [401] * 5 + [429] * 2
        refused = await post(served, {})
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "60")
        # Other endpoints are not held up by it.
        assert (await post(served, {}, path="/api/webhooks/bank/paid-later")).status_code == 200
        assert len(await inbox(app)) == 1


def test_strangers_are_let_in_again_and_forgotten() -> None:
    clock = ManualClock()
    strangers = Strangers(clock)
    who = ("bank.paid", "10.0.0.1")
    for _ in range(3):
        assert strangers.may_try(who, per_minute=3)
        strangers.failed(who, per_minute=3)
    assert not strangers.may_try(who, per_minute=3)
    assert strangers.may_try(("bank.paid", "10.0.0.2"), per_minute=3)
    clock.advance(seconds=21)
    assert strangers.may_try(who, per_minute=3)
    strangers.failed(who, per_minute=3)
    assert not strangers.may_try(who, per_minute=3)


async def test_it_is_described(sqlite_url: str) -> None:
    async with bank(sqlite_url) as (served, _, _app):
        operation = (await served.http.get("/openapi.json")).json()["paths"][PAID]["post"]
        assert operation["summary"] == "A payment arrived."
        assert "StandardWebhooks" in operation["requestBody"]["description"]
        assert SECRET not in (await served.http.get("/openapi.json")).text


# --- Settings ---------------------------------------------------------------------------------------------------------


class Cards(Integration):
    stripe_secret: str = env("STRIPE_SECRET")

    @webhook(verify=StripeSignature(secret=[stripe_secret, env("STRIPE_OLD", default="")]))
    async def event(self, message: Any) -> None: ...


async def test_missing_secrets_are_reported_with_everything_else_that_is_missing(sqlite_url: str) -> None:
    app = shop(sqlite_url, integrations={"bank": Bank(), "cards": Cards()})
    with pytest.raises(DeclarationError) as raised:
        async with app.run(env={}):
            pass
    text = str(raised.value)
    assert "bank.paid verify= is not set" in text
    assert "BANK_SECRET" in text
    assert "cards (Cards).stripe_secret is not set" in text
    assert text.count("STRIPE_SECRET") == 1
    assert all(problem.code == "E0150" for problem in raised.value.problems)
    origins = [problem.origin.file for problem in raised.value.problems if problem.origin is not None]
    assert [file.endswith(("payments.py", "test_webhooks.py")) for file in origins] == [True] * 3


async def test_a_setting_of_the_class_body_is_the_integrations_own(sqlite_url: str) -> None:
    for integration, environ, secrets in (
        (Cards(stripe_secret="given"), {"STRIPE_OLD": "old"}, ["given", "old"]),
        (Cards(), {"STRIPE_SECRET": "read"}, ["read", ""]),
    ):
        async with shop(sqlite_url, integrations={"cards": integration}).run(env=environ) as run:
            verifier = run.inbox.endpoints.webhooks["cards.event"][1].options.verify
            assert isinstance(verifier, StripeSignature)
            assert verifier.secret == secrets
            assert "given" not in repr(run.inbox.endpoints)


async def test_a_secret_that_is_none_stops_the_start(sqlite_url: str) -> None:
    with pytest.raises(
        DeclarationError, match=r"bank\.paid: A secret of StandardWebhooks is not as expected"
    ) as raised:
        async with shop(sqlite_url, integrations={"bank": Bank()}).run(env={"BANK_SECRET": "hush!"}):
            pass
    assert "hush" not in str(raised.value)
    with pytest.raises(DeclarationError, match="has no secret"):
        async with shop(sqlite_url, integrations={"cards": Cards(stripe_secret="")}).run(env={}):
            pass


async def test_an_endpoint_that_could_not_take_its_first_message_is_refused(sqlite_url: str) -> None:
    scheme: Any = StripeSignature
    limit: Any = "5"
    path: Any = 5

    class Odd(Integration):
        @webhook(verify=StripeSignature(secret="s"))  # type: ignore[arg-type]
        async def silent(self) -> None: ...

        @webhook(verify=scheme)  # type: ignore[arg-type]
        def waiting(self, message: Any) -> None: ...

        @webhook(verify=StripeSignature(secret="s"), path=path, max_bytes=limit, timeout_seconds=limit)
        async def worded(self, message: Any) -> None: ...

        @consume("redis", stream="s", url="redis://x", batch=limit)  # type: ignore[arg-type]
        async def streamed(self, message: Any, ctx: Any) -> None: ...

    with pytest.raises(DeclarationError) as raised:
        async with shop(sqlite_url, integrations={"odd": Odd()}):
            pass
    texts = [problem.message for problem in raised.value.problems]
    assert texts == [
        "The webhook odd.silent: takes () besides self; expected `async def name(self, message)`.",
        "The webhook odd.waiting: is not async; expected `async def name(self, message)`.",
        *[text for text in texts if text.startswith("The webhook odd.waiting: has verify=<class ")],
        "The webhook odd.worded: has max_bytes='5'; expected a number that is at least 1.",
        "The webhook odd.worded: has timeout_seconds='5'; expected more than 0 and at most 60.",
        "The webhook odd.worded: has the path 5; expected one part of letters, digits, '-', '_' and '.'.",
        "The consumer odd.streamed takes (message, ctx) besides self; expected `async def name(self, message)`.",
        "The consumer odd.streamed has batch='5'; expected a number that is at least 1.",
    ]


async def test_a_verifier_of_ones_own_is_looked_at_before_a_message_comes(sqlite_url: str) -> None:
    class Later:
        async def verify(self, body: bytes, headers: Any, now: Any) -> str:
            return "m1"

    class Less:
        def verify(self, body: bytes) -> str:
            return "m1"

    for verifier, told in (
        (Later(), "whose verify is async; expected `def verify"),
        (Less(), r"takes \(body\) besides self"),
    ):
        odd: Any = verifier

        class Odd(Integration):
            @webhook(verify=odd)
            async def told(self, message: Any) -> None: ...

        with pytest.raises(DeclarationError, match=told):
            async with shop(sqlite_url, integrations={"odd": Odd()}):
                pass


@pytest.mark.parametrize("given", ["", None, 5])
async def test_a_message_without_an_id_of_its_sender_is_not_kept(sqlite_url: str, given: Any) -> None:
    class Nameless:
        def verify(self, body: bytes, headers: Any, now: Any) -> Any:
            return given

    class Odd(Integration):
        @webhook(verify=Nameless())
        async def told(self, message: Any) -> None: ...

    async with shop(sqlite_url, integrations={"odd": Odd()}).run(deliver=False) as run:
        with pytest.raises(
            UsageError, match=f"The verifier Nameless of odd.told gave {given!r}; expected the sender's id"
        ):
            await run.inbox.take_webhook("odd.told", b"{}", {})
        assert await inbox(run) == []


async def test_what_creates_no_endpoints_is_told_what_to_give(sqlite_url: str) -> None:
    class Nothing(Integration):
        def create_webhooks(self) -> Any:
            return None

    with pytest.raises(
        DeclarationError, match=r"Nothing.create_webhooks\(\) gave a NoneType; expected a list of Webhook"
    ):
        async with shop(sqlite_url, integrations={"nothing": Nothing()}):
            pass


async def test_endpoints_that_clash_are_refused(sqlite_url: str) -> None:
    class Two(Integration):
        @webhook(verify=StripeSignature(secret="s"), path="a")
        async def one(self, message: Any) -> None: ...

        @webhook(verify=StripeSignature(secret="s"), path="a")
        async def two(self, message: Any) -> None: ...

        @webhook(verify=StripeSignature(secret="s"), path="a/b", timeout_seconds=600)
        async def three(self, message: Any) -> None: ...

    with pytest.raises(DeclarationError) as raised:
        async with shop(sqlite_url, integrations={"two": Two()}):
            pass
    texts = [problem.message for problem in raised.value.problems]
    assert len(texts) == 3
    assert {problem.code for problem in raised.value.problems} == {"E0161"}
