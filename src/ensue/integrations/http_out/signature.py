"""Signatures of outgoing webhooks, in the form of the Standard Webhooks specification.

Decides the three headers, without I/O. Leaves which secrets an endpoint has to `signing`. Invariant: what is signed is
the id, the timestamp and the body as it is sent, byte for byte, by HMAC-SHA256 with each secret that is in force.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence

PREFIX = "whsec_"


def headers_of(message_id: str, *, timestamp: int, body: bytes, secrets: Sequence[bytes]) -> dict[str, str]:
    """The headers that sign `body`: one signature of each secret, the newest first.

    >>> headers_of("m1", timestamp=1, body=b"{}", secrets=[b"0" * 32])["webhook-timestamp"]
    '1'
    """
    content = f"{message_id}.{timestamp}.".encode() + body
    signatures = [base64.b64encode(hmac.digest(secret, content, hashlib.sha256)).decode() for secret in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def secret_text(secret: bytes) -> str:
    """A secret as its receiver is told it: `whsec_` and base64."""
    return PREFIX + base64.b64encode(secret).decode()
