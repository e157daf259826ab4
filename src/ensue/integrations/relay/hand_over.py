"""Handing effects over: in place of the side effect's function, its message is stored in the relay's stream.

Decides when connections are made and closed: at the first effect, and with the run. Invariant: the effect is settled as
done only after the stream has stored it.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace

from ensue.clock import Clock
from ensue.effects.target import EffectRow, Handler
from ensue.errors import Unavailable
from ensue.integrations.relay.message import message_id, to_message
from ensue.integrations.relay.nats_stream import JetStream, connect_relay
from ensue.schema.delivery import Nats, Receipt
from ensue.telemetry import Telemetry


class HandOver:
    """The connections of one run, one for each relay; `close` ends them."""

    def __init__(self, clock: Clock, telemetry: Telemetry) -> None:
        self._clock = clock
        self._telemetry = telemetry
        self._stack = AsyncExitStack()
        self._relays: dict[Nats, JetStream] = {}
        self._opening = asyncio.Lock()

    def handler(self, nats: Nats) -> Handler:
        """What is called for each effect that goes through `nats`."""

        async def hand_over(row: EffectRow) -> Receipt:
            relay = await self._relay(nats)
            row = replace(row, trace=self._telemetry.traceparent() or row.trace)
            place = await relay.publish(row.name, message_id(row), to_message(row, self._clock.now()))
            return Receipt(provider_id=place, note="handed to the relay")

        return hand_over

    async def _relay(self, nats: Nats) -> JetStream:
        async with self._opening:
            if nats not in self._relays:
                self._relays[nats] = await self._stack.enter_async_context(connect_relay(nats))
            return self._relays[nats]

    async def close(self) -> None:
        """Disconnect."""
        try:
            await self._stack.aclose()
        except Unavailable:
            # There is nobody to say goodbye to.
            return
