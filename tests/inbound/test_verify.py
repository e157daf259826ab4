"""Signature schemes, against the vendors' own code and published vectors; every kind of message that must be refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook as Oracle

from ensue import (
    DeclarationError,
    GitHubSignature,
    HmacSignature,
    NoVerification,
    Rejected,
    StandardWebhooks,
    StripeSignature,
    Verifier,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
STAMP = str(int(NOW.timestamp()))
BODY = b'{"id": "evt_1", "text": "\xc3\xb6"}'
OLD, NEW = "whsec_" + base64.b64encode(b"old" * 8).decode(), "whsec_" + base64.b64encode(b"new" * 8).decode()


NOTHING_SAID = (("malformed", ""), ("bad_signature", ""), ("malformed", "The message has no id where one is expected."))


def mac(key: bytes, content: bytes, algorithm: str = "sha256") -> bytes:
    return hmac.new(key, content, algorithm).digest()


def standard(secret: str = NEW, *, at: datetime = NOW, body: bytes = BODY, id_: str = "msg_1") -> dict[str, str]:
    """Headers as the reference implementation makes them."""
    signature = Oracle(secret).sign(id_, at, body.decode())
    return {"webhook-id": id_, "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": signature}


def stripe(secret: str = "whsec_a", *, stamp: str = STAMP, body: bytes = BODY) -> dict[str, str]:
    signature = mac(secret.encode(), stamp.encode() + b"." + body).hex()
    return {"Stripe-Signature": f"t={stamp},v1={signature},v0={'0' * 64}"}


def github(secret: str = "s", *, body: bytes = BODY) -> dict[str, str]:
    return {"X-Hub-Signature-256": f"sha256={mac(secret.encode(), body).hex()}", "X-GitHub-Delivery": "72d3162e"}


SLACK = HmacSignature(
    secret="s",
    header="X-Slack-Signature",
    prefix="v0=",
    signed="v0:{timestamp}:{body}",
    timestamp_header="X-Slack-Request-Timestamp",
    id="json:id",
)


def slack(*, stamp: str = STAMP, body: bytes = BODY) -> dict[str, str]:
    signature = mac(b"s", b"v0:" + stamp.encode() + b":" + body).hex()
    return {"X-Slack-Signature": f"v0={signature}", "X-Slack-Request-Timestamp": stamp}


CASES: list[tuple[Verifier, Mapping[str, str], str]] = [
    (StandardWebhooks(secret=NEW), standard(), "msg_1"),
    (StripeSignature(secret="whsec_a"), stripe(), "evt_1"),
    (GitHubSignature(secret="s"), github(), "72d3162e"),
    (SLACK, slack(), "evt_1"),
    (
        HmacSignature(secret="s", header="X-Mac", encoding="base64", algorithm="sha512"),
        {"x-mac": base64.b64encode(mac(b"s", BODY, "sha512")).decode()},
        f"sha256:{hashlib.sha256(BODY).hexdigest()}",
    ),
    (
        HmacSignature(secret="s", header="X-Mac", signed="{id}|{body}", id="header:X-Id"),
        {"X-Mac": mac(b"s", b"{body}|" + BODY).hex(), "X-Id": "{body}"},
        "{body}",
    ),
]


@pytest.mark.parametrize(("verifier", "headers", "id_"), CASES)
def test_a_genuine_message_gives_its_id(verifier: Verifier, headers: Mapping[str, str], id_: str) -> None:
    assert verifier.verify(BODY, headers, NOW) == id_
    assert verifier.verify(BODY, {name.swapcase(): value for name, value in headers.items()}, NOW) == id_


@pytest.mark.parametrize(("verifier", "headers", "id_"), CASES)
def test_any_other_body_is_refused(verifier: Verifier, headers: Mapping[str, str], id_: str) -> None:
    for body in (b"", BODY + b" ", BODY.replace(b"evt_1", b"evt_2")):
        with pytest.raises(Rejected, match="bad_signature"):
            verifier.verify(body, headers, NOW)


@pytest.mark.parametrize(("verifier", "headers", "id_"), CASES)
def test_a_missing_header_is_malformed(verifier: Verifier, headers: Mapping[str, str], id_: str) -> None:
    for name in headers:
        for less in ({key: value for key, value in headers.items() if key != name}, {**headers, name: ""}):
            with pytest.raises(Rejected, match="malformed"):
                verifier.verify(BODY, less, NOW)


@given(st.text(max_size=40), st.sampled_from(range(len(CASES))), st.data())
def test_no_header_whatever_makes_it_fail_otherwise(text: str, number: int, data: Any) -> None:
    verifier, headers, id_ = CASES[number]
    name = data.draw(st.sampled_from(sorted(headers)))
    try:
        found = verifier.verify(BODY, {**headers, name: text}, NOW)
    except Rejected as error:
        refused = (error.reason, error.message)
    else:
        # GitHub signs no id.
        assert found == (text if name == "X-GitHub-Delivery" else id_)
        return
    assert refused in NOTHING_SAID


@pytest.mark.parametrize("seconds", [-301, 301, -86_400, 86_400])
def test_the_window_has_two_sides(seconds: int) -> None:
    at = NOW + timedelta(seconds=seconds)
    stamp = str(int(at.timestamp()))
    signed: list[tuple[Verifier, dict[str, str]]] = [
        (StandardWebhooks(secret=NEW), standard(at=at)),
        (StripeSignature(secret="whsec_a"), stripe(stamp=stamp)),
        (SLACK, slack(stamp=stamp)),
    ]
    for verifier, headers in signed:
        with pytest.raises(Rejected, match="bad_signature"):
            verifier.verify(BODY, headers, NOW)
        assert verifier.verify(BODY, headers, at + timedelta(seconds=299))
        assert verifier.verify(BODY, headers, at - timedelta(seconds=299))


@pytest.mark.parametrize("stamp", ["", "x", "-5", "1.5", "١٢٣", "9" * 400, " 1", "1e9", "NaN"])
def test_a_time_that_is_none_is_malformed(stamp: str) -> None:
    for verifier, headers in (
        (StandardWebhooks(secret=NEW), {**standard(), "webhook-timestamp": stamp}),
        (StripeSignature(secret="whsec_a"), stripe(stamp=stamp)),
        (SLACK, {**slack(), "X-Slack-Request-Timestamp": stamp}),
    ):
        with pytest.raises(Rejected, match="malformed"):
            verifier.verify(BODY, headers, NOW)


def test_any_secret_and_any_signature_will_do() -> None:
    both = StandardWebhooks(secret=[NEW, "", OLD])
    assert both.verify(BODY, standard(OLD), NOW) == both.verify(BODY, standard(NEW), NOW) == "msg_1"
    headers = standard(OLD)
    headers["webhook-signature"] = f"v1a,AAAA v1,AAAA {headers['webhook-signature']} v2,x"
    assert StandardWebhooks(secret=OLD).verify(BODY, headers, NOW) == "msg_1"
    with pytest.raises(Rejected, match="bad_signature"):
        StandardWebhooks(secret=NEW).verify(BODY, headers, NOW)
    for name in ("whsec_a", "whsec_b"):
        assert StripeSignature(secret=("whsec_b", "whsec_a")).verify(BODY, stripe(name), NOW)


def test_versions_that_are_not_known_do_not_count() -> None:
    good = standard()["webhook-signature"].removeprefix("v1,")
    for version in ("v0", "v1a", "v2", "V1"):
        with pytest.raises(Rejected, match="bad_signature"):
            StandardWebhooks(secret=NEW).verify(BODY, {**standard(), "webhook-signature": f"{version},{good}"}, NOW)
    only_v0 = {"Stripe-Signature": stripe()["Stripe-Signature"].replace("v1=", "v0=")}
    with pytest.raises(Rejected, match="bad_signature"):
        StripeSignature(secret="whsec_a").verify(BODY, only_v0, NOW)


def test_very_many_signatures_are_not_computed() -> None:
    many = " ".join(["v1,AAAA"] * 100)
    with pytest.raises(Rejected, match="malformed"):
        StandardWebhooks(secret=NEW).verify(BODY, {**standard(), "webhook-signature": many}, NOW)


def test_published_vectors() -> None:
    # From the specification of Standard Webhooks, GitHub's page on validating deliveries, and Slack's on verifying.
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    at = datetime.fromtimestamp(1614265330, UTC)
    verifier = StandardWebhooks(secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    assert verifier.verify(b'{"test": 2432232314}', headers, at) == "msg_p5jXN8AQM9LWM0D4loKWxJek"
    svix = {name.replace("webhook", "svix"): value for name, value in headers.items()}
    older = StandardWebhooks(secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", prefix="svix")
    assert older.verify(b'{"test": 2432232314}', svix, at)
    signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    hub = {"X-Hub-Signature-256": signature, "X-GitHub-Delivery": "1"}
    assert GitHubSignature(secret="It's a Secret to Everybody").verify(b"Hello, World!", hub, NOW) == "1"
    body = (
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar"
        b"&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com"
        b"%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121"
        b".803a0bc887a14d10d2c447fce8b6703c"
    )
    verifier2 = HmacSignature(
        secret="8f742231b10e8888abcd99yyyzzz85a5",
        header="X-Slack-Signature",
        prefix="v0=",
        signed="v0:{timestamp}:{body}",
        timestamp_header="X-Slack-Request-Timestamp",
    )
    found = {
        "X-Slack-Signature": "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
        "X-Slack-Request-Timestamp": "1531420618",
    }
    assert verifier2.verify(body, found, datetime.fromtimestamp(1531420618, UTC)).startswith("sha256:")


def test_no_verification_says_why() -> None:
    assert NoVerification(reason="behind a gateway", id="header:X-Id").verify(b"", {"x-id": "7"}, NOW) == "7"
    assert NoVerification(reason="x", id="json:a.b").verify(b'{"a": {"b": 7}}', {}, NOW) == "7"
    assert NoVerification(reason="x", id=lambda body, headers: body.decode()).verify(b"abc", {}, NOW) == "abc"
    for body in (b"{}", b"[]", b"no", b'{"a": 1}', b'{"a": {"b": true}}', b'{"a": {"b": ""}}', b"\xff"):
        with pytest.raises(Rejected, match="malformed"):
            NoVerification(reason="x", id="json:a.b").verify(body, {}, NOW)
    with pytest.raises(DeclarationError, match="reason"):
        NoVerification(reason=" ")


def test_wrong_declarations_say_so() -> None:
    with pytest.raises(DeclarationError, match="leaves the body unsigned"):
        HmacSignature(secret="s", header="h", signed="{timestamp}")
    with pytest.raises(DeclarationError, match="only if it is signed"):
        HmacSignature(secret="s", header="h", timestamp_header="t")
    with pytest.raises(DeclarationError, match="is a header"):
        HmacSignature(secret="s", header="h", signed="{id}.{body}", id="json:id")
    with pytest.raises(DeclarationError, match="header:NAME"):
        HmacSignature(secret="s", header="h", id="X-Id")
    for wrong in (
        StandardWebhooks(secret="whsec_?"),
        StandardWebhooks(secret=[]),
        StripeSignature(secret=""),
        GitHubSignature(secret=[]),
    ):
        with pytest.raises(DeclarationError, match="secret"):
            wrong.check()


def test_no_repr_shows_a_secret() -> None:
    for verifier in (
        StandardWebhooks(secret=NEW),
        StripeSignature(secret=["hush", "hush2"]),
        GitHubSignature(secret="hush"),
        HmacSignature(secret="hush", header="h"),
    ):
        assert "hush" not in repr(verifier)
        assert NEW not in repr(verifier)


def test_what_a_scheme_does_not_know_is_refused_before_a_message_comes() -> None:
    odd: Any = {"algorithm": "md7"}, {"encoding": "base32"}
    for options in odd:
        (name,) = options
        with pytest.raises(DeclarationError, match=rf"HmacSignature\({name}='.*'\): expected 'sha1'|'hex', 'base64'"):
            HmacSignature(secret="s", header="X-Signature", **options)
    number: Any = 300
    for verifier in (
        StandardWebhooks(secret=OLD, tolerance=number),
        StripeSignature(secret="s", tolerance=number),
        HmacSignature(secret="s", header="X-Signature", tolerance=number),
    ):
        with pytest.raises(DeclarationError, match=r"\(tolerance=300\): expected timedelta"):
            verifier.check()
    with pytest.raises(DeclarationError, match="StripeSignature has no secret"):
        StripeSignature(secret=number).check()
