"""Declare data, derivations and interactions; the rest ensues.

The public names. Declarations are here at once; integrations, and what needs a database or a server, come when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ensue.errors import (
    ConstraintViolated,
    DeclarationError,
    EnsueError,
    InvalidValue,
    NotFound,
    NotLoaded,
    PlannedError,
    Rejected,
    Throttled,
    Unavailable,
    UnknownOutcome,
    UsageError,
    WrongResult,
)
from ensue.expression.trace import Expr, match, now, total
from ensue.schema.computations.aggregate import AnyOf, Average, Count, EveryOf, Max, Min, Sum
from ensue.schema.computations.computed import Computed
from ensue.schema.computations.custom import SKIP, Custom
from ensue.schema.computations.machine import Mutation, State, StateMachine, Transition
from ensue.schema.computations.transform import Transform
from ensue.schema.delivery import Breaker, ErrorClass, Nats, Rate, Receipt, Retry, Target
from ensue.schema.effect import Effect, SideEffect, side_effect
from ensue.schema.entity import Entity, Globals, Keep, Relation
from ensue.schema.event import DispatchResult, MutationEvent
from ensue.schema.incoming import AsUser, Incoming, NewRecord
from ensue.schema.interaction import Activity, Context, Interaction, define_type
from ensue.schema.property import Property
from ensue.schema.relation import Inverse, Many, Maybe, One, Ref, Through
from ensue.schema.schema import Schema

if TYPE_CHECKING:
    from ensue.app import App
    from ensue.engine.controller import Controller
    from ensue.engine.store import Store
    from ensue.integrations.aggregate import AggregatedIntegration
    from ensue.integrations.api import API, api
    from ensue.integrations.connection import Authenticated
    from ensue.integrations.contract import Health, Integration
    from ensue.integrations.inbound.consumer import (
        AmqpPlace,
        Consumer,
        ConsumerOptions,
        NatsPlace,
        RedisPlace,
        consume,
    )
    from ensue.integrations.inbound.message import Inbound
    from ensue.integrations.inbound.verify import (
        GitHubSignature,
        HmacSignature,
        NoVerification,
        StandardWebhooks,
        StripeSignature,
        Verifier,
    )
    from ensue.integrations.inbound.webhook import Webhook, WebhookOptions, webhook
    from ensue.integrations.settings.environment import env
    from ensue.integrations.tasks.integration import TaskIntegration
    from ensue.integrations.tasks.task import AsyncTask, TaskEvent
    from ensue.integrations.tasks.update import Submitted, TaskUpdate

__version__ = "0.1.0"

_LATER: dict[str, str] = {
    "API": "ensue.integrations.api",
    "AggregatedIntegration": "ensue.integrations.aggregate",
    "AmqpPlace": "ensue.integrations.inbound.consumer",
    "App": "ensue.app",
    "AsyncTask": "ensue.integrations.tasks.task",
    "Authenticated": "ensue.integrations.connection",
    "Consumer": "ensue.integrations.inbound.consumer",
    "ConsumerOptions": "ensue.integrations.inbound.consumer",
    "Controller": "ensue.engine.controller",
    "GitHubSignature": "ensue.integrations.inbound.verify",
    "Health": "ensue.integrations.contract",
    "HmacSignature": "ensue.integrations.inbound.verify",
    "Inbound": "ensue.integrations.inbound.message",
    "Integration": "ensue.integrations.contract",
    "NatsPlace": "ensue.integrations.inbound.consumer",
    "NoVerification": "ensue.integrations.inbound.verify",
    "RedisPlace": "ensue.integrations.inbound.consumer",
    "StandardWebhooks": "ensue.integrations.inbound.verify",
    "Store": "ensue.engine.store",
    "Submitted": "ensue.integrations.tasks.update",
    "TaskEvent": "ensue.integrations.tasks.task",
    "TaskIntegration": "ensue.integrations.tasks.integration",
    "TaskUpdate": "ensue.integrations.tasks.update",
    "StripeSignature": "ensue.integrations.inbound.verify",
    "Verifier": "ensue.integrations.inbound.verify",
    "Webhook": "ensue.integrations.inbound.webhook",
    "WebhookOptions": "ensue.integrations.inbound.webhook",
    "api": "ensue.integrations.api",
    "consume": "ensue.integrations.inbound.consumer",
    "env": "ensue.integrations.settings.environment",
    "webhook": "ensue.integrations.inbound.webhook",
}
"""Where the names live that are imported on first use."""


def __getattr__(name: str) -> Any:
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module 'ensue' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(module), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


__all__ = [
    "API",
    "SKIP",
    "Activity",
    "AggregatedIntegration",
    "AmqpPlace",
    "AnyOf",
    "App",
    "AsUser",
    "AsyncTask",
    "Authenticated",
    "Average",
    "Breaker",
    "Computed",
    "ConstraintViolated",
    "Consumer",
    "ConsumerOptions",
    "Context",
    "Controller",
    "Count",
    "Custom",
    "DeclarationError",
    "DispatchResult",
    "Effect",
    "EnsueError",
    "Entity",
    "ErrorClass",
    "EveryOf",
    "Expr",
    "GitHubSignature",
    "Globals",
    "Health",
    "HmacSignature",
    "Inbound",
    "Incoming",
    "Integration",
    "Interaction",
    "InvalidValue",
    "Inverse",
    "Keep",
    "Many",
    "Max",
    "Maybe",
    "Min",
    "Mutation",
    "MutationEvent",
    "Nats",
    "NatsPlace",
    "NewRecord",
    "NoVerification",
    "NotFound",
    "NotLoaded",
    "One",
    "PlannedError",
    "Property",
    "Rate",
    "Receipt",
    "RedisPlace",
    "Ref",
    "Rejected",
    "Relation",
    "Retry",
    "Schema",
    "SideEffect",
    "StandardWebhooks",
    "State",
    "StateMachine",
    "Store",
    "StripeSignature",
    "Submitted",
    "Sum",
    "Target",
    "TaskEvent",
    "TaskIntegration",
    "TaskUpdate",
    "Throttled",
    "Through",
    "Transform",
    "Transition",
    "Unavailable",
    "UnknownOutcome",
    "UsageError",
    "Verifier",
    "Webhook",
    "WebhookOptions",
    "WrongResult",
    "api",
    "consume",
    "define_type",
    "env",
    "match",
    "now",
    "side_effect",
    "total",
    "webhook",
]
