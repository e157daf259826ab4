"""What clients are told of endpoints and deliveries.

Decides which fields leave the app. Leaves who may ask to `HttpOut`. Invariant: a secret is in an answer only when it was
made for it.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from ensue.integrations.http_out.records import WebhookAttempt, WebhookDelivery, WebhookEndpoint


class EndpointInfo(msgspec.Struct, frozen=True):
    """An endpoint, and how it is."""

    id: int
    url: str
    description: str
    events: list[str]
    enabled: bool
    disabled_reason: str
    disabled_at: datetime | None
    failures: int
    failing_since: datetime | None
    held_until: datetime | None
    created_at: datetime

    @classmethod
    def of(cls, row: WebhookEndpoint) -> EndpointInfo:
        """The endpoint as it is stored."""
        return cls(**{name: getattr(row, name) for name in cls.__struct_fields__})


class NewSecret(msgspec.Struct, frozen=True):
    """The secret of an endpoint, told this once: `whsec_…`, with which its receiver verifies signatures."""

    endpoint: int
    secret: str

    def __repr__(self) -> str:
        return f"NewSecret(endpoint={self.endpoint}, …)"


class AttemptInfo(msgspec.Struct, frozen=True):
    """One attempt."""

    number: int
    at: datetime
    status: int | None
    error: str
    milliseconds: int

    @classmethod
    def of(cls, row: WebhookAttempt) -> AttemptInfo:
        """The attempt as it is stored."""
        return cls(row.number, row.at, row.status, row.error, row.milliseconds)


class DeliveryInfo(msgspec.Struct, frozen=True):
    """One message to one endpoint, with its newest attempts."""

    id: int
    message_id: str
    event: str
    state: str
    test: bool
    attempts: int
    since: datetime
    due_at: datetime | None
    finished_at: datetime | None
    last_status: int | None
    last_error: str
    log: list[AttemptInfo]

    @classmethod
    def of(cls, row: WebhookDelivery) -> DeliveryInfo:
        """The delivery as it is stored."""
        return cls(
            id=row.id,
            message_id=row.message.message_id,
            event=row.message.event,
            state=row.state,
            test=row.test,
            attempts=row.attempts,
            since=row.since,
            due_at=row.due_at if row.state == "pending" else None,
            finished_at=row.finished_at,
            last_status=row.last_status,
            last_error=row.last_error,
            log=[AttemptInfo.of(attempt) for attempt in row.log],
        )
