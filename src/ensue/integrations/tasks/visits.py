"""What follows from a visit to a task: pure, so that every case is a test.

Decides, from what is known of a task and what its provider answered, what happens to it and whether it is visited
again. Leaves asking and writing to `poller`. Invariants: an answer that failed never fails a task; a task whose
deadline has passed ends, whatever its provider does; a task that has ended is asked after only if it was cancelled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ensue.effects.retry import asked_pause, describe, storable
from ensue.integrations.tasks.poll_table import Claim
from ensue.integrations.tasks.states import Origin, TaskStatus
from ensue.integrations.tasks.update import TaskUpdate, is_final, meaning
from ensue.store.task_table import TaskPhase

DEADLINE = "deadline"
UNKNOWN_OUTCOME = "unknown outcome"
LATE_SUCCESS = "completed after cancel"


@dataclass(frozen=True, slots=True)
class Seen:
    """A claimed task as the database has it; `held` are callbacks that came before its external id was known."""

    claim: Claim
    status: TaskStatus | None
    progress: float = 0.0
    held: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Terms:
    """What an integration says of its tasks."""

    statuses: Mapping[str, str] = field(default_factory=dict[str, str])
    submits_max: int = 3


@dataclass(frozen=True, slots=True)
class Move:
    """The phase that the row goes to, with its events. In `waiting` the next visit follows from the other fields."""

    phase: TaskPhase
    events: Sequence[Mapping[str, Any]] = ()
    failed: bool = False
    error: str | None = None
    retry_after_seconds: float | None = None


def event_of(claim: Claim, status: TaskStatus, origin: Origin, **values: Any) -> dict[str, Any]:
    """The values of an event of the claimed task."""
    return task_event(claim.ref, status, origin, **values)


def task_event(ref: tuple[str, int], status: TaskStatus, origin: Origin, **values: Any) -> dict[str, Any]:
    """The values of an event of a task."""
    type_, id_ = ref
    return {"task_type": type_, "task_id": id_, "status": status, "origin": origin, **values}


def final_events(
    ref: tuple[str, int], update: TaskUpdate, status: TaskStatus, *, origin: Origin, before: TaskStatus
) -> list[dict[str, Any]]:
    """The events by which a task ends; one that nobody saw at work is seen so first, so that all go one way."""
    note = kept_text(update.note)
    values: dict[str, Any] = {"cost": update.cost, "note": note, "external_id": update.external_id}
    if update.result is not None:
        values["result"] = dict(update.result)
    if status == "failed":
        values["error"] = kept_text(update.error)
    if before == "cancelled" and status == "completed":
        values["note"] = note or LATE_SUCCESS
    end = task_event(ref, status, origin, **values)
    if before != "queued":
        return [end]
    return [task_event(ref, "processing", origin, external_id=update.external_id), end]


def kept_text(text: str | None) -> str | None:
    """A provider's words as a record keeps them: its answer must not be lost for a character that no database takes."""
    return None if text is None else storable(text)


def without_asking(seen: Seen) -> Move | None:
    """What happens to a task that its provider need not be asked about; None if it is to be asked."""
    claim, status = seen.claim, seen.status
    if status is None or status in ("completed", "failed"):
        return Move("settled")
    if claim.phase == "waiting":
        if status == "cancelled" and claim.overdue:
            return Move("settled")
        return Move("settled", seen.held) if seen.held else None
    if status == "cancelled":
        # Sent perhaps, known under no name: whatever comes of it comes by callback.
        return Move("settled")
    if claim.overdue:
        note = UNKNOWN_OUTCOME if claim.phase == "sending" else claim.given_up
        return Move("settled", [event_of(claim, "failed", "deadline", error=DEADLINE, note=note)])
    if claim.given_up is not None:
        return Move("settled", [event_of(claim, "failed", "submit", error=_given_up(claim))])
    return Move(claim.phase)


def after_answer(seen: Seen, answer: TaskUpdate | BaseException | None, terms: Terms) -> Move:
    """What follows from the answer; None where there is nobody to ask, and a callback is waited for."""
    if answer is None:
        return _go_on(seen, Move("waiting"))
    if isinstance(answer, BaseException):
        pause = asked_pause(answer)
        return _go_on(seen, Move("waiting", failed=True, error=describe(answer), retry_after_seconds=pause))
    try:
        found = meaning(answer, terms.statuses)
    except LookupError as error:
        return _go_on(seen, Move("waiting", failed=True, error=describe(error)))
    if found == "resubmit":
        return _resubmit(seen, answer, terms)
    if is_final(found):
        return _end(seen, answer, found)
    return _go_on(seen, Move("waiting", _progress(seen, answer), retry_after_seconds=answer.retry_after_seconds))


def _end(seen: Seen, answer: TaskUpdate, found: Any) -> Move:
    before = seen.status
    if before is None or (before == "cancelled" and found != "completed"):
        return Move("settled")
    return Move("settled", final_events(seen.claim.ref, answer, found, origin="poll", before=before))


def _resubmit(seen: Seen, answer: TaskUpdate, terms: Terms) -> Move:
    if seen.status == "cancelled":
        return Move("settled")
    if seen.claim.submits >= terms.submits_max or seen.claim.overdue:
        why = answer.error or f"{answer.status}, submitted {seen.claim.submits} times"
        error = DEADLINE if seen.claim.overdue else why
        return Move("settled", [event_of(seen.claim, "failed", "poll", error=error, cost=answer.cost)])
    return Move(
        "ready", [event_of(seen.claim, "queued", "poll", error=answer.error, cost=answer.cost, note=answer.note)]
    )


def _progress(seen: Seen, answer: TaskUpdate) -> list[dict[str, Any]]:
    if seen.status == "cancelled" or (answer.progress in (None, seen.progress) and answer.result is None):
        return []
    result = None if answer.result is None else dict(answer.result)
    return [event_of(seen.claim, "processing", "poll", progress=answer.progress, result=result)]


def _go_on(seen: Seen, move: Move) -> Move:
    """`move`, unless time is up."""
    if not seen.claim.overdue:
        return move
    if seen.status == "cancelled":
        return Move("settled")
    return Move("settled", [event_of(seen.claim, "failed", "deadline", error=DEADLINE)], error=move.error)


def _given_up(claim: Claim) -> str:
    what = "could not be submitted" if claim.phase == "ready" else UNKNOWN_OUTCOME
    return f"{what} ({claim.given_up})"
