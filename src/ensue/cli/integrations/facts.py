"""What can be told of the integrations of an app: what they offer, what they were told, how they are.

Decides which facts there are and how they are gathered; leaves printing to `integrations`. Invariants: nothing secret is
among the facts; the app's own database is not touched, and nothing is delivered, consumed or polled meanwhile.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from ensue.errors import EnsueError
from ensue.integrations.api import REQUIRED
from ensue.integrations.contract import Integration, members_of
from ensue.integrations.inbound.consumer import consumer_mark
from ensue.integrations.inbound.webhook import webhook_mark
from ensue.integrations.settings.conversion import describe, optional
from ensue.integrations.settings.environment import HIDDEN, UNSET, EnvSetting, Setting, shown
from ensue.schema.written.names import described

if TYPE_CHECKING:
    from ensue.app import App, AppRun

_MEMORY: Final = "sqlite:///:memory:"
MISSING: Final = "missing"
WRONG: Final = "wrong"


class SettingFact(msgspec.Struct, frozen=True):
    """One setting: `value` as it may be shown, `origin` `"given"`, `"environment"`, `"default"`, `"missing"`, or `"wrong"`
    for what the environment says and can't be read.
    """

    name: str
    type: str
    value: str | None
    origin: str
    variable: str | None


class HealthFact(msgspec.Struct, frozen=True):
    """How an integration is; `up` is None if it wasn't asked, and `detail` says why."""

    up: bool | None
    detail: str


class IntegrationFact(msgspec.Struct, frozen=True, kw_only=True):
    """One integration. Each capability is a mapping of what can be said of it, by name."""

    namespace: str
    class_name: str
    description: str
    health: HealthFact
    settings: list[SettingFact]
    side_effects: dict[str, dict[str, Any]]
    apis: dict[str, dict[str, Any]]
    webhooks: dict[str, dict[str, Any]]
    consumers: dict[str, dict[str, Any]]
    tasks: dict[str, dict[str, Any]]

    @property
    def well(self) -> bool:
        """Nothing is missing or wrong, and it is not down."""
        return self.health.up is not False and not any(item.origin in (MISSING, WRONG) for item in self.settings)


async def gather(app: App, *, ask: bool) -> list[IntegrationFact]:
    """The facts of all integrations of `app`, in order; with `ask` they are set up for a moment to be asked how they are.

    That happens on an empty database in memory.
    """
    async with app.run(deliver=False, setup=False, database=_MEMORY) as run:
        facts = [_fact(run, namespace, HealthFact(None, "not asked")) for namespace in run.integrations.members]
    if not ask:
        return facts
    lacking = sorted(
        {item.variable or item.name for fact in facts for item in fact.settings if item.origin in (MISSING, WRONG)}
    )
    if lacking:
        return _with_health(facts, HealthFact(None, f"not asked: {', '.join(lacking)} must be set first"))
    async with AsyncExitStack() as stack:
        try:
            run = await stack.enter_async_context(app.run(deliver=False, database=_MEMORY))
        except Exception as failure:  # noqa: BLE001 - whatever a setup raises is what is to be told
            return _with_health(facts, HealthFact(False, _of_setup(failure)))
        health = await run.health()
        return [
            _fact(run, namespace, HealthFact(health[namespace].up, health[namespace].detail))
            for namespace in run.integrations.members
        ]


def _with_health(facts: list[IntegrationFact], health: HealthFact) -> list[IntegrationFact]:
    return [msgspec.structs.replace(fact, health=health) for fact in facts]


def _of_setup(failure: Exception) -> str:
    notes = " ".join(getattr(failure, "__notes__", []))
    said = str(failure) if isinstance(failure, EnsueError) else f"{type(failure).__name__}: {failure}"
    return f"setting up failed: {'. '.join(filter(None, (said.rstrip('.'), notes)))}"


def _fact(run: AppRun, namespace: str, health: HealthFact) -> IntegrationFact:
    integration = run.integrations.members[namespace]
    return IntegrationFact(
        namespace=namespace,
        class_name=f"{type(integration).__module__}.{type(integration).__qualname__}",
        description=described(type(integration), Integration).partition("\n")[0],
        health=health,
        settings=[*_settings(integration), *_embedded(integration)],
        side_effects=_side_effects(run, namespace),
        apis={
            name: {
                "path": f"/api/integrations/{namespace}/{name}",
                "parameters": {item.name: _type(item.type, item.default) for item in api.parameters},
                "anonymous": api.allow_anonymous,
            }
            for name, api in run.apis.get(namespace, {}).items()
        },
        webhooks={
            hook.name: {
                "path": f"/api/webhooks/{namespace}/{hook.path}",
                "verified_by": type(hook.options.verify).__name__,
                "deferred": hook.options.defer,
            }
            for owner, hook in run.inbox.endpoints.webhooks.values()
            if owner == namespace
        },
        consumers={
            consumer.name: {
                "from": type(consumer.place).__name__.removesuffix("Place").lower(),
                **_place(consumer.place),
            }
            for owner, consumer in run.inbox.endpoints.consumers.values()
            if owner == namespace
        },
        tasks=_tasks(run, integration),
    )


def _settings(integration: Integration) -> Iterator[SettingFact]:
    resolved = integration.__ensue_state__.resolved
    for name, setting in integration.__ensue_settings__.items():
        value = vars(integration).get(name, UNSET)
        if value is UNSET:
            origin = WRONG if setting.variable and os.environ.get(setting.variable) else MISSING
        elif name not in resolved:
            origin = "given"
        else:
            origin = "environment" if setting.variable and os.environ.get(setting.variable) else "default"
        text = None if value is UNSET else _shown(setting, value)
        yield SettingFact(name, describe(_annotation(setting)), text, origin, setting.variable)


def _shown(setting: Setting, value: object) -> str:
    return value.__name__ if isinstance(value, type) else shown(setting, value)


def _annotation(setting: Setting) -> Any:
    try:
        return setting.type()
    except Exception:  # noqa: BLE001 - reported by every start; here the text will do
        return setting.annotation


def _embedded(integration: Integration) -> Iterator[SettingFact]:
    """Settings that stand in a declaration, such as a webhook's secret: all are shown as hidden."""
    own = {item.variable for item in integration.__ensue_settings__.values()}
    for name, function in members_of(type(integration)):
        mark = webhook_mark(function) or consumer_mark(function)
        for place, setting in _env_settings(mark, ""):
            if setting.variable in own:
                continue
            known = os.environ.get(setting.variable)
            origin = "environment" if known else MISSING if setting.default is UNSET else "default"
            yield SettingFact(f"{name}.{place}", "str", None if origin == MISSING else HIDDEN, origin, setting.variable)


def _env_settings(value: Any, place: str) -> Iterator[tuple[str, EnvSetting]]:
    if isinstance(value, EnvSetting):
        yield place, value
    elif isinstance(value, (list, tuple)):
        for item in cast("list[Any]", value):
            yield from _env_settings(item, place)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for item in dataclasses.fields(value):
            yield from _env_settings(getattr(value, item.name), item.name)


def _side_effects(run: AppRun, namespace: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, effect in run.model.effects.items():
        if name.partition(".")[0] == namespace:
            target = effect.options.get("target")
            found[name] = {
                "record": effect.record,
                "on": sorted(effect.on),
                "delivery": "durable" if effect.durable else "after_commit",
                "ordered": effect.order_by is not None,
                "target": name if target is None else target.name,
            }
    return found


def _tasks(run: AppRun, integration: Integration) -> dict[str, dict[str, Any]]:
    from ensue.integrations.tasks.integration import TaskIntegration

    if not isinstance(integration, TaskIntegration):
        return {}
    return {
        name: {
            "first_poll_seconds": integration.expected_seconds,
            "last_poll_seconds": integration.poll_seconds_max,
            "deadline": str(integration.deadline),
        }
        for name, record in run.model.records.items()
        if issubclass(record.cls, integration.tasks)
    }


def _place(place: Any) -> Mapping[str, Any]:
    return {item.name: getattr(place, item.name) for item in dataclasses.fields(place) if getattr(place, item.name)}


def _type(kind: Any, default: object) -> str:
    text = describe(kind)
    return text if default is REQUIRED or optional(kind) else f"{text} = {default!r}"
