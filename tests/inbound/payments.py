"""An integration that hears of payments by webhook, and what a bank sends it."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

from standardwebhooks.webhooks import Webhook as Signer

from ensue import AsUser, Inbound, Incoming, Integration, NewRecord, NoVerification, StandardWebhooks, env, webhook
from tests.inbound.shop import Pay, PaymentEvent

SECRET = "whsec_" + base64.b64encode(b"x" * 24).decode()
ENV = {"BANK_SECRET": SECRET}


class Bank(Integration):
    async def setup(self, controller: Any) -> None:
        self.seen: list[Inbound] = []
        self.fail: Exception | None = None

    @webhook(verify=StandardWebhooks(secret=env("BANK_SECRET")), unverified_per_minute=5)
    async def paid(self, message: Inbound) -> Incoming:
        """A payment arrived."""
        return self._meaning(message)

    @webhook(verify=StandardWebhooks(secret=env("BANK_SECRET")), path="paid-later", defer=True)
    async def later(self, message: Inbound) -> Incoming:
        return self._meaning(message)

    @webhook(verify=NoVerification(reason="a test", id="json:id"), max_bytes=1000)
    async def open(self, message: Inbound) -> Incoming:
        return NewRecord("PaymentEvent", {"order_number": message.json()["order"]})

    def _meaning(self, message: Inbound) -> Incoming:
        self.seen.append(message)
        if self.fail is not None:
            raise self.fail
        body = message.json()
        if "order" not in body:
            return None
        if "user" in body:
            return AsUser(Pay(order=body["order"], amount=body.get("amount", 0)), body["user"])
        return PaymentEvent(order_number=body["order"])


def signed(
    body: Any, *, id_: str = "m1", secret: str = SECRET, at: datetime | None = None
) -> tuple[bytes, dict[str, str]]:
    """A message of the bank: its bytes, and its headers."""
    text = json.dumps(body)
    at = at or datetime.now(UTC)
    stamp = str(int(at.timestamp()))
    signature = Signer(secret).sign(id_, at, text)
    return text.encode(), {"webhook-id": id_, "webhook-timestamp": stamp, "webhook-signature": signature}
