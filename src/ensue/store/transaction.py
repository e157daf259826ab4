"""Who may use an open transaction, and what is nested in it: the part of `Session` that every driver shares.

Decides ownership (the task that opened it), opening, savepoints, and that after a failed statement nothing but a
rollback is accepted, on SQLite too, where the database would go on. Leaves the running of statements to the drivers.
Invariant: what follows a failed statement is never committed unless a savepoint around the failure was rolled back.
"""

import asyncio
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from ensue.errors import Origin, Unavailable, UsageError
from ensue.store.statement import Run, Statement, Work

T = TypeVar("T")
S = TypeVar("S", bound="OwnedSession")

BEGIN = Statement("begin", "BEGIN")
BEGIN_IMMEDIATE = Statement("begin", "BEGIN IMMEDIATE")
COMMIT = Statement("commit", "COMMIT")
ROLLBACK = Statement("rollback", "ROLLBACK")
_ROLLBACK_TO = "ROLLBACK TO "


class Transaction:
    """What is known of an open transaction: whose it is, and whether a statement in it failed."""

    __slots__ = ("failure", "last", "opened_at", "task")

    def __init__(self, task: "asyncio.Task[Any] | None", opened_at: Origin | None = None) -> None:
        self.task = task
        self.opened_at = opened_at
        self.failure: BaseException | None = None
        self.last: Statement | None = None

    def __str__(self) -> str:
        task = f"task {self.task.get_name()!r}" if self.task is not None else "no task"
        where = (
            f", in a transaction opened at {self.opened_at}" if self.opened_at is not None else ", in a single write"
        )
        last = f", last statement {self.last.name}" if self.last is not None else ""
        return f"{task}{where}{last}"

    def refused(self, statement: Statement) -> UsageError | None:
        """Why `statement` can't be run now, if so."""
        if self.failure is None or statement.text.startswith(_ROLLBACK_TO):
            return None
        return UsageError(
            f"The statement {statement.name} comes after one that failed in the same transaction ({self.failure}). "
            "Let the error leave the transaction, or open a savepoint around what may fail."
        )

    def recovered(self) -> None:
        """Told of each statement that succeeded after a failure, which can only be a rollback to a savepoint."""
        self.failure = None

    def uncommittable(self) -> UsageError | None:
        """Why the transaction can't be committed, if so."""
        if self.failure is None:
            return None
        error = UsageError(
            f"A statement of this transaction failed ({self.failure}) and the error was caught, so the transaction was "
            "rolled back. Let the error leave the transaction, or open a savepoint around what may fail."
        )
        error.__cause__ = self.failure
        return error


class OwnedSession(ABC):
    """A `Session` that refuses other tasks and is nested by savepoints."""

    def __init__(self, transaction: Transaction) -> None:
        self.transaction = transaction
        self.closed = False
        self._depth = 0

    async def run(self, work: Work[T]) -> T:
        """Drive `work` inside the transaction; raises `UsageError` in another task or after its end."""
        try:
            self.check_owner("runs work in")
        except BaseException:
            work.close()
            raise
        return await self._drive(work, shielded=False)

    @asynccontextmanager
    async def savepoint(self) -> AsyncGenerator[None]:
        """Released when the body ends, rolled back to when it raises."""
        self.check_owner("opens a savepoint in")
        self._depth += 1
        name = f"ensue_{self._depth}"
        release = Statement("release", f"RELEASE SAVEPOINT {name}")
        rollback = Statement("rollback_to", f"{_ROLLBACK_TO}SAVEPOINT {name}")
        undo = (rollback, release)
        try:
            await self._drive(_statements(Statement("savepoint", f"SAVEPOINT {name}")), shielded=True)
            try:
                yield
                self.check_owner("ends a savepoint of")
            except GeneratorExit:
                raise
            except asyncio.CancelledError:
                # With the connection gone there is nothing to undo, and a cancellation must not become another error.
                if not self.closed:
                    with suppress(Unavailable):
                        await self._drive(_statements(*undo), shielded=True)
                raise
            except BaseException:
                if not self.closed:
                    await self._drive(_statements(*undo), shielded=True)
                raise
            try:
                await self._drive(_statements(release), shielded=True)
            except UsageError:
                await self._drive(_statements(*undo), shielded=True)
                raise
        finally:
            self._depth -= 1

    def check_owner(self, doing: str) -> None:
        if self.closed:
            raise UsageError(
                f"{_task_name()} {doing} a transaction that has ended ({self.transaction}). Open a new one."
            )
        if asyncio.current_task() is not self.transaction.task:
            raise UsageError(
                f"{_task_name()} {doing} a transaction that belongs to another task ({self.transaction}). "
                "A transaction is used by the task that opened it; give each task its own."
            )

    @abstractmethod
    async def _drive(self, work: Work[T], *, shielded: bool) -> T:
        """Drive `work`; if `shielded`, to its end even when the task is cancelled meanwhile."""


class OpensSessions(Protocol[S]):
    """What a driver does for `Opening`."""

    async def begin_session(self, transaction: Transaction, /) -> S:
        """BEGIN."""
        ...

    async def end_session(self, session: S, /, *, commits: bool) -> None:
        """COMMIT or ROLLBACK, even if the task is cancelled meanwhile."""
        ...

    def abandon_session(self, session: S, /) -> None:
        """Have it rolled back without waiting: its task can't await any more."""
        ...


class Opening(Generic[S]):
    """`driver.transaction()`: BEGIN on entering, COMMIT or ROLLBACK on leaving."""

    def __init__(self, driver: OpensSessions[S], opened_at: Origin | None) -> None:
        self._driver = driver
        self._opened_at = opened_at
        self._session: S | None = None

    async def __aenter__(self) -> S:
        refuse_own_transaction(self._driver, "opens another transaction")
        transaction = Transaction(asyncio.current_task(), self._opened_at)
        session = self._session = await self._driver.begin_session(transaction)
        enter_session(self._driver, session)
        return session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        session = self._session
        assert session is not None
        if kind is GeneratorExit:
            self._driver.abandon_session(session)
            leave_session(session)
            return
        foreign: UsageError | None = None
        try:
            session.check_owner("ends")
        except UsageError as refusal:
            foreign = refusal
        leave_session(session)
        await self._driver.end_session(session, commits=kind is None and foreign is None)
        if foreign is not None:
            raise foreign


class ReadSession:
    """What a `Call` of a `Driver.read` gets: more reads, as little in a transaction as the read itself."""

    def __init__(self, read: Callable[[Work[Any]], Awaitable[Any]]) -> None:
        self._read = read

    async def run(self, work: Work[T]) -> T:
        result: T = await self._read(work)
        return result

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        raise UsageError("A savepoint was opened in a read, which has no transaction. Use `write` or `transaction`.")


@dataclass(frozen=True, slots=True)
class _Entry:
    driver: object
    session: OwnedSession
    outer: "_Entry | None"


_innermost: ContextVar[_Entry | None] = ContextVar("ensue_session", default=None)


def current_session(driver: object) -> OwnedSession | None:
    """The open session of `driver` that the calling code runs in, also inside a `Call` of `Driver.write`."""
    entry = _innermost.get()
    while entry is not None and (entry.driver is not driver or entry.session.closed):
        entry = entry.outer
    return entry.session if entry is not None else None


def enter_session(driver: object, session: OwnedSession) -> None:
    """From now on `session` is what `current_session(driver)` gives in this context."""
    _innermost.set(_Entry(driver, session, _innermost.get()))


def leave_session(session: OwnedSession) -> None:
    """End `session`; its entry goes from this context, and elsewhere counts as closed."""
    session.closed = True
    entry = _innermost.get()
    while entry is not None and entry.session.closed:
        entry = entry.outer
    _innermost.set(entry)


def refuse_own_transaction(driver: object, doing: str) -> None:
    """Raises `UsageError` if the calling task has a transaction open: it would wait for itself."""
    if _innermost.get() is None:
        return
    session = current_session(driver)
    if session is not None and session.transaction.task is asyncio.current_task():
        raise UsageError(
            f"{_task_name()} {doing} while it has a transaction open ({session.transaction}), and would wait for "
            "itself. Use the session of the open transaction."
        )


def caller_origin() -> Origin | None:
    """The nearest line outside of the framework, to name in errors who holds a transaction."""
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module != "contextlib" and (not module.startswith("ensue.") or module.startswith("ensue.testing")):
            return Origin(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return None


def _statements(*statements: Statement) -> Generator[Run, Any, None]:
    for statement in statements:
        yield Run(statement)


def script(statements: list[Statement]) -> Generator[Run, Any, None]:
    """Work that runs `statements` in order."""
    return _statements(*statements)


def _task_name() -> str:
    task = asyncio.current_task()
    return f"Task {task.get_name()!r}" if task is not None else "Code outside of any task"
