"""The names, labels and buckets of all metrics: the one list, which the page of metrics and the alerts are held to.

Decides what is measured. Invariant: labels are names that the app declares (effects, targets, interactions, endpoints,
integrations) and words of ensue's own; never a key, an id or anything that a client wrote.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Type = Literal["counter", "gauge", "histogram"]

_QUICK: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SLOW: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. A counter's name is without the `_total` that is added to it."""

    name: str
    type: Type
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def shown(self) -> str:
        """The name as Prometheus has it."""
        return f"{self.name}_total" if self.type == "counter" else self.name


_EFFECT: Final = ("effect", "target")

ENQUEUED: Final = Family("ensue_effects_enqueued", "counter", "Effects enqueued by commits of this process.", _EFFECT)
STARTED: Final = Family(
    "ensue_effects_attempts_started", "counter", "Effects claimed by this process, to be called.", _EFFECT
)
ENDED: Final = Family(
    "ensue_effects_attempts",
    "counter",
    "Attempts that ended, by the state that the effect came to and the class of the error.",
    (*_EFFECT, "outcome", "error_class"),
)
REFUSED: Final = Family(
    "ensue_effects_ends_refused", "counter", "Attempts whose end was refused, as their lease was another's.", _EFFECT
)
LOST: Final = Family(
    "ensue_effects_leases_lost", "counter", "Calls that were cut short because their lease ran out.", _EFFECT
)
RESCUED: Final = Family(
    "ensue_effects_rescued", "counter", "Effects taken back from workers that did not come back.", (*_EFFECT, "outcome")
)
RUN: Final = Family("ensue_effects_run_seconds", "histogram", "How long a call took.", _EFFECT, _SLOW)
QUEUED: Final = Family(
    "ensue_effects_queue_wait_seconds", "histogram", "From when a first attempt was due to its claim.", _EFFECT, _QUICK
)
COMMIT_TO_START: Final = Family(
    "ensue_effects_commit_to_start_seconds",
    "histogram",
    "From when a first attempt was due, which is the commit unless it has a delay, to the begin of the call.",
    _EFFECT,
    _QUICK,
)
DISPATCHES: Final = Family(
    "ensue_dispatches",
    "counter",
    "Dispatches, by how they ended and, of rejected ones, with which code.",
    ("interaction", "outcome", "code"),
)
DISPATCH: Final = Family("ensue_dispatch_seconds", "histogram", "How long a dispatch took.", ("interaction",), _QUICK)
INBOX_RECEIVED: Final = Family(
    "ensue_inbox_received", "counter", "Messages from outside that were taken and verified.", ("endpoint",)
)
INBOX_DUPLICATES: Final = Family(
    "ensue_inbox_duplicates", "counter", "Those of them that were known before.", ("endpoint",)
)
INBOX_FAILED: Final = Family(
    "ensue_inbox_failures", "counter", "Times that a message could not be handled.", ("endpoint",)
)
INBOX_REFUSED: Final = Family("ensue_inbox_refused", "counter", "Messages that could not be verified.", ("endpoint",))
POLLS: Final = Family(
    "ensue_task_polls",
    "counter",
    "Times that a provider was asked after a task, by what followed.",
    ("integration", "outcome"),
)
POLL: Final = Family("ensue_task_poll_seconds", "histogram", "How long asking took.", ("integration",), _QUICK)
WEBSOCKETS: Final = Family("ensue_websocket_connections", "gauge", "WebSocket connections that are open.")

WAITING: Final = Family(
    "ensue_effects_waiting",
    "gauge",
    "Effects that are not settled, counted to 10,000 for each name.",
    (*_EFFECT, "state"),
)
OLDEST: Final = Family(
    "ensue_effects_oldest_pending_seconds",
    "gauge",
    "Since when the oldest effect that is due has been waiting.",
    _EFFECT,
)
DEAD: Final = Family("ensue_effects_dead", "gauge", "Dead effects that nobody has looked after, to 10,000.", _EFFECT)
BREAKER: Final = Family(
    "ensue_target_breaker", "gauge", "1 for the state that the breaker of a target is in.", ("target", "state")
)
PAUSED: Final = Family("ensue_target_paused", "gauge", "1 for a target that an operator paused.", ("target",))
HELD: Final = Family("ensue_target_held_seconds", "gauge", "How long a target still asks us to wait.", ("target",))
INBOX_WAITING: Final = Family(
    "ensue_inbox_waiting", "gauge", "Messages that are stored and not handled, to 10,000.", ("endpoint",)
)
INBOX_KEPT: Final = Family("ensue_inbox_failed", "gauge", "Messages that are kept as failed, to 10,000.", ("endpoint",))
INBOX_LAG: Final = Family("ensue_inbox_lag_seconds", "gauge", "Age of the oldest stored message.", ("endpoint",))
TASKS: Final = Family(
    "ensue_tasks_waiting", "gauge", "Long-running tasks that are not settled, to 10,000.", ("integration", "phase")
)
TASK_LAG: Final = Family("ensue_task_poll_lag_seconds", "gauge", "How late the latest poll is.", ("integration",))
DATABASE_UP: Final = Family("ensue_database_up", "gauge", "1 if the database answered the last question of this page.")
DATABASE_AGE: Final = Family(
    "ensue_database_asked_seconds", "gauge", "Age of what this page has from the database, at most 5 s if it answers."
)

TOLD: Final = (
    ENQUEUED, STARTED, ENDED, REFUSED, LOST, RESCUED, RUN, QUEUED, COMMIT_TO_START, DISPATCHES, DISPATCH, INBOX_RECEIVED,
    INBOX_DUPLICATES, INBOX_FAILED, INBOX_REFUSED, POLLS, POLL, WEBSOCKETS,
)  # fmt: skip
"""What this process saw itself."""
READ: Final = (
    WAITING, OLDEST, DEAD, BREAKER, PAUSED, HELD, INBOX_WAITING, INBOX_KEPT, INBOX_LAG, TASKS, TASK_LAG, DATABASE_UP,
    DATABASE_AGE,
)  # fmt: skip
"""What is read from the database, and so the same in every process."""
FAMILIES: Final = (*TOLD, *READ)
