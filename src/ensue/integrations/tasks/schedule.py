"""When a task is asked after: pure, so that schedules are tested without waiting.

Decides the pauses between polls. Leaves deadlines and the clock to the statements. Invariant: a pause that the
provider asked for is never cut short.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

FACTOR: Final = 1.5
JITTER: Final = 0.2


@dataclass(frozen=True, slots=True)
class Pace:
    """The first poll comes after `expected_seconds`; then pauses grow from `first_seconds` to `last_seconds`."""

    expected_seconds: float = 2.0
    first_seconds: float = 2.0
    last_seconds: float = 60.0


def first_pause(pace: Pace, rng: Random, *, expected_seconds: float | None = None) -> float:
    """Seconds from the submission to the first poll."""
    return spread(pace.expected_seconds if expected_seconds is None else expected_seconds, rng)


def next_pause(pace: Pace, rng: Random, *, polls: int, retry_after_seconds: float | None = None) -> float:
    """Seconds to the next poll after `polls` of them.

    >>> 1.6 <= next_pause(Pace(), Random(1), polls=1) <= 2.4
    True
    """
    grown = min(pace.last_seconds, pace.first_seconds * FACTOR ** min(max(polls, 1) - 1, 60))
    pause = spread(grown, rng)
    if retry_after_seconds is None:
        return pause
    # Not all of them at the very instant that they were told.
    return max(pause, retry_after_seconds * (1 + rng.uniform(0.0, JITTER)))


def spread(seconds: float, rng: Random) -> float:
    """About so many seconds."""
    return seconds * rng.uniform(1 - JITTER, 1 + JITTER)
