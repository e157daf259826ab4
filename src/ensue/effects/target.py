"""What delivery needs to know of a side effect, and what its handler is given.

Decides the shape of the hand-over between delivery and the integrations. Leaves the meaning of the payload to the
handler. Invariant: `key` is the same on every attempt, `attempt` counts from 1.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ensue.errors import UsageError
from ensue.schema.effect import Retry


@dataclass(frozen=True, slots=True)
class EffectRow:
    """One effect on its way out. `payload` is the JSON text that the engine wrote; it is never logged."""

    id: int
    name: str
    key: str
    record: str
    record_id: int
    payload: str = field(repr=False)
    attempt: int = 1
    enqueued_at: datetime | None = None
    order_key: str | None = None
    position: int | None = None
    trace: str | None = None


Handler = Callable[[EffectRow], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Target:
    """The handler of one side effect and its limits, in this process.

    The handler raises `Rejected` to end the effect as dead, an exception with `retry_after_seconds` when it was told
    to wait, and anything else to be tried again.
    """

    handler: Handler
    retry: Retry = field(default_factory=Retry)
    timeout_seconds: float = 30.0
    concurrency: int = 8

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.timeout_seconds <= 0:
            found = f"timeout_seconds={self.timeout_seconds}, concurrency={self.concurrency}"
            raise UsageError(f"A side effect with {found}: both must be positive.")
        if self.retry.max_attempts < 1 or self.retry.max_age <= timedelta(0):
            found = f"Retry(max_attempts={self.retry.max_attempts}, max_age={self.retry.max_age!r})"
            raise UsageError(f"{found}: both limits must be positive; max_attempts=1 says that a failure is final.")
