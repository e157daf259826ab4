"""Work on a task's row: begin a submission, claim what is to be polled, record how it went.

Decides what an attempt at submitting finds (send, done already, outcome unknown). Leaves the SQL to `poll_sql` and
the status that users see to the events that are created in the same transaction. Invariants: the key of a submission
is committed before it is sent; an attempt that was interrupted while it was sent is never taken for one that was not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import msgspec

from ensue.clock import from_micros
from ensue.errors import InternalError
from ensue.integrations.tasks.poll_sql import STATEMENTS
from ensue.store.driver import Dialect
from ensue.store.statement import Run, Work
from ensue.store.task_table import TaskPhase

Find = Literal["send", "done", "unknown"]
Ref = tuple[str, int]
"""A task: the name of its class, and its id."""


@dataclass(frozen=True, slots=True)
class Intent:
    """One submission: of which task, through which integration, under which key, and how long the task may take.

    `resend_micros`: an interrupted submission of that age or younger may be sent again, because the provider folds
    repeats; None: never.
    """

    ref: Ref
    integration: str
    key: str
    deadline_micros: int
    resend_micros: int | None = None


@dataclass(frozen=True, slots=True)
class Begun:
    """What an attempt found; `submits` counts the sends, this one included."""

    find: Find
    submits: int = 0
    deadline: datetime | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A task's row as an attempt at submitting sees it; instants in µs."""

    phase: TaskPhase
    key: str
    past_keys: str
    submits: int
    sent_at: int | None
    deadline_at: int
    now: int
    external_id: str | None = None

    @property
    def used_keys(self) -> list[str]:
        return msgspec.json.decode(self.past_keys, type=list[str])

    @property
    def deadline(self) -> datetime:
        return from_micros(self.deadline_at)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a submission or a visit ended, as a row of the recording statement; `delay` in µs, `was` the phase before."""

    task_type: str
    task_id: int
    key: str
    was: TaskPhase
    phase: TaskPhase
    token: str | None = None
    external_id: str | None = None
    delay: int = 0
    failed: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A task that is ours to visit until the lease ends. `given_up`: why its submission is not tried any more."""

    ref: Ref
    key: str
    phase: TaskPhase
    external_id: str | None
    polls: int
    submits: int
    overdue: bool
    given_up: str | None
    token: str

    def outcome(self, phase: TaskPhase, **values: Any) -> Outcome:
        """The end of the visit; counts only if the lease is still ours."""
        type_, id_ = self.ref
        return Outcome(
            task_type=type_, task_id=id_, key=self.key, was=self.phase, phase=phase, token=self.token, **values
        )


@dataclass(frozen=True, slots=True)
class Known:
    """A task found by what its provider calls it, or by the key of its submission."""

    ref: Ref
    phase: TaskPhase
    key: str
    external_id: str | None


def find_of(row: Row, intent: Intent) -> Find:
    """What an attempt at `intent` finds in the row.

    >>> row = Row("sending", "k", "[]", 1, 0, 9, now=5)
    >>> find_of(row, Intent(("Picture", 1), "pictures", "k", 9))
    'unknown'
    """
    if row.key != intent.key:
        # An attempt that its worker repeats after a later one began has nothing left to do.
        return "done" if intent.key in row.used_keys else "send"
    if row.phase == "ready":
        return "send"
    if row.phase != "sending":
        return "done"
    age = row.now - (row.sent_at or 0)
    return "send" if intent.resend_micros is not None and age <= intent.resend_micros else "unknown"


def begin(dialect: Dialect, intent: Intent) -> Work[Begun]:
    """Say in the row that the task is being sent, unless it was already."""
    statements = STATEMENTS[dialect]
    row = yield from look(dialect, intent.ref)
    if row is None:
        made = yield Run(statements.insert, (*intent.ref, intent.integration, intent.key, intent.deadline_micros))
        if made:
            return Begun("send", 1, from_micros(made[0][0]))
        row = yield from look(dialect, intent.ref)
    if row is None:
        raise InternalError(f"The row of {intent.ref} is neither there nor can it be made.")
    found = find_of(row, intent)
    if found != "send":
        return Begun(found, row.submits, row.deadline)
    past = row.used_keys if row.key == intent.key else [*row.used_keys, row.key]
    # Who was at its end and is submitted anew has all its time again.
    anew = intent.deadline_micros if row.phase == "settled" else None
    sent = yield Run(statements.send, (*intent.ref, intent.key, msgspec.json.encode(past).decode(), anew))
    return Begun("send", row.submits + 1, from_micros(sent[0][0]))


def look(dialect: Dialect, ref: Ref) -> Work[Row | None]:
    """The row of a task, if there is one."""
    rows = yield Run(STATEMENTS[dialect].look, ref)
    return Row(*rows[0]) if rows else None


def record(dialect: Dialect, outcomes: Sequence[Outcome]) -> Work[frozenset[Ref]]:
    """Write ends of submissions and visits; answers the tasks that were still as the outcome says."""
    rows = yield Run(STATEMENTS[dialect].record, (msgspec.json.encode(list(outcomes)).decode(),))
    return frozenset((type_, id_) for type_, id_ in rows)


def claim(
    dialect: Dialect, integration: str, *, at_most: int, token: str, lease_micros: int, worker: str
) -> Work[list[Claim]]:
    """Lease what is due, the longest overdue first."""
    rows = yield Run(STATEMENTS[dialect].claim, (integration, at_most, token, lease_micros, worker))
    found: list[Claim] = []
    for type_, id_, key, phase, external_id, polls, submits, overdue, given_up in rows:
        found.append(Claim((type_, id_), key, phase, external_id, polls, submits, bool(overdue), given_up, token))
    return found


def traces_of(dialect: Dialect, keys: Sequence[str]) -> Work[Mapping[str, str]]:
    """The traces of the submissions under these keys, of those that have one and are kept."""
    rows = yield Run(STATEMENTS[dialect].traces, (msgspec.json.encode(list(keys)).decode(),))
    return dict(rows)


def release(dialect: Dialect, integration: str, token: str) -> Work[None]:
    """Give back whatever is held under the token."""
    yield Run(STATEMENTS[dialect].release, (integration, token))


def due_in(dialect: Dialect, integration: str) -> Work[int | None]:
    """µs until something is due; None if nothing is."""
    rows = yield Run(STATEMENTS[dialect].due, (integration,))
    return rows[0][0] if rows else None


def hasten(dialect: Dialect, integration: str, ref: Ref) -> Work[bool]:
    """Let a task that waits be due now; False if it doesn't wait, or is being visited."""
    rows = yield Run(STATEMENTS[dialect].hasten, (integration, *ref))
    return bool(rows)


def sweep(
    dialect: Dialect, integration: str, names: Sequence[str], *, deadline_micros: int, kept_micros: int
) -> Work[int]:
    """Make due what `effects` (by the names of the submitting side effects) did not, or will not, submit; how many."""
    found = 0
    for name in names:
        params = (integration, name, deadline_micros, kept_micros)
        found += len((yield Run(STATEMENTS[dialect].neglected, params)))
    found += len((yield Run(STATEMENTS[dialect].given_up, (integration,))))
    return found


def adopt(dialect: Dialect, ref: Ref, integration: str, *, external_id: str, deadline_micros: int) -> Work[bool]:
    """Follow a task that ended, from now on under this external id; False if it did not end."""
    # A key that no submission has, for a row that was forgotten meanwhile.
    key = f"adopted:{external_id}"
    rows = yield Run(STATEMENTS[dialect].adopt, (*ref, integration, key, external_id, deadline_micros))
    return bool(rows)


def find_known(dialect: Dialect, integration: str, *, external_id: str | None, key: str | None) -> Work[list[Known]]:
    """The tasks of that external id, or of that key."""
    rows = yield Run(STATEMENTS[dialect].by_reference, (integration, external_id, key))
    return [Known((type_, id_), phase, own_key, external) for type_, id_, phase, own_key, external in rows]


def prune(dialect: Dialect, integration: str, kept_micros: int) -> Work[int]:
    """Forget rows of tasks that ended so long ago; how many."""
    rows = yield Run(STATEMENTS[dialect].prune, (integration, kept_micros))
    return len(rows)
