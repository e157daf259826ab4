"""What follows from an outcome: pure, so that five days of failures are tested in no time.

Decides when there is another attempt, when an endpoint is left alone for a while, and when it is disabled. Leaves
writing that down to `deliveries`. Invariants: an endpoint's failures delay nothing but its own deliveries; who asks to
wait is not called earlier; a success wipes out what was held against an endpoint.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from random import Random
from typing import Literal

from ensue.integrations.http_out.outcome import Outcome

DeliveryState = Literal["pending", "delivered", "failed", "discarded"]
DisabledReason = Literal["", "gone", "failing", "owner"]

FIRST_STEP = timedelta(seconds=5)
STEP_MAX = timedelta(hours=1)
HOLD_AFTER = 5
HOLD_MAX = timedelta(minutes=5)
PROBE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a delivery is tried, and how long an endpoint may fail before it is disabled."""

    max_age: timedelta = timedelta(days=3)
    disable_after: timedelta = timedelta(days=5)


@dataclass(frozen=True, slots=True)
class EndpointState:
    """What is held against an endpoint."""

    failures: int = 0
    failing_since: datetime | None = None
    held_until: datetime | None = None
    disabled_reason: DisabledReason = ""

    def is_held(self, now: datetime) -> bool:
        """Whether it is to be left alone."""
        return self.held_until is not None and self.held_until > now


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a delivery and of its endpoint; `due_at` of one that goes on."""

    state: DeliveryState
    endpoint: EndpointState
    due_at: datetime | None = None


def follow(
    outcome: Outcome,
    *,
    attempts: int,
    age: timedelta,
    endpoint: EndpointState,
    now: datetime,
    patience: Patience,
    rng: Random,
) -> Verdict:
    """What follows attempt number `attempts` of a delivery that began `age` ago."""
    if outcome.delivered:
        return Verdict("delivered", EndpointState())
    if outcome.status == 410:
        return Verdict("failed", replace(endpoint, disabled_reason="gone"))
    after = _held_against(outcome, endpoint, now, patience)
    if after.disabled_reason or age >= patience.max_age:
        return Verdict("failed", after)
    pause = timedelta(seconds=rng.uniform(0.5, 1.0) * _step(attempts).total_seconds())
    due_at = max(now + pause, _jittered(after.held_until or now, rng))
    return Verdict("pending", after, due_at)


def postponed(endpoint: EndpointState, now: datetime, rng: Random) -> datetime:
    """When to come back to an endpoint that is left alone."""
    return _jittered(max(endpoint.held_until or now, now), rng)


def _held_against(outcome: Outcome, endpoint: EndpointState, now: datetime, patience: Patience) -> EndpointState:
    if outcome.retry_after_seconds is not None:
        # It lives and has asked for patience: that is no failure.
        return replace(endpoint, held_until=now + timedelta(seconds=outcome.retry_after_seconds))
    failures = endpoint.failures + 1
    since = endpoint.failing_since or now
    over = failures - HOLD_AFTER
    hold = min(HOLD_MAX, FIRST_STEP * 2 ** min(over, 20)) if over >= 0 else timedelta(0)
    failing = now - since >= patience.disable_after
    return EndpointState(failures, since, now + hold if hold else None, "failing" if failing else "")


def _step(attempts: int) -> timedelta:
    return min(STEP_MAX, FIRST_STEP * 2 ** min(attempts - 1, 20))


def _jittered(instant: datetime, rng: Random) -> datetime:
    # Whoever was held up must not come back all at once.
    return instant + timedelta(seconds=rng.uniform(0.0, 5.0))
