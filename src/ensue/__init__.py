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
    Unavailable,
    UsageError,
)
from ensue.expression.trace import Expr, match, now, total
from ensue.schema.computations.aggregate import AnyOf, Average, Count, EveryOf, Max, Min, Sum
from ensue.schema.computations.computed import Computed
from ensue.schema.computations.custom import SKIP, Custom
from ensue.schema.computations.machine import Mutation, State, StateMachine, Transition
from ensue.schema.computations.transform import Transform
from ensue.schema.effect import Effect, Retry, SideEffect, side_effect
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
    from ensue.integrations.settings.environment import env

__version__ = "0.1.0"

_LATER: dict[str, str] = {
    "API": "ensue.integrations.api",
    "AggregatedIntegration": "ensue.integrations.aggregate",
    "App": "ensue.app",
    "Authenticated": "ensue.integrations.connection",
    "Controller": "ensue.engine.controller",
    "Health": "ensue.integrations.contract",
    "Integration": "ensue.integrations.contract",
    "Store": "ensue.engine.store",
    "api": "ensue.integrations.api",
    "env": "ensue.integrations.settings.environment",
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
    "AnyOf",
    "App",
    "AsUser",
    "Authenticated",
    "Average",
    "Computed",
    "ConstraintViolated",
    "Context",
    "Controller",
    "Count",
    "Custom",
    "DeclarationError",
    "DispatchResult",
    "Effect",
    "EnsueError",
    "Entity",
    "EveryOf",
    "Expr",
    "Globals",
    "Health",
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
    "NewRecord",
    "NotFound",
    "NotLoaded",
    "One",
    "PlannedError",
    "Property",
    "Ref",
    "Rejected",
    "Relation",
    "Retry",
    "Schema",
    "SideEffect",
    "State",
    "StateMachine",
    "Store",
    "Sum",
    "Through",
    "Transform",
    "Transition",
    "Unavailable",
    "UsageError",
    "api",
    "define_type",
    "env",
    "match",
    "now",
    "side_effect",
    "total",
]
