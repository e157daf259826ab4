"""How the effects of one name are handled in a process: what is called, and within which limits.

Decides the shape of the hand-over between delivery and the integrations. Leaves the meaning of the payload to the
function. Invariant: `key` is the same on every attempt, `attempt` counts from 1.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from ensue.errors import UsageError
from ensue.schema.delivery import Breaker, ErrorClass, Poison, Retry, Target

SAFE_SHARE: Final = 0.8
"""Of `key_ttl`: so long after the first call a repeat is surely recognised, clocks and queues on the way included."""


@dataclass(frozen=True, slots=True)
class EffectRow:
    """One effect on its way out. `payload` is the JSON text that the engine wrote; it is never logged.

    `failures` counts calls that failed, those that used up no attempt included. `doubt` is above 0 when an earlier call may
    have arrived: 1 more than it was asked about. `anew`: an operator started it again after it had been sent.
    """

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
    failures: int = 0
    doubt: int = 0
    error_class: str | None = None
    cause: str | None = None
    cause_id: int | None = None
    anew: bool = False


Handler = Callable[[Any], Awaitable[object]]
"""Called with an `EffectRow`, or with a list of them if it handles batches. May return a `Receipt`."""

Verify = Callable[[EffectRow], Awaitable[object]]
"""Asks whether the effect arrived: True or a `Receipt`, False, or None when that can't be said."""


@dataclass(frozen=True, slots=True)
class Handling:
    """What is called for the effects of one name, and how.

    `target` is where they go (None: a target of the name itself, without limits), `ordered` whether they were declared
    with a key. `classify` may decide the class of an error. The other options are those of `SideEffect`.
    """

    handler: Handler
    retry: Retry = field(default_factory=Retry)
    timeout_seconds: float = 30.0
    concurrency: int = 8
    target: Target | None = None
    ordered: bool = False
    poison: Poison = "skip"
    coalesce: bool = False
    batch: int | None = None
    priority: int = 0
    verify: Verify | None = None
    key_ttl: timedelta | None = None
    classify: Callable[[BaseException], ErrorClass | None] | None = None

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.timeout_seconds <= 0:
            found = f"timeout_seconds={self.timeout_seconds}, concurrency={self.concurrency}"
            raise UsageError(f"A side effect with {found}: both must be positive.")
        if self.retry.max_attempts < 1 or self.retry.max_age <= timedelta(0):
            found = f"Retry(max_attempts={self.retry.max_attempts}, max_age={self.retry.max_age!r})"
            raise UsageError(f"{found}: both limits must be positive; max_attempts=1 says that a failure is final.")

    @property
    def guarded(self) -> bool:
        """Whether a call that may have arrived must not simply be repeated."""
        return self.verify is not None or self.key_ttl is not None

    @property
    def breaker(self) -> Breaker | None:
        """The breaker of where it goes."""
        return self.target.breaker if self.target is not None else _DEFAULT_BREAKER

    def resend_is_safe(self, since_first_send: timedelta) -> bool:
        """Whether the other side surely recognises a repeat of a call first made so long ago."""
        return repeat_is_known(self.key_ttl, since_first_send)

    def target_name(self, name: str) -> str:
        """The target of the effects called `name`."""
        return name if self.target is None else self.target.name


def repeat_is_known(key_ttl: timedelta | None, since_first_send: timedelta) -> bool:
    """Whether the other side surely recognises a key that it got so long ago."""
    return key_ttl is not None and since_first_send < key_ttl * SAFE_SHARE


_DEFAULT_BREAKER: Final = Breaker()
