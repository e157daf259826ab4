"""What comes in from outside in one run of an app: endpoints, consumers and the loop over stored messages, together.

Decides the order in which they start and stop, and what a webhook's sender is told. Invariant: a message is verified
before anything else is done with it, and told to be taken only after the commit that keeps it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ensue.clock import Clock
from ensue.errors import Rejected, UsageError
from ensue.integrations.contract import Health
from ensue.integrations.inbound.endpoints import Endpoints
from ensue.integrations.inbound.handling import Failed, Handling, Taken
from ensue.integrations.inbound.message import Headers, Inbound
from ensue.integrations.inbound.reconcile import Reconciler

if TYPE_CHECKING:
    from ensue.engine.controller import Controller
    from ensue.integrations.inbound.consuming.run import Consuming
    from ensue.store.driver import Driver


class Inbox:
    """`run.inbox`: takes webhooks, runs consumers, and handles what is stored."""

    def __init__(self, controller: Controller, driver: Driver, endpoints: Endpoints, *, clock: Clock) -> None:
        self.endpoints = endpoints
        self.handling = Handling(controller, driver, endpoints)
        self._clock = clock
        self._reconciler = Reconciler(
            controller, driver, self.handling, endpoints=[*endpoints.webhooks, *endpoints.consumers]
        )
        self._consuming: list[Consuming] = []
        self._runs = False

    async def start(self) -> None:
        """Begin to consume and to look for stored messages; brokers need not answer yet.

        Raises `UsageError` if the client of a broker is not installed.
        """
        if not len(self.endpoints):
            return
        if self.endpoints.consumers:
            from ensue.integrations.inbound.consuming.run import consuming_of

            self._consuming = [
                consuming_of(name, namespace, consumer, handling=self.handling, clock=self._clock)
                for name, (namespace, consumer) in self.endpoints.consumers.items()
            ]
        self._runs = True
        self._reconciler.start()
        for consuming in self._consuming:
            consuming.start()

    async def stop(self, grace_seconds: float) -> None:
        """Take nothing more; what is being handled has `grace_seconds`. Ends within a few seconds more, peers dead or not."""
        if not self._runs:
            return
        self._runs = False
        await asyncio.gather(
            self._reconciler.stop(grace_seconds), *(consuming.stop(grace_seconds) for consuming in self._consuming)
        )

    async def take_webhook(self, endpoint: str, body: bytes, headers: Mapping[str, str]) -> Taken | Failed:
        """Verify a message to the webhook `endpoint` and handle or store it.

        Raises `Rejected` (`bad_signature`, `malformed`) if it can't be verified, and `Unavailable`.
        """
        _, found = self.endpoints.webhooks[endpoint]
        given = Headers(headers)
        now = self._clock.now()
        try:
            sender_id = found.options.verify.verify(body, given, now)
        except Rejected:
            self.handling.telemetry.count("message", endpoint, "refused")
            raise
        if not isinstance(sender_id, str) or not sender_id:  # pyright: ignore[reportUnnecessaryIsInstance]
            # Kept under no id, all its messages would be one.
            raise UsageError(
                f"The verifier {type(found.options.verify).__name__} of {endpoint} gave {sender_id!r}; expected the sender's "
                "id of the message, as text that is not empty."
            )
        message = Inbound(sender_id, body, given, now, endpoint)
        if not found.options.defer:
            return await self.handling.take(message)
        taken = await self.handling.store(message)
        self._reconciler.wake()
        return taken

    async def take_message(
        self, endpoint: str, id: str, body: bytes, *, headers: Mapping[str, str] | None = None
    ) -> Taken | Failed:
        """Handle a message as if the consumer (or webhook) `endpoint` had been given it, verified; for tests.

        >>> await run.inbox.take_message("shop.paid", "m1", b'{"order": 7}')
        """
        return await self.handling.take(Inbound(id, body, Headers(headers), self._clock.now(), endpoint))

    async def drain(self) -> int:
        """Handle every stored message that is due; for tests. Answers how many there were."""
        return await self._reconciler.drain() if len(self.endpoints) else 0

    def health(self) -> dict[str, Health]:
        """By namespace, that of consumers which are not up."""
        return {item.namespace: item.health for item in self._consuming if not item.health.up}
