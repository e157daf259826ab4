"""Have an endpoint's method say what a message means, and do it, once; what fails is kept.

Decides what becomes of a message: done, known before, kept as failed. Leaves verification to whoever took the message,
and the transaction to the controller. Invariants: no answer before the commit; a message that failed is in the inbox
before anyone is told so; when the database can't be had nothing is concluded, and the error says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal

from ensue.effects.retry import describe
from ensue.engine.receive import Arrival, arrival
from ensue.errors import NotFound, Rejected, Unavailable
from ensue.integrations.inbound.endpoints import Endpoints
from ensue.integrations.inbound.message import Headers, Inbound, lookup
from ensue.schema.incoming import Incoming
from ensue.store.inbox_table import CLOSED, StoredMessage, keep_failed, message_state, store_message
from ensue.telemetry import Switchboard

if TYPE_CHECKING:
    from ensue.engine.controller import Controller
    from ensue.store.driver import Driver

logger = logging.getLogger("ensue.inbound")

Taken = Literal["done", "known", "stored"]
DONE: Final = "done"
KNOWN: Final = "known"
STORED: Final = "stored"
_FAILED: Final = "failed"


@dataclass(frozen=True, slots=True)
class Failed:
    """Handling failed, for the `attempt`-th time; the message is in the inbox as failed."""

    error: Exception
    attempt: int


class Handling:
    """Handles messages of the endpoints of one run."""

    def __init__(self, controller: Controller, driver: Driver, endpoints: Endpoints) -> None:
        self._controller = controller
        self._driver = driver
        self._endpoints = endpoints

    @property
    def telemetry(self) -> Switchboard:
        """Who is told of what is taken."""
        return self._controller.engine.telemetry

    async def take(self, message: Inbound) -> Taken | Failed:
        """Do what `message` means. Raises `Unavailable` if the database can't be had."""
        facts = {"message_id": message.id}
        with self.telemetry.activity("message", message.endpoint, carrier=message.headers, **facts) as activity:
            taken = await self._take(message)
            self._tell(message.endpoint, taken)
            activity.end_as(_FAILED if isinstance(taken, Failed) else taken)
            return taken

    def _tell(self, endpoint: str, taken: Taken | Failed) -> None:
        self.telemetry.count("message", endpoint, _FAILED if isinstance(taken, Failed) else taken)

    async def _take(self, message: Inbound) -> Taken | Failed:
        stored = stored_form(message)
        try:
            incoming = await self.meaning(message)
            (ours,) = await self._bring_in([arrival(stored, incoming)])
        except _Unreachable as error:
            raise error.unavailable from error
        except Exception as error:  # noqa: BLE001 - kept with the message, whatever it is
            return await self._failed(stored, error)
        return DONE if ours else KNOWN

    async def take_many(self, messages: Sequence[Inbound]) -> list[Taken | Failed]:
        """Several in one transaction if they all succeed, else one by one: one that fails strands no other."""
        if len(messages) > 1:
            try:
                meanings = [await self.meaning(message) for message in messages]
                arrivals = [arrival(stored_form(item), what) for item, what in zip(messages, meanings, strict=True)]
                causes = [lookup(message.headers, "traceparent") for message in messages]
                endpoint = messages[0].endpoint
                with self.telemetry.activity("message", endpoint, causes=causes, count=len(messages)):
                    taken: list[Taken | Failed] = [DONE if ours else KNOWN for ours in await self._bring_in(arrivals)]
                for one in taken:
                    self._tell(endpoint, one)
                return taken
            except _Unreachable as error:
                raise error.unavailable from error
            except Exception as error:  # noqa: BLE001 - found again below, with the message that it belongs to
                logger.info("a batch of %d messages is handled one by one: %s", len(messages), type(error).__name__)
        return [await self.take(message) for message in messages]

    async def store(self, message: Inbound) -> Taken:
        """Keep `message`, to be handled afterwards by any process of the app."""
        stored = stored_form(message)
        ours = await self._driver.write(store_message(self._driver.dialect, stored))
        taken: Taken = STORED if ours else KNOWN
        self._tell(message.endpoint, taken)
        return taken

    async def refuse(self, message: Inbound, error: Exception) -> Taken | Failed:
        """Keep `message` as failed without asking what it means."""
        taken = await self._failed(stored_form(message), error)
        self._tell(message.endpoint, taken)
        return taken

    async def meaning(self, message: Inbound) -> Incoming:
        """What the endpoint's method makes of `message`."""
        function = self._endpoints.function(message.endpoint)
        assert function is not None
        async with asyncio.timeout(self._endpoints.timeout_seconds(message.endpoint)):
            return await function(message)

    async def _bring_in(self, arrivals: Sequence[Arrival]) -> list[bool]:
        try:
            return await self._controller.bring_in(arrivals)
        except Unavailable as error:
            raise _Unreachable(error) from error

    async def _failed(self, stored: StoredMessage, error: Exception) -> Taken | Failed:
        state = await self._driver.read(message_state(self._driver.dialect, stored))
        if state in CLOSED:
            # A repeat of what was done: that it can't be done again is no failure.
            return KNOWN
        attempt = await self._driver.write(keep_failed(self._driver.dialect, stored, describe(error)))
        if attempt is None:
            return KNOWN
        log_failure(stored.endpoint, stored.sender_id, error)
        return Failed(error, attempt)


class _Unreachable(Exception):
    """The database can't be had; told apart from an `Unavailable` that a method raised, which is that message's failure."""

    def __init__(self, unavailable: Unavailable) -> None:
        super().__init__(str(unavailable))
        self.unavailable = unavailable


def stored_form(message: Inbound) -> StoredMessage:
    """`message` as the inbox keeps it: without credentials among its headers."""
    headers = message.headers if isinstance(message.headers, Headers) else Headers(message.headers)
    return StoredMessage(message.endpoint, message.id, message.body, headers.kept())


def inbound_of(stored: StoredMessage, received_at: datetime) -> Inbound:
    """A stored message as its endpoint gets it."""
    return Inbound(stored.sender_id, stored.body, Headers(stored.headers), received_at, stored.endpoint)


def log_failure(endpoint: str, sender_id: str, error: Exception) -> None:
    """Log that handling failed; with a traceback if that looks like a defect of the application."""
    expected = isinstance(error, Rejected | NotFound | Unavailable | TimeoutError)
    logger.warning(
        "message %s of %s could not be handled (%s)",
        sender_id,
        endpoint,
        type(error).__name__,
        exc_info=None if expected else error,
    )
