"""What no worker of a relay could deliver comes back to the table of effects, as dead, with its error.

Decides how often the broker is asked and what happens while it or the database is gone: it is asked again. Leaves the
change of state to `effects.ledger`. Invariant: a message is acknowledged after the table says so, never before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Any, Final

from ensue.background import end_tasks
from ensue.clock import to_micros
from ensue.effects.ledger import Returned, return_effects
from ensue.errors import InternalError, Unavailable
from ensue.integrations.relay.message import from_message
from ensue.integrations.relay.nats_stream import HEADER_CLASS, HEADER_TEXT, connect_relay
from ensue.schema.delivery import LEASE_SECONDS, Nats
from ensue.store.driver import Driver

logger = logging.getLogger("ensue.relay")

AT_ONCE: Final = 100
EARLY_SECONDS: Final = 1.0
PAUSE_SECONDS_MAX: Final = 30.0


class Returning:
    """Watches the dead of `relays` for the app whose database is behind `driver`; `start` and `stop`."""

    def __init__(self, relays: Iterable[Nats], driver: Driver) -> None:
        self._relays = tuple(dict.fromkeys(relays))
        self._driver = driver
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin. The broker need not answer yet."""
        self._tasks = [
            asyncio.create_task(self._watch(relay), name=f"ensue.relay.dead.{relay.stream}") for relay in self._relays
        ]

    async def stop(self) -> None:
        """What was not acknowledged comes again."""
        await end_tasks(*self._tasks)

    async def _watch(self, relay: Nats) -> None:
        pause = 1.0
        while True:
            try:
                async with connect_relay(relay) as connected:
                    dead = await connected.subscribe_dead(lease_seconds=LEASE_SECONDS)
                    while True:
                        await self._take_back(await connected.fetch(dead, AT_ONCE))
                        pause = 1.0
            except Unavailable as error:
                logger.warning(
                    "the dead of the relay %s can't be asked for, next try in %.0f s: %s", relay.stream, pause, error
                )
            except Exception:
                logger.exception("the dead of the relay %s could not be taken back; it is tried again", relay.stream)
            await asyncio.sleep(pause)
            pause = min(pause * 2, PAUSE_SECONDS_MAX)

    async def _take_back(self, messages: Sequence[Any]) -> None:
        if not messages:
            return
        found = [_returned(message) for message in messages]
        settled, early = await return_effects(self._driver, [item for item in found if item is not None])
        for message, item in zip(messages, found, strict=True):
            if item is not None and item.key in early:
                # A worker may be quicker than the note that it was handed over, and whoever was to make it may be gone.
                await message.nak(delay=EARLY_SECONDS)
            else:
                await message.ack_sync()
        for item in found:
            if item is not None and item.key in settled:
                logger.error(
                    "relayed effect %s is dead; `ensue effects retry` hands it over anew: %s", item.key, item.error
                )


def _returned(message: Any) -> Returned | None:
    headers: dict[str, str] = dict(message.headers or {})
    try:
        row = from_message(message.data, attempt=1)
    except InternalError as error:
        logger.error("A message among the dead of the relay is no effect and is dropped: %s", error)
        return None
    at = 0 if row.enqueued_at is None else to_micros(row.enqueued_at)
    return Returned(row.key, at, headers.get(HEADER_CLASS, "transient"), headers.get(HEADER_TEXT, ""))
