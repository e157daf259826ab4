"""Where effects meet integrations: each side effect of a model as a target of delivery.

Decides how a row of the effect table becomes the `Effect` that an integration's function is called with. Leaves when
and how often to `ensue.effects`, and the payload's form to `engine.payload`. Invariant: a side effect is called with
the event as it was when it was caused, however late.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import msgspec

from ensue.clock import Clock
from ensue.effects.deliver import Delivery, Watch
from ensue.effects.heartbeat import Rhythm
from ensue.effects.target import EffectRow, Handling
from ensue.engine.controller import Controller
from ensue.engine.enqueuing.collect import INITIAL_EFFECT, AfterCommit
from ensue.engine.payload import decode_payload
from ensue.integrations.contract import Integration
from ensue.integrations.relay.hand_over import HandOver
from ensue.schema.delivery import Nats, Receipt
from ensue.schema.effect import Effect
from ensue.schema.model import EffectModel, Model
from ensue.schema.passes.effects import OF_DELIVERY
from ensue.store.driver import Driver
from ensue.store.url import open_driver, parse_database_url
from ensue.telemetry import Telemetry

BEAT_SHARE = 0.27
"""How much of a lease passes between two renewals: three fit in."""


def delivery_of(
    controller: Controller,
    driver: Driver,
    *,
    clock: Clock,
    worker_name: str,
    lease_seconds: float,
    database: str,
    watch: Watch | None = None,
    hand_over: HandOver | None = None,
) -> Delivery:
    """The delivery of everything that the controller's app has side effects for, not started.

    ``database`` is the URL that `driver` is for. Effects with a relay are given to it by `hand_over`.
    """
    model = controller.model
    targets = {name: target_of(model, effect) for name, effect in model.effects.items()}
    for name, effect in model.effects.items():
        relay = relay_of(effect)
        if relay is not None and hand_over is not None:
            targets[name] = replace(targets[name], handler=hand_over.handler(relay), batch=None, verify=None)
    if controller.awaits_initials:
        targets[INITIAL_EFFECT] = Handling(_initial_handler(controller))
    telemetry = controller.engine.telemetry
    return Delivery(
        driver,
        {name: observed(name, handling, telemetry) for name, handling in targets.items()},
        clock=clock,
        worker_name=worker_name,
        rhythm=Rhythm(lease_seconds, lease_seconds * BEAT_SHARE),
        heartbeat_driver=_heartbeat_driver(database),
        watch=watch,
    )


def observed(name: str, handling: Handling, telemetry: Telemetry) -> Handling:
    """The same, with each call told of while it lasts."""
    handler, verify = handling.handler, handling.verify

    async def handle(given: EffectRow | list[EffectRow]) -> object:
        with telemetry.attempt(name, given if isinstance(given, list) else [given]) as activity:
            answer = await handler(given)
            if isinstance(answer, Receipt):
                activity.note(provider_id=answer.provider_id)
            return answer

    async def ask(row: EffectRow) -> object:
        assert verify is not None
        with telemetry.attempt(name, [row]) as activity:
            activity.note(verified=True)
            return await verify(row)

    return replace(handling, handler=handle, verify=None if verify is None else ask)


def relay_of(declared: EffectModel) -> Nats | None:
    """Where the effect is handed to, if it has a relay."""
    relay: Nats | Callable[[], Nats] | None = declared.options["relay"]
    return relay if relay is None or isinstance(relay, Nats) else relay()


def relays_of(model: Model) -> list[Nats]:
    """The relays that effects of the app go through."""
    found = [relay_of(effect) for effect in model.effects.values()]
    return list(dict.fromkeys(relay for relay in found if relay is not None))


def _initial_handler(controller: Controller) -> Callable[[EffectRow], Awaitable[None]]:
    async def handle(row: EffectRow) -> None:
        field = msgspec.json.decode(row.payload)["field"]
        await controller.compute_initial(row.record, row.record_id, field)

    return handle


def target_of(model: Model, declared: EffectModel) -> Handling:
    """What is called for one side effect, and its limits."""
    options = declared.options
    batch, verify = options["batch"], options["verify"]

    def effect(row: EffectRow) -> Effect[Any]:
        event = decode_payload(model, row.payload)
        # Every call counts here; `max_attempts` counts only some of them.
        return Effect(event, event.record, row.key, max(row.attempt, row.failures + 1))

    async def handle(row: EffectRow) -> object:
        return await declared.content(effect(row))

    async def handle_batch(rows: list[EffectRow]) -> object:
        return await declared.content([effect(row) for row in rows])

    async def ask(row: EffectRow) -> object:
        return await verify(effect(row))

    # What decides is what an integration says of its own errors; a plain function says nothing.
    integration: object = getattr(declared.content, "__self__", None)
    passed = {name: options[name] for name in _PASSED}
    return Handling(
        handle if batch is None else handle_batch,
        ordered=declared.order_by is not None,
        verify=None if verify is None else ask,
        classify=integration.classify if isinstance(integration, Integration) else None,
        **passed,
    )


# A function to ask is made for its rows; a relay takes the place of the function to call.
_PASSED = tuple(name for name in OF_DELIVERY if name not in ("verify", "relay"))


def after_commit_row(model: Model, effect: AfterCommit) -> EffectRow:
    """The row that an effect with `delivery="after_commit"` would have, if it were in the table."""
    event = decode_payload(model, effect.payload)
    return EffectRow(0, effect.name, effect.key, event.record_name, event.record.id, effect.payload, trace=effect.trace)


def _heartbeat_driver(database: str) -> Callable[[], Driver] | None:
    url = parse_database_url(database)
    # A database in memory has no second way in; nobody else can take a lease of its either.
    return None if url.in_memory else lambda: open_driver(url)
