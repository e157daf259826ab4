"""What came of an attempt to deliver.

Decides what is known of it. Leaves how it is found out to `posting`, and what follows to `schedule`. Invariant: nothing
of an answer is in it but its status and what it asked for.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attempt: a status, or an error where there is none."""

    status: int | None
    error: str = ""
    retry_after_seconds: float | None = None
    milliseconds: int = 0

    @property
    def delivered(self) -> bool:
        """Whether the other side has said that it has it."""
        return self.status is not None and 200 <= self.status < 300
