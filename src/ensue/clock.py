"""The only reader of time.

Decides what "now" is for the framework, so that a test can replace it. Everything else takes instants as
arguments or asks a `Clock`. Invariant: no other module under `ensue` reads a wall or monotonic clock.
"""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Wall time as an aware UTC datetime, and monotonic seconds for measuring and waiting."""

    def now(self) -> datetime: ...

    def monotonic_seconds(self) -> float: ...


class SystemClock:
    """The machine's clock, in microseconds: the precision that both databases keep."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic_seconds(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that stands still until it is advanced; for tests.

    >>> clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    >>> clock.advance(seconds=5)
    >>> clock.now().second
    5
    """

    def __init__(self, start: datetime | None = None) -> None:
        self._now = start if start is not None else datetime(2026, 1, 1, tzinfo=UTC)
        self._monotonic_seconds = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic_seconds(self) -> float:
        return self._monotonic_seconds

    def advance(self, *, seconds: float) -> None:
        """Move both clocks forward by `seconds`."""
        self._now += timedelta(seconds=seconds)
        self._monotonic_seconds += seconds


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_micros(instant: datetime) -> int:
    """Microseconds since 1970-01-01 UTC, exact (no float on the way)."""
    return (instant - EPOCH) // _MICROSECOND


def whole_micros(span: timedelta) -> int:
    """The microseconds of a span, exact."""
    return span // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """The aware UTC datetime `micros` microseconds after 1970-01-01."""
    return EPOCH + timedelta(microseconds=micros)
