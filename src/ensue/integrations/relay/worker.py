"""A worker of relayed effects: takes messages, calls side effects, acknowledges; it has no database.

Decides what becomes of a message by the same rules as delivery from the table (`effects.retry`), and how leases are kept
alive. Leaves the broker to `nats_stream`. Invariants: a message is acknowledged after its function succeeded, or after it
was stored among the dead; never before. An outage of the broker or of the other side uses up no attempt, nor does a
shutdown; attempts are counted in the broker, so that all workers agree.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from random import Random
from typing import Any, Final, Literal

from ensue.background import end_tasks
from ensue.clock import Clock
from ensue.effects.flights import judged
from ensue.effects.observe import DeliveryEvent
from ensue.effects.retry import Circumstances, Failure, decide, describe
from ensue.effects.target import EffectRow, Handling
from ensue.errors import InternalError, Unavailable
from ensue.integrations.relay.message import from_message
from ensue.integrations.relay.nats_stream import MESSAGE_ID, JetStream, connect_relay
from ensue.integrations.running.targets import observed
from ensue.schema.delivery import LEASE_SECONDS, Nats, Receipt
from ensue.telemetry import Switchboard

logger = logging.getLogger("ensue.relay")

BEATS_PER_LEASE: Final = 4
FIRST_PAUSE_SECONDS: Final = 0.5
RECONNECT_SECONDS_MAX: Final = 10.0
CANCEL_SECONDS_MAX: Final = 5.0


class RelayWorker:
    """Calls the relayed side effects `targets`, by qualified name, whose messages come through `nats`.

        worker = RelayWorker(nats, targets, clock=clock)
        await worker.start()
        ...
        await worker.stop(grace_seconds=15)

    Any number of processes may do so, anywhere.
    """

    def __init__(
        self,
        nats: Nats,
        targets: Mapping[str, Handling],
        *,
        clock: Clock,
        lease_seconds: float = LEASE_SECONDS,
        rng: Random | None = None,
        telemetry: Switchboard | None = None,
    ) -> None:
        self._nats = nats
        self._telemetry = telemetry or Switchboard()
        self._targets = {name: observed(name, handling, self._telemetry) for name, handling in targets.items()}
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._rng = rng or Random()
        self._stopping = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._calls: set[asyncio.Task[None]] = set()
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Begin; waits for the first connection for as long as that takes."""
        relay = await self._connected()
        self._loops = [
            asyncio.create_task(self._take(relay, name, target), name=f"ensue.relay.{name}")
            for name, target in self._targets.items()
        ]

    async def stop(self, grace_seconds: float = 15.0) -> None:
        """Take nothing more, let functions run for `grace_seconds`, then cancel them: others get their messages at once."""
        self._stopping.set()
        await end_tasks(*self._loops)
        if self._calls:
            await asyncio.wait(self._calls, timeout=max(grace_seconds, 0.001))
        for call in self._calls:
            call.cancel()
        if self._calls:
            await asyncio.wait(self._calls, timeout=CANCEL_SECONDS_MAX)
        await self._stack.aclose()

    async def _connected(self) -> JetStream:
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self._stack.enter_async_context(connect_relay(self._nats))
            except Unavailable as error:
                logger.warning("the relay's worker has no connection yet, next try in %.1f s: %s", pause, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, RECONNECT_SECONDS_MAX)

    # --- Taking -------------------------------------------------------------------------------------------------------

    async def _take(self, relay: JetStream, name: str, target: Handling) -> None:
        """Keep as many calls of one effect going as its concurrency allows."""
        places = asyncio.Semaphore(target.concurrency)
        subscription: Any = None
        pause = FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            await places.acquire()
            free = 1
            while free < target.concurrency and not places.locked():
                await places.acquire()
                free += 1
            messages: tuple[Any, ...] = ()
            try:
                if subscription is None:
                    subscription = await relay.subscribe(
                        name, lease_seconds=self._lease_seconds, at_once=target.concurrency
                    )
                messages = tuple(await relay.fetch(subscription, free))
                pause = FIRST_PAUSE_SECONDS
            except Exception as error:
                # Whatever it is: nobody else takes this effect in this process.
                defect = None if isinstance(error, Unavailable) else error
                text = "effects of %s can't be taken from the relay, next try in %.1f s: %s"
                logger.warning(text, name, pause, error, exc_info=defect)
                subscription = None
                await asyncio.sleep(pause)
                pause = min(pause * 2, RECONNECT_SECONDS_MAX)
            finally:
                for _ in range(free - len(messages)):
                    places.release()
            for message in messages:
                call = asyncio.create_task(self._call(relay, message, target), name=f"ensue.relay.{name}")
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)
                call.add_done_callback(lambda _: places.release())

    # --- One message --------------------------------------------------------------------------------------------------

    async def _call(self, relay: JetStream, message: Any, target: Handling) -> None:
        beat = asyncio.create_task(self._keep(message))
        try:
            await self._attempt(relay, message, target)
        except Unavailable as error:
            # Not acknowledged: the broker gives it to somebody once the lease ends.
            logger.warning("a relayed effect is left to be redelivered: %s", error)
        except asyncio.CancelledError:
            with suppress(Exception):  # the lease would end as well, only later
                await message.nak()
            raise
        except Exception:
            logger.exception("a relayed effect could not be handled; it is redelivered")
        finally:
            await end_tasks(beat)

    async def _attempt(self, relay: JetStream, message: Any, target: Handling) -> None:
        redelivered = message.metadata.num_delivered > 1
        try:
            row = from_message(message.data, attempt=1)
        except InternalError as error:
            await relay.bury("unreadable", message.headers[MESSAGE_ID], message.data, error=("bug", str(error)))
            await message.ack_sync()
            logger.error("%s It is among the dead now.", error)
            return
        if redelivered:
            row = from_message(message.data, attempt=1 + await relay.attempts(row.key))
        began = self._clock.monotonic_seconds()
        self._tell("claimed", row, target)
        try:
            end = await self._deliver(relay, message, row, target)
        except BaseException:
            self._tell("lost", row, target)
            raise
        self._tell("ended", row, target, seconds=self._clock.monotonic_seconds() - began, **end)

    async def _deliver(self, relay: JetStream, message: Any, row: EffectRow, target: Handling) -> dict[str, Any]:
        """Call, and have the broker know how it ended; what is told of the end."""
        try:
            async with asyncio.timeout(target.timeout_seconds):
                answer = await target.handler(row if target.batch is None else [row])
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                raise
            # Whatever was raised: a message that only goes back is given to one worker after the other, and ends them all.
            failure = judged(error, target)
            state = await self._failed(relay, message, row, failure=failure, target=target)
            # Not SystemExit, which functions made for the command line raise.
            if isinstance(error, KeyboardInterrupt):
                raise
            return {"state": state, "error_class": failure.kind}
        await message.ack_sync()
        if message.metadata.num_delivered > 1:
            await relay.forget_attempts(row.key)
        return {"state": "done", "provider_id": answer.provider_id if isinstance(answer, Receipt) else None}

    def _tell(self, kind: Literal["claimed", "ended", "lost"], row: EffectRow, target: Handling, **more: Any) -> None:
        if self._telemetry.listening:
            if kind == "claimed" and row.enqueued_at is not None:
                more["seconds"] = max(0.0, (self._clock.now() - row.enqueued_at).total_seconds())
            self._telemetry.told(DeliveryEvent(kind, row, target.target_name(row.name), **more))

    async def _failed(
        self, relay: JetStream, message: Any, row: EffectRow, *, failure: Failure, target: Handling
    ) -> str:
        """Write the failure down; the state that the effect came to."""
        age = self._clock.now() - row.enqueued_at if row.enqueued_at is not None else target.retry.max_age
        now = Circumstances(attempts=row.attempt, age=age, failures=row.attempt - 1)
        verdict = decide(failure, target, now, self._rng)
        if verdict.transition == "bury" or verdict.delay_seconds is None:
            await relay.bury(row.name, message.headers[MESSAGE_ID], message.data, error=(failure.kind, failure.message))
            await message.ack_sync()
            logger.error("relayed effect %s (%s) is dead: %s", row.name, row.key, failure.message, extra=_fields(row))
            return "dead"
        if verdict.transition == "retry":
            await relay.note_attempts(row.key, row.attempt)
        logger.warning(
            "relayed effect %s (%s) failed (%s), next attempt in %.1f s: %s",
            *(row.name, row.key, failure.kind, verdict.delay_seconds, failure.message),
            extra=_fields(row),
        )
        await message.nak(delay=max(verdict.delay_seconds, 0.001))
        return "retry_wait"

    async def _keep(self, message: Any) -> None:
        """Tell the broker that the message is being worked on, well before its lease ends."""
        while True:
            await asyncio.sleep(self._lease_seconds / BEATS_PER_LEASE)
            try:
                await message.in_progress()
            except Exception as error:  # noqa: BLE001 - the next beat may get through; else the lease ends
                logger.warning("the lease of a relayed effect could not be renewed: %s", describe(error))


def _is_cancelled() -> bool:
    """Whether the call is being cancelled; else its function has cancelled itself, by a scope of its own that leaked."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _fields(row: EffectRow) -> dict[str, Any]:
    return {"effect_id": row.id, "effect_name": row.name, "effect_key": row.key, "effect_attempt": row.attempt}
