"""The state of one transaction: what changed and is not yet propagated, what changed in all, and what was read under lock.

Savepoints stack it: pending changes are propagated before a savepoint is set or released, the net changes of a frame are folded
into the one below on release and dropped on rollback, with every id block that was taken inside. Invariant: what follows a
call that ended half-way is never committed, unless a savepoint around that call was rolled back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ensue.engine.propagation.changes import Changes, merge
from ensue.engine.read.reads import Reader
from ensue.engine.writing.ids import IdBlocks
from ensue.errors import UsageError
from ensue.plan.plan import Plan, Row
from ensue.store.driver import Session

ROUNDS_MAX = 100
"""How often events may cause events in one transaction before it counts as a loop."""


@dataclass(slots=True)
class Frame:
    """What a savepoint would have to forget."""

    net: Changes = field(default_factory=dict[str, dict[int, Any]])
    families: list[str] = field(default_factory=list[str])
    captured: dict[tuple[str, int], Any] = field(default_factory=dict[tuple[str, int], Any])
    deferred: list[tuple[str, int, int]] = field(default_factory=list[tuple[str, int, int]])  # (record, column, id)
    touched: dict[str, set[int]] = field(default_factory=dict[str, set[int]])
    failure: BaseException | None = None  # what ended a call half-way


@dataclass(slots=True)
class Prepared:
    """What was made ready before a transaction began and serves each of its attempts: values of `Custom.initial`, and ids."""

    values: dict[Any, Any] = field(default_factory=dict[Any, Any])
    allotted: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])


@dataclass(slots=True)
class Transaction:
    """One transaction of the engine; used by one task at a time."""

    plan: Plan
    ids: IdBlocks
    now: datetime
    reader: Reader
    capture: bool = False  # keep the images of everything that changes, for `DispatchResult.changes`
    pending: Changes = field(default_factory=dict[str, dict[int, Any]])
    frames: list[Frame] = field(default_factory=lambda: [Frame()])
    rows: dict[str, dict[int, Row]] = field(default_factory=dict[str, dict[int, Row]])
    exclusive: dict[str, set[int]] = field(default_factory=dict[str, set[int]])  # of `rows`: those locked for update
    # What propagation changed, not yet told to machines.
    derived: Changes = field(default_factory=dict[str, dict[int, Any]])
    # Values of `Custom.initial`: a retry does not call again.
    prepared: dict[Any, Any] = field(default_factory=dict[Any, Any])
    # Rows with Customs, as they were inserted.
    born: dict[tuple[str, int], Row] = field(default_factory=dict[tuple[str, int], Row])
    # Ids taken from our blocks before the insert.
    allotted: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])
    spans: int = 0  # how often pending changes were propagated
    propagating: bool = False
    ended: bool = False  # a task that was started inside may still hold it
    token: str = ""  # part of the keys of this transaction's effects
    cause: tuple[str, int] | None = None  # the event of its (first) dispatch, kept with its effects
    trace: str | None = None  # the trace that it belongs to, kept with its effects
    lost: int = 0  # how many conflicts its earlier attempts lost
    session: Session | None = None
    writable: bool = True
    opener: Callable[[], Awaitable[None]] | None = None  # starts it, when it has not been yet

    @property
    def frame(self) -> Frame:
        return self.frames[-1]

    def failed(self, error: BaseException) -> None:
        """A call ended half-way: nothing is accepted now but a rollback to the savepoint before it."""
        self.frame.failure = self.frame.failure or error

    def require_whole(self) -> None:
        """Raises `UsageError` after a call that ended half-way and whose error was caught."""
        failure = self.frame.failure
        if failure is not None:
            raise UsageError(
                f"A call in this transaction failed half-way ({type(failure).__name__}: {failure}), and the error was caught. "
                "Derived data does not know what it had done, so nothing more is done and nothing committed. Let the error leave "
                "the transaction, or open a savepoint around what may fail: `async with store.transaction():`."
            ) from failure

    def push(self) -> None:
        """A savepoint was set; everything pending has been propagated."""
        self.frames.append(Frame())

    def release(self) -> None:
        """The innermost savepoint was released: what happened in it now belongs to the frame below."""
        done = self.frames.pop()
        below = self.frames[-1]
        merge(below.net, done.net)
        below.families.extend(done.families)
        below.captured.update(done.captured)
        below.deferred.extend(done.deferred)
        for record, ids in done.touched.items():
            below.touched.setdefault(record, set()).update(ids)

    def roll_back(self) -> None:
        """The innermost frame was rolled back: forget it, and everything that was remembered of the database meanwhile."""
        done = self.frames.pop() if len(self.frames) > 1 else self.frames[0]
        done.failure = None
        self._forget_ids(done)
        self.pending = {}
        self.derived = {}
        self.rows.clear()
        self.exclusive.clear()

    def give_up(self) -> None:
        """It is about to be rolled back: forget its ids, which the next transaction must not be given.

        SQLite's writer begins that before anybody else learns of the rollback, so this is for the work itself to say.
        """
        for frame in self.frames:
            self._forget_ids(frame)

    def _forget_ids(self, frame: Frame) -> None:
        for family in frame.families:
            self.ids.forget(family)
        frame.families = []
