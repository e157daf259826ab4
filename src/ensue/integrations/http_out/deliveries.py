"""Deliveries: made for each endpoint that wants an event, attempted, and written down.

Decides what is written of each attempt. Leaves when the next one is to `schedule`, and the call to `posting`.
Invariants: each endpoint has one delivery of a message, however often that is told; an attempt that was made is
written down together with what follows from it; an endpoint that is left alone costs no call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any

from ensue.clock import Clock
from ensue.engine.store import Store
from ensue.errors import ConstraintViolated
from ensue.expression.trace import match
from ensue.integrations.http_out.events import fits
from ensue.integrations.http_out.outcome import Outcome
from ensue.integrations.http_out.records import (
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEndpointEvent,
    WebhookMessage,
)
from ensue.integrations.http_out.schedule import (
    HOLD_AFTER,
    PROBE_SECONDS,
    EndpointState,
    Patience,
    Verdict,
    follow,
    postponed,
)
from ensue.integrations.http_out.signature import headers_of
from ensue.integrations.http_out.signing import Signing
from ensue.integrations.http_out.urls import url_problem

if TYPE_CHECKING:
    from ensue.integrations.http_out.posting import Poster

LANES = 4
"""How many first attempts one endpoint has at a time, over all processes."""


class Deliveries:
    """The deliveries of an app."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        poster: Poster,
        signing: Signing,
        patience: Patience,
        check_url: Callable[[str], str | None] = url_problem,
        rng: Random | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._poster = poster
        self._signing = signing
        self._patience = patience
        self._check_url = check_url
        self._rng = rng or Random()

    # --- Making them --------------------------------------------------------------------------------------------------

    async def tell(self, message_id: str, event: str, body: str, *, owners: Sequence[int] | None) -> None:
        """Make the deliveries of one event. Doing it again makes those that are missing."""
        endpoints = [one.id for one in await self._wanting(event, owners)]
        if endpoints:
            await self._unless_just_done(lambda: self.make(message_id, event, body, endpoints=endpoints))

    async def make(
        self, message_id: str, event: str, body: str, *, endpoints: Sequence[int], test: bool = False
    ) -> list[Any]:
        """The message and its deliveries, those that are there already left out; in the caller's transaction."""
        message = await self._store.find_one(WebhookMessage, WebhookMessage.message_id == message_id)
        if message is None:
            message = await self._store.create(WebhookMessage(message_id=message_id, event=event, body=body))
        of_message = match("message.id", "=", message.id)
        known = {delivery.endpoint.id for delivery in await self._store.find(WebhookDelivery, of_message)}
        missing = [
            WebhookDelivery(
                message=message,
                endpoint=WebhookEndpoint.ref(endpoint),
                lane=endpoint * LANES + message.id % LANES,
                test=test,
            )
            for endpoint in endpoints
            if endpoint not in known
        ]
        return await self._store.create_many(missing) if missing else []

    async def _wanting(self, event: str, owners: Sequence[int] | None) -> list[WebhookEndpoint]:
        condition = WebhookEndpoint.enabled == True  # noqa: E712  # an expression
        if owners is not None:
            condition &= match("owner.id", "in", list(owners))
        found = await self._store.find(WebhookEndpoint, condition)
        return [endpoint for endpoint in found if fits(event, endpoint.events)]

    async def _unless_just_done(self, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await self._store.run(work)
        except ConstraintViolated:
            # Told twice at a time, by a worker that was believed lost: what the other made is found now.
            await self._store.run(work)

    # --- Attempting them ----------------------------------------------------------------------------------------------

    async def attempt(self, id: int, due_at: datetime) -> None:
        """Attempt the delivery that was due at `due_at`; nothing, if it was attempted or ended since."""
        delivery = await self._store.find_one(
            WebhookDelivery,
            WebhookDelivery.id == id,
            fields=["*", WebhookDelivery.message.fields("*"), WebhookDelivery.endpoint.fields("*")],
        )
        if delivery is None or delivery.state != "pending" or delivery.due_at != due_at:
            return
        endpoint = delivery.endpoint
        if not (endpoint.enabled or delivery.test):
            await self._store.update(
                WebhookDelivery,
                id,
                state="discarded",
                last_error="The endpoint is disabled.",
                finished_at=self._clock.now(),
            )
        elif not delivery.test and not await self._may_call(endpoint):
            held = await self._store.get(WebhookEndpoint, endpoint.id)
            due = postponed(_state(held), self._clock.now(), self._rng)
            await self._store.update(WebhookDelivery, id, due_at=due)
        else:
            await self._settle(delivery, await self._call(delivery))

    async def _may_call(self, endpoint: WebhookEndpoint) -> bool:
        """Whether it is not left alone; of one that keeps failing, only who comes first may look how it is now."""
        now = self._clock.now()
        if _state(endpoint).is_held(now):
            return False
        if endpoint.failures < HOLD_AFTER:
            return True
        free = WebhookEndpoint.held_until.is_null() | (WebhookEndpoint.held_until <= now)
        probe = now + timedelta(seconds=PROBE_SECONDS)
        return await self._store.update_many(
            WebhookEndpoint, (WebhookEndpoint.id == endpoint.id) & free, held_until=probe
        ) == 1  # fmt: skip

    async def _call(self, delivery: WebhookDelivery) -> Outcome:
        message, endpoint = delivery.message, delivery.endpoint
        # The rules may have become stricter since the URL was given.
        if (problem := self._check_url(endpoint.url)) is not None:
            return Outcome(None, f"The endpoint's URL {problem}.")
        body = message.body.encode()
        headers = headers_of(
            message.message_id,
            timestamp=int(self._clock.now().timestamp()),
            body=body,
            secrets=await self._signing.in_force(endpoint.id),
        )
        return await self._poster.post(endpoint.url, body, headers)

    async def _settle(self, delivery: WebhookDelivery, outcome: Outcome) -> None:
        """Write down an attempt and what follows from it, in one transaction."""

        async def work() -> None:
            now = self._clock.now()
            this = delivery.endpoint.id
            if not outcome.delivered or delivery.endpoint.failures:
                # Takes the row's lock: other attempts count too.
                failures = WebhookEndpoint.failures + 0
                await self._store.update_many(WebhookEndpoint, WebhookEndpoint.id == this, failures=failures)
            endpoint = await self._store.get(WebhookEndpoint, this)
            verdict = follow(
                outcome,
                attempts=delivery.attempts + 1,
                age=now - delivery.since,
                endpoint=_state(endpoint),
                now=now,
                patience=self._patience,
                rng=self._rng,
            )
            await self._note(delivery, outcome, verdict, now)
            if not delivery.test or outcome.delivered:
                await self._judge(endpoint, verdict.endpoint, now)

        await self._store.run(work)

    async def _note(self, delivery: WebhookDelivery, outcome: Outcome, verdict: Verdict, now: datetime) -> None:
        # A test is for looking at, at once: it is not tried again.
        state = "failed" if delivery.test and verdict.state == "pending" else verdict.state
        going_on = state == "pending" and verdict.due_at is not None
        await self._store.update(
            WebhookDelivery,
            delivery.id,
            state=state,
            attempts=delivery.attempts + 1,
            last_status=outcome.status,
            last_error=outcome.error,
            due_at=verdict.due_at if going_on else delivery.due_at,
            finished_at=None if going_on else now,
        )
        await self._store.create(
            WebhookAttempt(
                delivery=WebhookDelivery.ref(delivery.id),
                number=delivery.attempts + 1,
                at=now,
                status=outcome.status,
                error=outcome.error,
                milliseconds=outcome.milliseconds,
            )
        )

    async def _judge(self, endpoint: WebhookEndpoint, after: EndpointState, now: datetime) -> None:
        if after == _state(endpoint):
            return
        values: dict[str, Any] = {
            "failures": after.failures,
            "failing_since": after.failing_since,
            "held_until": after.held_until,
        }
        if after.disabled_reason and endpoint.enabled:
            values |= {"enabled": False, "disabled_reason": after.disabled_reason, "disabled_at": now}
            await self._store.create(
                WebhookEndpointEvent(endpoint=endpoint, kind="disabled", reason=after.disabled_reason)
            )
        await self._store.update(WebhookEndpoint, endpoint.id, **values)

    # --- Again, and never again ---------------------------------------------------------------------------------------

    async def again(self, id: int) -> None:
        """Begin anew with a delivery that has ended."""
        now = self._clock.now()
        await self._store.update(
            WebhookDelivery, id, state="pending", due_at=now, since=now, finished_at=None, last_error=""
        )

    async def prune(self, *, older_than: timedelta) -> int:
        """Forget what ended that long ago, and messages that nobody was to be told of any more."""
        before = self._clock.now() - older_than
        ended = (WebhookDelivery.state != "pending") & (WebhookDelivery.finished_at < before)
        found = await self._store.delete_many(WebhookDelivery, ended)
        told = WebhookMessage.deliveries.any(lambda delivery: delivery.id > 0)
        await self._store.delete_many(WebhookMessage, (WebhookMessage.created_at < before) & ~told)
        return found


def _state(endpoint: WebhookEndpoint) -> EndpointState:
    return EndpointState(endpoint.failures, endpoint.failing_since, endpoint.held_until)
