"""One of those who share a transaction: its work, what it asks for, and how it ended.

Leaves to `lockstep` and `in_turn` who goes on when. Invariant: a member runs in the context of the task that waits for it, so that
callbacks see that task's context variables.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from typing import Any

from ensue.engine.transaction import Transaction
from ensue.store.statement import Request, Work

Start = Callable[[], tuple[Transaction, Work[Any]]]
"""Makes a piece of work, and the engine's state of the transaction that it believes to be alone in."""


class GroupFailed(Exception):
    """The group can't go on; it is rolled back, and its members run alone. Nobody outside sees it."""


class Unfit(GroupFailed):
    """A member asked for something that can't be shared, after it had written."""


class Abandoned(GroupFailed):
    """The task of a member was cancelled meanwhile."""


class Member:
    """`request` is what it waits for, None once it has ended: with `value`, with `error`, or `alone` if it must run alone.

    `wants`: the table and the ids of the rows for which it last waited for another. `waited`: it was postponed before.
    """

    __slots__ = (
        "alone",
        "cancelled",
        "context",
        "ended",
        "error",
        "held",
        "position",
        "postponed",
        "request",
        "start",
        "tx",
        "value",
        "waited",
        "wants",
        "work",
        "wrote",
    )  # fmt: skip

    def __init__(self, start: Start, context: Context) -> None:
        self.wants: tuple[Any, ...] | None = None
        self.start = start
        self.context = context
        self.cancelled = self.waited = False
        self.clear()

    def clear(self) -> None:
        """As before it began."""
        self.work: Work[Any] | None = None
        self.tx: Transaction | None = None
        self.request: Request | None = None
        self.value: Any = None
        self.error: BaseException | None = None
        self.alone = self.postponed = self.wrote = self.ended = False
        self.held: list[tuple[str, Any]] = []
        self.position = 0

    def begin(self) -> None:
        """Start its work; `request` is the first that it makes."""
        self.tx, self.work = self.start()
        self._step(self.work.send, None)

    def answer(self, rows: Any) -> None:
        """Go on with the answer to `request`."""
        assert self.work is not None
        self._step(self.work.send, rows)

    def _step(self, send: Callable[[Any], Request], answer: Any) -> None:
        self.position += 1
        self.request = None
        try:
            self.request = self.context.run(send, answer)
        except StopIteration as end:
            self.value, self.ended = end.value, True
        except Exception as error:
            # What it has written can't be taken back without the others'.
            if self.wrote:
                raise
            self.error, self.ended = error, True

    def leave(self) -> None:
        """Stop before anything was written: it will run alone. Raises `Unfit` if something was."""
        if self.wrote:
            raise Unfit("A member of a group asked for what can't be shared after it had written.")
        self.request, self.alone, self.ended = None, True, True

    def postpone(self) -> None:
        """Stop before anything was written: it will go with the next group."""
        self.waited = True
        self.request, self.postponed, self.ended = None, True, True

    def close(self) -> None:
        """End its work if that has not ended, and whatever it was in."""
        if self.work is not None:
            self.work.close()
        if self.tx is not None:
            self.tx.ended = True

    def roll_back(self) -> None:
        """Forget what it did; it may begin anew."""
        self.close()
        if self.tx is not None:
            self.tx.roll_back()
        self.clear()
