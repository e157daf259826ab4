"""The states of a task, and the one table of its transitions.

Decides which statuses there are and what leads from one to another. Leaves the columns that move with them to `task`.
Invariant: a task that ended stays as it ended, with two exceptions that are told from outside: a success that comes
after a cancellation, and an operator who tries again or names the submission that was lost sight of.
"""

from dataclasses import dataclass
from typing import Final, Literal

TaskStatus = Literal["queued", "processing", "completed", "failed", "cancelled"]
STATUSES: Final[tuple[TaskStatus, ...]] = ("queued", "processing", "completed", "failed", "cancelled")
FINAL: Final[tuple[TaskStatus, ...]] = ("completed", "failed", "cancelled")

Origin = Literal["submit", "poll", "callback", "deadline", "cancel", "operator", "app"]
"""Who says so. `submit`, `poll`, `callback` bring the provider's word; `app` is whoever else created the event."""


@dataclass(frozen=True, slots=True)
class Step:
    """From any of `sources` to `target` on an event that says `status` (and, if given, comes from `origin`)."""

    sources: tuple[TaskStatus, ...]
    target: TaskStatus
    status: TaskStatus
    origin: Origin | None = None


STEPS: Final[tuple[Step, ...]] = (
    Step(("queued", "processing"), "processing", "processing"),
    # An answer at once and a callback before the answer end a task that nobody saw at work.
    Step(("queued", "processing"), "completed", "completed"),
    Step(("queued", "processing"), "failed", "failed"),
    Step(("queued", "processing"), "cancelled", "cancelled"),
    Step(("cancelled",), "completed", "completed"),
    # The provider lost it, or wants it submitted again.
    Step(("processing",), "queued", "queued"),
    # The submission's answer after the task has ended: its id is kept, the end stands.
    Step(("completed",), "completed", "processing", "submit"),
    Step(("failed",), "failed", "processing", "submit"),
    Step(("cancelled",), "cancelled", "processing", "submit"),
    Step(("failed", "cancelled"), "queued", "queued", "operator"),
    Step(("failed",), "processing", "processing", "operator"),
)
"""The first that matches is taken."""
