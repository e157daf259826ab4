"""What a crowd saw, together with when the server committed, as figures.

Decides what is measured and how it is said. Invariant: a latency is the time from a commit to one client's receipt of
what was committed, by the one monotonic clock of the machine; nothing is averaged away.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from ensue.clock import Clock, SystemClock


class Phase(msgspec.Struct):
    """One way of talking: how many messages were `sent` (committed), and `received` as (id of the message, when).

    `expected` is how many receipts there should have been: one per message and member.
    """

    name: str
    seconds: float
    sent: int
    expected: int
    received: list[tuple[int, float]]


class Record(msgspec.Struct):
    """All that a crowd saw."""

    clients: int
    phases: list[Phase]

    @property
    def complete(self) -> bool:
        """Whether every message reached every member."""
        return all(phase.sent and len(phase.received) == phase.expected for phase in self.phases)


class Committed(Protocol):
    """The part of a commit that is looked at."""

    @property
    def touched(self) -> Mapping[str, frozenset[int]]: ...


class CommitTimes:
    """When each message was committed: `controller.on_commit(times.note)`."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock if clock is not None else SystemClock()
        self._found: dict[int, float] = {}

    def note(self, commit: Committed) -> None:
        """A commit has just happened."""
        now = self._clock.monotonic_seconds()
        for id_ in commit.touched.get("Message", ()):
            self._found.setdefault(id_, now)

    def latencies(self, phase: Phase) -> list[float]:
        """Seconds from commit to client, of every receipt, in ascending order."""
        return sorted(at - self._found[id_] for id_, at in phase.received if id_ in self._found)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of values in ascending order; NaN of none.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.0
    """
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def lines(record: Record, times: CommitTimes) -> Iterator[str]:
    """The figures as lines of text."""
    yield f"{record.clients} WebSocket clients, in a process of their own"
    for phase in record.phases:
        latencies = times.latencies(phase)
        p50, p99 = (percentile(latencies, share) * 1000 for share in (0.5, 0.99))
        yield (
            f"  {phase.name:9}{phase.sent / phase.seconds:8,.0f} messages/s committed"
            f" {phase.expected / phase.seconds:9,.0f} deliveries/s"
            f"   commit to client p50 {p50:,.1f} ms, p99 {p99:,.1f} ms"
        )
        if len(phase.received) != phase.expected:
            yield f"           {len(phase.received):,} of {phase.expected:,} deliveries arrived"
