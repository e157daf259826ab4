"""Handle messages that are stored and not handled: deferred ones, replayed ones, and those whose process died.

Decides when to look and what follows a failure. Leaves the lease to `effects.inbox`. Invariants: any number of processes
may do so, and a message is handled by whoever holds its lease in the transaction that closes it; the loop outlives every
outage of the database and ends only by `stop`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from ensue.background import end_tasks
from ensue.effects.inbox import LeasedMessage, close_leased, lease_due, release_leased, waiting
from ensue.effects.retry import describe
from ensue.engine.receive import Arrival
from ensue.errors import Unavailable
from ensue.integrations.inbound.handling import Handling, inbound_of, log_failure
from ensue.integrations.inbound.webhook import TIMEOUT_SECONDS_MAX
from ensue.store.inbox_table import StoredMessage

if TYPE_CHECKING:
    from ensue.engine.controller import Controller
    from ensue.store.driver import Driver

logger = logging.getLogger("ensue.inbound")

POLL_SECONDS: Final = 5.0
LEASE: Final = timedelta(seconds=TIMEOUT_SECONDS_MAX + 30)
ATTEMPTS_MAX: Final = 10
STEP_SECONDS_MAX: Final = 600.0
AT_ONCE: Final = 8


class Reconciler:
    """The loop of one process over the stored messages of its app's endpoints."""

    def __init__(
        self,
        controller: Controller,
        driver: Driver,
        handling: Handling,
        *,
        endpoints: Sequence[str],
        rng: Random | None = None,
    ) -> None:
        self._controller = controller
        self._driver = driver
        self._handling = handling
        self._endpoints = sorted(endpoints)
        self._rng = rng or Random()
        self._woken = asyncio.Event()
        self._stopping = False
        self._loop_task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._loop_task = asyncio.create_task(self._loop(), name="ensue.inbound.reconcile")

    def wake(self) -> None:
        """This process stored a message: look now."""
        self._woken.set()

    async def stop(self, grace_seconds: float) -> None:
        """Lease no more; what runs has `grace_seconds`, then it is cancelled and given back when its lease ends."""
        self._stopping = True
        self._woken.set()
        if self._loop_task is not None:
            await asyncio.wait([self._loop_task], timeout=grace_seconds)
            await end_tasks(self._loop_task)

    async def drain(self) -> int:
        """Handle everything that is due, and answer how many messages that was; for tests, and commands that end."""
        handled = 0
        while leased := await self._lease():
            handled += len(leased)
            await asyncio.gather(*map(self._handle, leased))
        return handled

    async def _loop(self) -> None:
        while not self._stopping:
            self._woken.clear()
            pause = POLL_SECONDS
            try:
                due = await self._driver.read(waiting(self._driver.dialect, self._endpoints))
                if due is not None and due <= 0:
                    leased = await self._lease()
                    await asyncio.gather(*map(self._handle, leased))
                    continue
                if due is not None:
                    pause = min(pause, due / 1_000_000)
            except Unavailable as error:
                logger.warning("stored messages wait for the database: %s", error)
            except Exception:
                logger.exception("looking for stored messages failed; it is tried again")
            with suppress(TimeoutError):
                async with asyncio.timeout(pause * self._rng.uniform(0.9, 1.0)):
                    await self._woken.wait()

    async def _lease(self) -> list[LeasedMessage]:
        dialect = self._driver.dialect
        token = uuid4().hex
        work = lease_due(dialect, self._endpoints, token=token, lease=LEASE, limit=AT_ONCE)
        return await self._driver.write(work)

    async def _handle(self, message: LeasedMessage) -> None:
        telemetry, facts = self._handling.telemetry, {"message_id": message.sender_id}
        with telemetry.activity("message", message.endpoint, carrier=message.headers, **facts) as activity:
            outcome = await self._outcome(message)
            activity.end_as(outcome)
        telemetry.count("message", message.endpoint, outcome)

    async def _outcome(self, message: LeasedMessage) -> str:
        """Handle it; in the words of telemetry what came of it."""
        stored = StoredMessage(message.endpoint, message.sender_id, message.body, message.headers)
        try:
            incoming = await self._handling.meaning(inbound_of(stored, message.received_at))
            close = Arrival(lambda tx: close_leased(tx.plan.dialect, message), incoming)
            (ours,) = await self._controller.bring_in([close])
        except Unavailable as error:
            await self._release(message, None, _step_seconds(message.attempt))
            outcome = "unavailable"
            logger.warning("message %s of %s waits: %s", message.sender_id, message.endpoint, type(error).__name__)
        except Exception as error:  # noqa: BLE001 - kept with the message, whatever it is
            log_failure(message.endpoint, message.sender_id, error)
            pause = self._rng.uniform(0, _step_seconds(message.attempt))
            await self._release(message, describe(error), pause)
            outcome = "failed"
        else:
            outcome = "handled" if ours else "known"
            if not ours:
                logger.info("message %s of %s was handled elsewhere", message.sender_id, message.endpoint)
        return outcome

    async def _release(self, message: LeasedMessage, error: str | None, seconds: float) -> None:
        failed = error is not None and message.attempt >= ATTEMPTS_MAX
        work = release_leased(
            self._driver.dialect, message, delay=timedelta(seconds=seconds), error=error, failed=failed
        )
        with suppress(Unavailable):  # then its lease ends, and it is due again
            await self._driver.write(work)


def _step_seconds(attempt: int) -> float:
    return min(STEP_SECONDS_MAX, 2.0 ** min(attempt - 1, 30))
