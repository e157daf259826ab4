"""What becomes of an effect whose attempt failed: pure, so that schedules are tested without waiting for them.

Decides the class of an error, whether there is another attempt, and the pause before it. Leaves time and chance to
its callers, who pass the instant and the generator. Invariants: throttling, shutdown and a lost lease never use up an
attempt; an effect ends as dead at the first failure after either limit, attempts or age, is reached.
"""

from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Final, Literal

from ensue.errors import Rejected, Unavailable
from ensue.schema.effect import Retry

FIRST_STEP_SECONDS: Final = 1.0
STEP_SECONDS_MAX: Final = 600.0
ERROR_CHARACTERS_MAX: Final = 2000

ErrorClass = Literal["transient", "throttled", "rejected", "lost"]
"""`lost` is given by the rescue of an expired lease; handlers bring about the other three."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An error of a handler, judged.

    Its class, its text for the ledger, and the pause that the other side asked for.
    """

    kind: ErrorClass
    message: str
    retry_after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The transition that a failed attempt takes, and the pause before the next one."""

    transition: Literal["retry", "throttle", "bury"]
    delay_seconds: float = 0.0


def judge(error: BaseException) -> Failure:
    """The class of `error`.

    `Rejected` and an `Unavailable` that says it is not retryable are final; an exception with a number in
    `retry_after_seconds` is throttling; everything else may pass, a defect of the handler included.
    """
    message = describe(error)
    if isinstance(error, Rejected) or (isinstance(error, Unavailable) and not error.retryable):
        return Failure("rejected", message)
    pause: object = getattr(error, "retry_after_seconds", None)
    if isinstance(pause, int | float) and not isinstance(pause, bool) and 0 <= pause < float("inf"):
        return Failure("throttled", message, float(pause))
    return Failure("transient", message)


def describe(error: BaseException) -> str:
    """The error as text that any database takes: no NUL, no lone surrogate, bounded."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    safe = text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
    return safe if len(safe) <= ERROR_CHARACTERS_MAX else safe[: ERROR_CHARACTERS_MAX - 1] + "…"


def decide(failure: Failure, policy: Retry, *, attempts: int, age: timedelta, rng: Random) -> Verdict:
    """What follows attempt number `attempts` of an effect that was enqueued `age` ago.

    >>> decide(Failure("transient", "down"), Retry(), attempts=20, age=timedelta(0), rng=Random(1)).transition
    'bury'
    """
    if failure.kind == "rejected" or age >= policy.max_age:
        return Verdict("bury")
    if failure.kind == "throttled":
        asked = failure.retry_after_seconds or 0.0
        # Never earlier than asked, and not all at the very instant that everyone was told.
        return Verdict("throttle", asked + rng.uniform(0.0, FIRST_STEP_SECONDS + asked / 10))
    if attempts >= policy.max_attempts:
        return Verdict("bury")
    return Verdict("retry", rng.uniform(0.0, step_seconds(attempts)))


def step_seconds(attempts: int) -> float:
    """The longest pause after `attempts` failures: 1 s, 2 s, 4 s, … up to 10 min.

    The pause is uniform between 0 and this.
    """
    return min(STEP_SECONDS_MAX, FIRST_STEP_SECONDS * 2.0 ** min(attempts - 1, 30))
