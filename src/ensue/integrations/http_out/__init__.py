"""Outgoing webhooks, signed in the form of Standard Webhooks.

`HttpOut` is the integration; the other names are what it is told, keeps and gives.
"""

from ensue.integrations.http_out.calls import AttemptInfo, DeliveryInfo, EndpointInfo, NewSecret
from ensue.integrations.http_out.events import OnCreate, OnDelete, OnUpdate
from ensue.integrations.http_out.http_out import HttpOut
from ensue.integrations.http_out.records import (
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEndpointEvent,
    WebhookMessage,
)

__all__ = [
    "AttemptInfo",
    "DeliveryInfo",
    "EndpointInfo",
    "HttpOut",
    "NewSecret",
    "OnCreate",
    "OnDelete",
    "OnUpdate",
    "WebhookAttempt",
    "WebhookDelivery",
    "WebhookEndpoint",
    "WebhookEndpointEvent",
    "WebhookMessage",
]
