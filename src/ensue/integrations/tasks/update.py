"""`Submitted` and `TaskUpdate`: what an integration's author tells the framework of a task.

Decides their fields and how a provider's word for a status becomes ours. Invariant: a word that nobody mapped is an
error of the call that brought it, never a failure of the task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ensue.errors import DeclarationError, Problem
from ensue.integrations.tasks.states import FINAL, STATUSES, TaskStatus

Next = Literal["processing", "completed", "failed", "cancelled", "resubmit"]
"""What a provider's word amounts to. `resubmit`: it is lost or expired there, and is to be submitted again."""

UNKNOWN_STATUS = "E0180"
_OURS: Mapping[str, Next] = {
    "queued": "processing",  # in the provider's queue: submitted, and not done
    "processing": "processing",
    "completed": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
    "resubmit": "resubmit",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskUpdate:
    """Where a task stands, in the provider's word or in ours; a word of the provider's is looked up in `statuses`.

    `progress` is from 0 to 1, `cost` what this attempt cost in the provider's units, `retry_after_seconds` when the
    provider wants to be asked again. `external_id` is needed only where it was not known before.

    >>> TaskUpdate(status="completed", result={"url": "https://…"}).status
    'completed'
    """

    status: str
    result: Mapping[str, Any] | None = None
    error: str | None = None
    progress: float | None = None
    cost: float | None = None
    external_id: str | None = None
    retry_after_seconds: float | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Submitted:
    """The provider took it, under this id. `expected_seconds`: when the first poll makes sense, if it said so."""

    external_id: str
    expected_seconds: float | None = None
    cost: float | None = None


class UnknownStatus(LookupError):
    """The provider used a word that `statuses` does not map."""


def meaning(update: TaskUpdate, statuses: Mapping[str, str]) -> Next:
    """What the update's status amounts to. Raises `UnknownStatus`."""
    word = statuses.get(update.status, update.status)
    found = _OURS.get(word)
    if found is None:
        known = ", ".join(sorted({*statuses, *_OURS}))
        raise UnknownStatus(f"the status {update.status!r} is none of {known}. Add it to `statuses`.")
    return found


def is_final(found: Next) -> bool:
    """Whether a task that is so has ended."""
    return found in FINAL


def check_statuses(owner: str, statuses: Mapping[str, str]) -> None:
    """Refuse a map that leads to a word that is none of ours."""
    wrong = sorted({word for word in statuses.values() if word not in _OURS})
    if wrong:
        raise DeclarationError(
            Problem(
                UNKNOWN_STATUS,
                f"{owner}.statuses maps to {', '.join(map(repr, wrong))}; expected {', '.join(STATUSES)} or resubmit.",
            )
        )


def status_of(found: Next) -> TaskStatus:
    """The status that an event says for it."""
    return "queued" if found == "resubmit" else found
