"""What outgoing webhooks keep: endpoints, their secrets' salts, messages, deliveries and attempts.

Decides which records there are and what is in them. Leaves who writes them to the other modules. Invariants: a message's
body is kept once and never changes, so what is signed is what was decided on; no secret is kept, only a private salt
from which the app's key makes it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ensue.errors import DeclarationError
from ensue.expression.trace import now
from ensue.schema.entity import Entity
from ensue.schema.property import Property
from ensue.schema.relation import Many, Maybe, One
from ensue.schema.schema import Schema
from ensue.schema.written.annotation import Names, Written


class WebhookEndpoint(Entity):
    """Where somebody wants to be told of events: `events` are names or patterns such as `post.*`; empty for all.

    `enabled` with `disabled_reason` says whether it is called: `gone` (it answered 410), `failing` (nothing but failures
    for days), `owner` (switched off). `failures` are those in a row, since `failing_since`; until `held_until` it is left
    alone. Linked to `owner`, if endpoints belong to users.
    """

    url: Property[str]
    description: Property[str] = Property(default="")
    events: Property[list[str]] = Property(default=list)
    enabled: Property[bool] = Property(default=True)
    disabled_reason: Property[str] = Property(default="")
    disabled_at: Property[datetime | None] = Property(default=None)
    failures: Property[int] = Property(default=0)
    failing_since: Property[datetime | None] = Property(default=None)
    held_until: Property[datetime | None] = Property(default=None)
    created_at: Property[datetime] = Property(default=now)


class WebhookSecret(Entity, private=True):
    """One secret of an endpoint, made of `salt` by the app's key `key_id`; in force until `expires_at`."""

    endpoint: One[WebhookEndpoint] = One(on_delete="cascade")
    salt: Property[str]
    key_id: Property[str]
    created_at: Property[datetime] = Property(default=now)
    expires_at: Property[datetime | None] = Property(default=None)


class WebhookMessage(Entity):
    """One event as it is told: `message_id` is the key of the effect that told it (dots as underscores), `body` the JSON text."""

    message_id: Property[str] = Property(unique=True)
    event: Property[str]
    body: Property[str]
    created_at: Property[datetime] = Property(default=now)
    deliveries = Many(lambda: WebhookDelivery, inverse="message")


class WebhookDelivery(Entity, unique=[("message", "endpoint")]):
    """One message for one endpoint: `pending` until it is `delivered`, has `failed`, or was `discarded`.

    `due_at` is when the next attempt may be made; each change of it is an effect of its own. `since` is when trying
    began, `test` marks one that was asked for to try an endpoint out.
    """

    message: One[WebhookMessage] = One(on_delete="cascade")
    endpoint: One[WebhookEndpoint] = One(on_delete="cascade")
    state: Property[str] = Property(default="pending")
    attempts: Property[int] = Property(default=0)
    due_at: Property[datetime] = Property(default=now)
    since: Property[datetime] = Property(default=now)
    lane: Property[int] = Property(default=0)
    test: Property[bool] = Property(default=False)
    last_status: Property[int | None] = Property(default=None)
    last_error: Property[str] = Property(default="")
    finished_at: Property[datetime | None] = Property(default=None)
    log = Many(lambda: WebhookAttempt, inverse="delivery")


class WebhookAttempt(Entity):
    """One attempt: the `status` that was answered, or an `error`."""

    delivery: One[WebhookDelivery] = One(on_delete="cascade")
    number: Property[int]
    at: Property[datetime] = Property(default=now)
    status: Property[int | None] = Property(default=None)
    error: Property[str] = Property(default="")
    milliseconds: Property[int] = Property(default=0)


class WebhookEndpointEvent(Entity):
    """What happened to an endpoint: `created`, `disabled` (with the `reason`), `enabled`, `secret_rotated`.

    Written with what it tells; listen to it to tell an endpoint's owner.
    """

    endpoint: One[WebhookEndpoint] = One(on_delete="cascade")
    kind: Property[str]
    reason: Property[str] = Property(default="")
    at: Property[datetime] = Property(default=now)


RECORDS = (WebhookEndpoint, WebhookSecret, WebhookMessage, WebhookDelivery, WebhookAttempt, WebhookEndpointEvent)


def add_records(schema: Schema, users: type[Entity] | None) -> None:
    """Add them to an app; with `users` an endpoint belongs to one of these, and goes with its owner."""
    if WebhookEndpoint in schema.entities:
        raise DeclarationError("There are two HttpOut integrations in this app; one serves any number of endpoints.")
    for record in RECORDS:
        schema.entities.add(record)
    if users is not None:
        link = Maybe[Any](default=None, on_delete="cascade")
        link.written = Written(users, Names("", {}))
        schema.entity(WebhookEndpoint).add_property("owner", link)
