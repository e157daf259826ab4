"""Recorded deliveries signed anew: with a test's secret, at a test's instant, as each scheme's sender does it.

Decides for each verifier what a genuine sender would send. Leaves verifying to `ensue.integrations.inbound`, whose code
is not used here, so that each is a check of the other. Invariant: only headers of the scheme change; the body stays as
it was recorded.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import uuid4

from ensue.clock import to_micros
from ensue.errors import UsageError
from ensue.integrations.inbound.verify import (
    GitHubSignature,
    HmacSignature,
    NoVerification,
    StandardWebhooks,
    StripeSignature,
    Verifier,
)
from ensue.testing.recorded.delivery import RecordedDelivery


def sign_delivery(
    delivery: RecordedDelivery, verifier: Verifier, *, at: datetime, id: str | None = None
) -> RecordedDelivery:
    """`delivery` as its sender would send it at the instant `at`, with the first secret of `verifier`.

    `id` is the sender's name for it, where a header says that; by default the recorded one, or a new one. Raises
    `UsageError` for a verifier of another kind, and for an `id` where the body has it.

    >>> delivery = sign_delivery(delivery, StandardWebhooks(secret=SECRET), at=harness.clock.now())
    """
    for kind, sign in _SIGN.items():
        if isinstance(verifier, kind):
            return sign(delivery, verifier, str(to_micros(at) // 1_000_000), id)
    raise UsageError(
        f"How {type(verifier).__name__} is signed is not known here. Give the delivery the headers that its sender "
        "would, with delivery.with_headers({...}), and deliver it with sign=False."
    )


def _standard(
    delivery: RecordedDelivery, verifier: StandardWebhooks, timestamp: str, id: str | None
) -> RecordedDelivery:
    name = f"{verifier.prefix}-id"
    known = id or delivery.header(name) or f"msg_{uuid4().hex}"
    key = base64.b64decode(_first(verifier).removeprefix("whsec_"))
    content = f"{known}.{timestamp}.".encode("latin-1") + delivery.body
    signature = base64.b64encode(hmac.digest(key, content, "sha256")).decode()
    return delivery.with_headers(
        {name: known, f"{verifier.prefix}-timestamp": timestamp, f"{verifier.prefix}-signature": f"v1,{signature}"}
    )


def _stripe(delivery: RecordedDelivery, verifier: StripeSignature, timestamp: str, id: str | None) -> RecordedDelivery:
    _refuse_id(verifier, id)
    content = timestamp.encode() + b"." + delivery.body
    signature = hmac.digest(_first(verifier).encode(), content, "sha256").hex()
    return delivery.with_headers({verifier.header: f"t={timestamp},v1={signature}"})


def _github(delivery: RecordedDelivery, verifier: GitHubSignature, timestamp: str, id: str | None) -> RecordedDelivery:
    signature = hmac.digest(_first(verifier).encode(), delivery.body, "sha256").hex()
    known = id or delivery.header("X-GitHub-Delivery") or str(uuid4())
    return delivery.with_headers({"X-GitHub-Delivery": known, "X-Hub-Signature-256": f"sha256={signature}"})


def _hmac(delivery: RecordedDelivery, verifier: HmacSignature, timestamp: str, id: str | None) -> RecordedDelivery:
    headers: dict[str, str] = {}
    known = ""
    if isinstance(verifier.id, str) and verifier.id.startswith("header:"):
        name = verifier.id.removeprefix("header:")
        known = id or delivery.header(name) or uuid4().hex
        headers[name] = known
    else:
        _refuse_id(verifier, id)
    if verifier.timestamp_header is not None:
        headers[verifier.timestamp_header] = timestamp
    before, _, after = verifier.signed.partition("{body}")
    filled = [
        part.replace("{timestamp}", timestamp).replace("{id}", known).encode("latin-1") for part in (before, after)
    ]
    digest = hmac.digest(_first(verifier).encode(), filled[0] + delivery.body + filled[1], verifier.algorithm)
    text = digest.hex() if verifier.encoding == "hex" else base64.b64encode(digest).decode()
    return delivery.with_headers({**headers, verifier.header: f"{verifier.prefix}{text}"})


def _unsigned(delivery: RecordedDelivery, verifier: NoVerification, timestamp: str, id: str | None) -> RecordedDelivery:
    if id is not None and isinstance(verifier.id, str) and verifier.id.startswith("header:"):
        return delivery.with_headers({verifier.id.removeprefix("header:"): id})
    _refuse_id(verifier, id)
    return delivery


_SIGN: dict[type[Any], Callable[[RecordedDelivery, Any, str, str | None], RecordedDelivery]] = {
    StandardWebhooks: _standard,
    StripeSignature: _stripe,
    GitHubSignature: _github,
    HmacSignature: _hmac,
    NoVerification: _unsigned,
}


def _first(verifier: Any) -> str:
    given: list[object] = [verifier.secret] if isinstance(verifier.secret, str) else list(verifier.secret)
    # An empty one is one that was not set, as verifiers have it.
    found = next((item for item in given if item), None)
    if isinstance(found, str):
        return found
    raise UsageError(
        f"{type(verifier).__name__} has no secret to sign with. Give one, or take the verifier of a running app, whose "
        "settings are read: harness.receive(...) does."
    )


def _refuse_id(verifier: object, id: str | None) -> None:
    if id is not None:
        raise UsageError(
            f"id={id!r}: with {type(verifier).__name__} the id is not in a header. Change it in the body, "
            "delivery.with_json(id=...)."
        )
