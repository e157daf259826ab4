"""Recorded deliveries: the file keeps every byte, and what is signed anew is what the sender would have sent."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
from standardwebhooks.webhooks import Webhook as Oracle

from ensue import App, GitHubSignature, HmacSignature, NoVerification, Rejected, StandardWebhooks, StripeSignature
from ensue.errors import UsageError
from ensue.integrations.inbound.verify import Verifier
from ensue.testing import AppHarness, HttpDouble, RecordedDelivery, sign_delivery
from tests.inbound.payments import ENV, SECRET, Bank
from tests.inbound.shop import Order, PaymentEvent

FOLDER = Path(__file__).parent / "deliveries"
AT = datetime(2026, 3, 1, 12, tzinfo=UTC)

SCHEMES: Mapping[str, tuple[str, Verifier]] = {
    "standard": ("payment", StandardWebhooks(secret=SECRET)),
    "svix": ("payment", StandardWebhooks(secret=["", SECRET], prefix="svix")),
    "stripe": ("stripe_charge", StripeSignature(secret="whsec_test")),
    "github": ("github_ping", GitHubSignature(secret="It's a Secret to Everybody")),
    "slack": (
        "stripe_charge",
        HmacSignature(
            secret="s",
            header="X-Slack-Signature",
            prefix="v0=",
            signed="v0:{timestamp}:{body}",
            timestamp_header="X-Slack-Request-Timestamp",
            id="json:id",
        ),
    ),
    "with an id": (
        "payment",
        HmacSignature(
            secret="s", header="X-Sign", signed="{id}|{body}", encoding="base64", algorithm="sha512", id="header:X-Id"
        ),
    ),
    "unsigned": ("payment", NoVerification(reason="a test")),
}
WITH_TIME = ("standard", "svix", "stripe", "slack")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_signed_is_genuine_to_the_verifier(scheme: str) -> None:
    name, verifier = SCHEMES[scheme]
    delivery = RecordedDelivery.load(FOLDER / f"{name}.webhook")
    signed = sign_delivery(delivery, verifier, at=AT)
    assert signed.body == delivery.body
    assert verifier.verify(signed.body, signed.headers, AT)
    if scheme != "unsigned":
        with pytest.raises(Rejected):
            verifier.verify(signed.body + b" ", signed.headers, AT)


@pytest.mark.parametrize("scheme", WITH_TIME)
@pytest.mark.parametrize("minutes", [-6, 6])
def test_the_instant_counts_either_way(scheme: str, minutes: int) -> None:
    name, verifier = SCHEMES[scheme]
    signed = sign_delivery(RecordedDelivery.load(FOLDER / f"{name}.webhook"), verifier, at=AT)
    with pytest.raises(Rejected):
        verifier.verify(signed.body, signed.headers, AT + timedelta(minutes=minutes))


def test_the_schemes_reference_accepts_it() -> None:
    verifier = StandardWebhooks(secret=SECRET)
    delivery = RecordedDelivery.load(FOLDER / "payment.webhook")
    signed = sign_delivery(delivery, verifier, at=datetime.now(UTC), id="msg_9")
    assert Oracle(SECRET).verify(signed.body, dict(signed.headers)) == delivery.json()
    assert signed.header("Webhook-Id") == "msg_9"


def test_the_example_of_the_senders_own_documentation() -> None:
    delivery = RecordedDelivery.load(FOLDER / "github_ping.webhook")
    assert delivery.body == b"Hello, World!"
    _, verifier = SCHEMES["github"]
    assert sign_delivery(delivery, verifier, at=AT).headers == delivery.headers


@pytest.mark.parametrize("body", [b"", b"\n", b"a\n\n", b"\r\n\r\nx", bytes(range(256)), b'{"a": 1}'])
def test_a_file_keeps_every_byte(body: bytes, tmp_path: Path) -> None:
    delivery = RecordedDelivery(body, {"X-One": "1", "x-two": "a: b"}, "PUT", "/hook?a=1")
    delivery.save(tmp_path / "one.webhook")
    assert RecordedDelivery.load(tmp_path / "one.webhook") == delivery
    # An editor that ends the file with a line of its own.
    assert RecordedDelivery.parse(delivery.dump() + b"\n") == delivery


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"POST /x\nA: b", "no empty line"),
        (b"hello\n\n", "line 1 is 'hello'"),
        (b"POST /x\nnothing\n\n", "line 2 is 'nothing'"),
        (b"POST /x\nContent-Length: 9\n\nshort", "5 bytes and Content-Length says 9"),
        (b"POST /x\nContent-Length: 2\n\nlonger", "6 bytes and Content-Length says 2"),
    ],
)
def test_a_file_that_is_none_says_where(text: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.webhook").write_bytes(text)
    with pytest.raises(UsageError, match=message) as caught:
        RecordedDelivery.load(tmp_path / "bad.webhook")
    assert "bad.webhook" in str(caught.value)


def test_changing_a_body() -> None:
    delivery = RecordedDelivery.load(FOLDER / "payment.webhook")
    assert delivery.with_json(order=8).json() == {**delivery.json(), "order": 8}
    with pytest.raises(UsageError, match="no JSON"):
        RecordedDelivery(b"x").with_json(a=1)
    with pytest.raises(UsageError, match="no JSON object"):
        RecordedDelivery(b"[]").with_json(a=1)


def test_what_can_not_be_signed_says_so() -> None:
    class Own:
        def verify(self, body: bytes, headers: Mapping[str, str], now: datetime) -> str:
            return "1"

    delivery = RecordedDelivery(b"{}")
    with pytest.raises(UsageError, match="How Own is signed is not known"):
        sign_delivery(delivery, Own(), at=AT)
    with pytest.raises(UsageError, match="not in a header"):
        sign_delivery(delivery, StripeSignature(secret="s"), at=AT, id="evt_2")
    with pytest.raises(UsageError, match="no secret"):
        sign_delivery(delivery, StripeSignature(secret=""), at=AT)


async def test_what_a_double_was_sent_is_a_delivery() -> None:
    async with HttpDouble() as service, httpx2.AsyncClient(trust_env=False) as client:
        service.on("POST /hook", "ok")
        await client.post(f"{service.url}/hook", content=b"{}", headers={"X-One": "1"})
        delivery = RecordedDelivery.of(service.requests[0])
    assert (delivery.body, delivery.header("x-one"), delivery.target) == (b"{}", "1", "/hook")
    assert delivery.header("content-length") is None


async def test_a_harness_takes_a_recorded_delivery() -> None:
    delivery = RecordedDelivery.load(FOLDER / "payment.webhook")
    async with AppHarness(App(entities=[Order, PaymentEvent], integrations={"bank": Bank()}), env=ENV) as harness:
        assert await harness.receive("bank.paid", delivery) == "done"
        assert await harness.receive("bank.paid", delivery) == "known"
        assert await harness.receive("bank.paid", delivery, id="another") == "done"
        assert await harness.receive("bank.later", delivery) == "stored"
        await harness.drain()
        assert await harness.store.count(PaymentEvent) == 3
        with pytest.raises(Rejected, match="bad_signature"):
            await harness.receive("bank.paid", delivery, at=harness.clock.now() - timedelta(minutes=6))
        with pytest.raises(Rejected, match="bad_signature"):
            await harness.receive("bank.paid", delivery, sign=False)
        with pytest.raises(UsageError, match=r"no webhook 'bank\.pay'"):
            await harness.receive("bank.pay", delivery)
