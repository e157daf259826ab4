"""`ensue worker module:app --from nats://…`: call the side effects that were handed to a relay, without a database.

Decides which effects it serves: all whose declaration has `relay=`. Leaves taking and calling to `integrations.relay`.
Invariant: no database is opened, and integrations are set up with a controller that refuses what needs one.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, cast

from ensue.app import App, AppRun, RunOptions
from ensue.effects.target import Handling
from ensue.errors import UsageError
from ensue.integrations.relay.detached import DetachedController
from ensue.integrations.relay.worker import RelayWorker
from ensue.integrations.running.targets import relay_of, target_of
from ensue.schema.delivery import LEASE_SECONDS, Nats


class RelayedRun(AppRun):
    """A run of `app` that only calls relayed effects, whose messages it takes from the broker at `url`.

        async with RelayedRun(app, "nats://broker:4222"): ...

    Raises `UsageError` if the app has no side effect with a relay.
    """

    def __init__(
        self, app: App, url: str, *, options: RunOptions | None = None, lease_seconds: float = LEASE_SECONDS
    ) -> None:
        super().__init__(app, options or RunOptions(worker_name="relay worker"))
        self._url = url
        self._lease_seconds = lease_seconds

    async def _open(self, stack: AsyncExitStack) -> None:
        """No database."""

    async def _connect(self, stack: AsyncExitStack) -> None:
        targets = self._targets()
        await self.integrations.setup(cast("Any", DetachedController(self.model)))
        stack.push_async_callback(self.integrations.cleanup)
        for nats, served in targets.items():
            worker = RelayWorker(
                nats, served, clock=self.clock, lease_seconds=self._lease_seconds, telemetry=self.telemetry
            )
            await worker.start()
            stack.push_async_callback(worker.stop, self.options.grace_seconds)

    def _targets(self) -> dict[Nats, dict[str, Handling]]:
        found: dict[Nats, dict[str, Handling]] = {}
        for name, effect in self.model.effects.items():
            relay = relay_of(effect)
            if relay is not None:
                found.setdefault(replace(relay, url=self._url), {})[name] = target_of(self.model, effect)
        if not found:
            raise UsageError(
                "This app hands no effect to a relay, so that there is nothing to take from one. Declare "
                "`@side_effect(…, relay=Nats(…))`, or run `ensue worker` without --from."
            )
        return found
