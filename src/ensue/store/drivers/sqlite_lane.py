"""One SQLite connection in a thread of its own, and the errands that event loops send there.

Decides the order: first come first served, except that an open transaction has the lane for itself until it ends
(others wait in `_backlog`). A generator is driven in the thread until it ends or yields a `Call`; then it is handed to
its event loop, and comes back as an errand of its transaction. Leaves meaning and timeouts to `sqlite.py`. Invariants:
an errand is answered exactly once per leg, after COMMIT if it ends a transaction; between errands no transaction is
open except `_holder`'s.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from queue import SimpleQueue
from typing import Any

import apsw

from ensue.errors import EnsueError, InternalError, Unavailable
from ensue.store import violations
from ensue.store.driver import Observer
from ensue.store.drivers.sqlite_errors import translate
from ensue.store.statement import Call, Request, Run, Statement
from ensue.store.transaction import BEGIN_IMMEDIATE, COMMIT, ROLLBACK, Transaction
from ensue.store.url import DatabaseUrl

STATEMENTS_CACHED = 1000
BUSY_PAUSES_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)

OPEN = Statement("open", "")


class Outbox:
    """Settled errands on their way to one event loop, which is woken once for all that it has not fetched yet."""

    __slots__ = ("_done", "_woken", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._done: deque[Errand] = deque()
        self._woken = False

    def put(self, errand: "Errand") -> None:
        """In a lane's thread. Raises `RuntimeError` if the loop is closed."""
        self._done.append(errand)
        if not self._woken:
            # Afterwards would be too late: the loop may fetch before this thread goes on.
            self._woken = True
            try:
                self.loop.call_soon_threadsafe(self._fetch)
            except RuntimeError:
                self._woken = False
                raise

    def _fetch(self) -> None:
        # Before looking: what is put from now on wakes the loop again.
        self._woken = False
        while self._done:
            self._done.popleft().settle()


class Errand:
    """Work for a lane, and the future of its present leg.

    `begins` and `ends` say what is done around `work`, `commits` how it ends. What is below is written by one side
    at a time: by the lane between `put` and `settle`, by the loop otherwise. `cancelled` is a flag that the loop may
    raise at any time.
    """

    __slots__ = (
        "answer",
        "begins",
        "call",
        "cancelled",
        "commits",
        "ends",
        "error",
        "future",
        "loop",
        "outbox",
        "quiet",
        "settled",
        "started",
        "ticket",
        "transaction",
        "work",
    )  # fmt: skip

    def __init__(
        self,
        work: Generator[Request, Any, Any] | None,
        transaction: Transaction | None = None,
        *,
        begins: bool = False,
        ends: bool = False,
        commits: bool = True,
        quiet: bool = False,
    ) -> None:
        self.work = work
        self.transaction = transaction
        self.begins = begins
        self.ends = ends
        self.commits = commits
        self.quiet = quiet
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()
        self.outbox: Outbox | None = None
        self.ticket = [None]
        self.started = self.settled = self.cancelled = False
        self.call: Call | None = None
        self.answer: Any = None
        self.error: BaseException | None = None

    def claim(self) -> bool:
        """True for the first who asks: the lane that starts the errand, or the loop that withdraws it."""
        try:
            self.ticket.pop()
        except IndexError:
            return False
        return True

    def settle(self) -> None:
        """On the loop: the leg is over; `call`, `error` or `answer` says how."""
        self.settled = True
        if not self.future.done():
            self.future.set_result(None)

    def reply(self, answer: Any, error: BaseException | None) -> None:
        """On the loop: prepare the leg that goes on after a `Call`."""
        self.call = None
        self.answer, self.error = answer, error
        self.settled = False
        self.future = self.loop.create_future()

    def withdraw(self, error: BaseException | None) -> bool:
        """Answer an errand that no lane has started; False if one has."""
        if not self.claim():
            return False
        if self.work is not None:
            self.work.close()
        self.error = error
        return True


class Lane(threading.Thread):
    """The thread. Several reader lanes may share an inbox; a writer has its own."""

    def __init__(
        self,
        url: DatabaseUrl,
        inbox: "SimpleQueue[Errand | None]",
        *,
        name: str,
        observers: Sequence[Observer],
        functions: Mapping[str, Callable[..., Any]],
        writes: bool,
        busy_seconds: float,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._url = url
        self._inbox = inbox
        self._backlog: deque[Errand | None] = deque()
        self._observers = observers
        self._functions = functions
        self._writes = writes
        self._busy_seconds = busy_seconds
        self._holder: Transaction | None = None
        self._serving: Errand | None = None
        self._forced = threading.Event()
        self._opening = Errand(None)

    @property
    def holder(self) -> Transaction | None:
        """Who has the lane now; for messages."""
        return self._holder

    def launch(self) -> Errand:
        """Start the thread; the errand is settled when the connection is open or has failed."""
        self.start()
        return self._opening

    def force(self) -> None:
        """Roll back what is open and refuse what waits. Callable from any thread."""
        self._forced.set()
        self._inbox.put(None)

    def run(self) -> None:
        try:
            self._connection = self._connect()
            self._cursor = self._connection.cursor()
        except Exception as error:  # noqa: BLE001 - answered to who opens
            self._post(self._opening, error=translate(error, OPEN, self._url.shown))
            return
        self._post(self._opening)
        try:
            while (errand := self._next()) is not None:
                self._serving = errand
                self._serve(errand)
                self._serving = errand = None
        finally:
            self._finish()

    def _connect(self) -> Any:
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        connection: Any = apsw.Connection(self._url.path, flags=flags, statementcachesize=STATEMENTS_CACHED)
        connection.set_busy_handler(self._busy)
        if not self._url.in_memory and self._writes:
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute(f"PRAGMA synchronous = {self._url.synchronous}").fetchall()
        connection.execute("PRAGMA foreign_keys = ON").fetchall()
        connection.execute("PRAGMA temp_store = MEMORY").fetchall()
        for name, function in self._functions.items():
            connection.create_scalar_function(name, function, deterministic=True)
        if not self._writes:
            connection.execute("PRAGMA query_only = ON").fetchall()
        return connection

    def _busy(self, times: int) -> bool:
        """Whether to try again for a lock that another connection has, after a pause."""
        pause = BUSY_PAUSES_SECONDS[min(times, len(BUSY_PAUSES_SECONDS) - 1)]
        waited = sum(BUSY_PAUSES_SECONDS[:times]) + pause * max(0, times - len(BUSY_PAUSES_SECONDS))
        if waited >= self._busy_seconds or (self._serving is not None and self._serving.cancelled):
            return False
        return not self._forced.wait(pause)

    def _next(self) -> Errand | None:
        """The errand whose turn it is; None to stop."""
        if self._backlog and self._holder is None and not self._forced.is_set():
            return self._backlog.popleft()
        while True:
            errand = self._inbox.get()
            if self._holder is None or self._forced.is_set():
                return None if self._forced.is_set() and self._keep(errand) else errand
            if errand is not None and errand.transaction is self._holder:
                return errand
            self._backlog.append(errand)

    def _keep(self, errand: Errand | None) -> bool:
        self._backlog.append(errand)
        return True

    def _serve(self, errand: Errand) -> None:
        if not errand.started:
            if not errand.claim():
                return
            errand.started = True
        try:
            if errand.begins:
                self._begin(errand)
            answer = self._drive(errand) if errand.work is not None else None
            if errand.call is not None:
                self._post(errand, call=errand.call)
                return
            if errand.ends:
                self._end(errand)
        except BaseException as error:  # noqa: BLE001 - answered to who waits, whatever it is
            # A read may have begun a snapshot of its own.
            if errand.ends or errand.transaction is None:
                self._rollback()
            self._post(errand, error=error)
        else:
            self._post(errand, answer=answer)

    def _begin(self, errand: Errand) -> None:
        errand.begins = False
        try:
            self._execute(BEGIN_IMMEDIATE)
        except EnsueError as error:
            if errand.work is not None:
                errand.work.close()
            if errand.cancelled:
                raise asyncio.CancelledError from None
            raise Unavailable(
                f"The database {self._url.shown} could not be locked for writing ({error}). If another process writes "
                f"to it, its transaction took longer than {self._busy_seconds:g} s; try again."
            ) from error
        self._holder = errand.transaction

    def _end(self, errand: Errand) -> None:
        assert errand.transaction is not None
        if not errand.commits:
            self._rollback()
            return
        failure = errand.transaction.uncommittable()
        if failure is not None:
            raise failure
        if errand.cancelled:
            raise asyncio.CancelledError
        self._execute(COMMIT)
        self._holder = None

    def _rollback(self) -> None:
        """End what is open, if anything is: some errors make SQLite roll back by itself."""
        self._holder = None
        if self._connection.in_transaction:
            self._execute(ROLLBACK)

    def _drive(self, errand: Errand) -> Any:
        """Run the errand's generator until it ends or yields a `Call`, which is left in `errand.call`."""
        work, transaction = errand.work, errand.transaction
        assert work is not None
        observers = () if errand.quiet else self._observers
        answer, error = errand.answer, errand.error
        errand.answer = errand.error = None
        try:
            while True:
                request = work.send(answer) if error is None else work.throw(error)
                if errand.cancelled:
                    error = asyncio.CancelledError()
                    continue
                if isinstance(request, Call):
                    errand.call = request
                    return None
                try:
                    answer, error = self._answer(request, transaction, observers), None
                except Exception as failure:  # noqa: BLE001 - translated, and raised in the generator
                    error = self._failed(request, failure, transaction)
        except StopIteration as end:
            return end.value

    def _answer(
        self, request: Run, transaction: Transaction | None, observers: Sequence[Observer]
    ) -> list[tuple[Any, ...]]:
        statement, params = request.statement, request.params
        if transaction is not None:
            transaction.last = statement
            if transaction.failure is not None:
                self._refuse(transaction, statement)
        for observer in observers:
            observer(statement, len(params) if request.many else 1)
        if request.many:
            for row in params:
                _refuse_nul(row)
            self._cursor.executemany(statement.text, params).fetchall()
            return []
        _refuse_nul(params)
        rows: list[tuple[Any, ...]] = self._cursor.execute(statement.text, params).fetchall()
        if transaction is not None and transaction.failure is not None:
            transaction.recovered()
        return rows

    def _refuse(self, transaction: Transaction, statement: Statement) -> None:
        refused = transaction.refused(statement)
        if refused is not None:
            raise refused

    def _failed(self, request: Run, failure: Exception, transaction: Transaction | None) -> EnsueError:
        error = translate(failure, request.statement, self._url.shown)
        if transaction is not None and transaction.failure is None:
            transaction.failure = error
        return error

    def _execute(self, statement: Statement) -> None:
        for observer in self._observers:
            observer(statement, 1)
        try:
            self._cursor.execute(statement.text).fetchall()
        except Exception as error:
            raise translate(error, statement, self._url.shown) from error

    def _post(
        self, errand: Errand, *, answer: Any = None, error: BaseException | None = None, call: Call | None = None
    ) -> None:
        errand.answer, errand.error, errand.call = answer, error, call
        try:
            if errand.outbox is not None:
                errand.outbox.put(errand)
            else:
                errand.loop.call_soon_threadsafe(errand.settle)
        except RuntimeError:
            # The loop is closed: nobody will ever end this transaction.
            if errand.transaction is not None and errand.transaction is self._holder:
                self._rollback()

    def _finish(self) -> None:
        """Roll back, refuse whatever still waits, close."""
        try:
            self._rollback()
            self._connection.close()
        finally:
            waiting = [*self._backlog]
            while not self._inbox.empty():
                waiting.append(self._inbox.get())
            for errand in waiting:
                self._turn_away(errand)
            # Lanes that share the inbox stop too.
            self._inbox.put(None)

    def _turn_away(self, errand: Errand | None) -> None:
        if errand is None or (not errand.started and not errand.claim()):
            return
        error: EnsueError = Unavailable(f"The database {self._url.shown} was closed before the work was done.")
        if errand.work is not None:
            try:
                errand.work.close()
            except RuntimeError as failure:
                message = f"Work did not end when the database was closed: {failure}"
                error = InternalError(message)
        self._post(errand, error=error)


def _refuse_nul(params: Sequence[Any]) -> None:
    for value in params:
        if value.__class__ is str and "\0" in value:
            raise violations.unstorable_text()
