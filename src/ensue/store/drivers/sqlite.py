"""The SQLite driver: one writer lane, reader lanes for files, and the waiting of tasks for them.

Decides which lane takes an errand, how long it may wait there, and that a cancelled task gets its `CancelledError`
only when its work is rolled back or complete. Leaves the running to `sqlite_lane.py`. Invariants: what is written goes
through the one writer; an in-memory database has only that one, so its reads wait for open transactions. Observers are
called in the lanes' threads.
"""

import asyncio
import logging
from collections.abc import Callable, Generator, Mapping
from queue import SimpleQueue
from typing import Any, TypeVar

from ensue.background import end_tasks
from ensue.errors import Unavailable, UsageError
from ensue.store.driver import Dialect, Observer
from ensue.store.drivers.sqlite_lane import Errand, Lane, Outbox
from ensue.store.statement import Request, Run, Statement, Work
from ensue.store.transaction import (
    Opening,
    OwnedSession,
    ReadSession,
    Transaction,
    caller_origin,
    current_session,
    enter_session,
    leave_session,
    refuse_own_transaction,
    script,
)
from ensue.store.url import DatabaseUrl

logger = logging.getLogger("ensue.store")

T = TypeVar("T")

WAIT_SECONDS = 30.0
WATCH_SECONDS = 0.1
READERS = 2
_DATA_VERSION = Statement("data_version", "PRAGMA data_version", rows=True)


class SqliteDriver:
    """A `Driver` for one SQLite database.

    `wait_seconds` bounds the waiting for the writer, both for another task of this process and for another process;
    `watch_seconds` is how often `watch` looks for commits of other processes.
    """

    def __init__(
        self,
        url: DatabaseUrl,
        *,
        functions: Mapping[str, Callable[..., Any]] | None = None,
        readers: int = READERS,
        wait_seconds: float = WAIT_SECONDS,
        watch_seconds: float = WATCH_SECONDS,
    ) -> None:
        self._url = url
        self._functions = dict(functions or {})
        self._readers_max = 0 if url.in_memory else readers
        self._wait_seconds = wait_seconds
        self._watch_seconds = watch_seconds
        self._observers: list[Observer] = []
        self._lanes: list[Lane] = []
        self._writing: SimpleQueue[Errand | None] = SimpleQueue()
        self._reading: SimpleQueue[Errand | None] = SimpleQueue()
        self._outbox: Outbox | None = None
        self._open = False
        self._stopped = True
        self._active = 0
        self._idle: asyncio.Future[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def dialect(self) -> Dialect:
        return "sqlite"

    @property
    def observers(self) -> list[Observer]:
        return self._observers

    async def open(self) -> None:
        if self._open:
            raise UsageError(f"The database {self._url} is open already; open each driver once.")
        self._writing = SimpleQueue()
        self._reading = SimpleQueue() if self._readers_max else self._writing
        self._lanes = []
        self._stopped, self._active = False, 0
        try:
            # One after the other: the writer makes the file and its journal mode what readers expect.
            for number in range(1 + self._readers_max):
                await self._launch(writes=number == 0)
        except BaseException:
            await self._stop()
            raise
        self._open = True

    async def close(self) -> None:
        if not self._open:
            return
        session = current_session(self)
        if session is not None and session.transaction.task is asyncio.current_task():
            raise UsageError(f"The database {self._url} was closed inside of a transaction; end that first.")
        self._open = False
        watching, self._watching = self._watching, None
        await end_tasks(watching)
        await self._stop()

    def cut(self) -> None:
        self._stopped = True
        for lane in self._lanes:
            lane.force()

    async def read(self, work: Work[T]) -> T:
        if self._reading is self._writing:
            self._refuse_own(work, "reads outside of it from an in-memory database")
        self._enter(work)
        try:
            return await self._converse(Errand(work), self._reading)
        finally:
            self._leave()

    async def write(self, work: Work[T]) -> T:
        self._refuse_own(work, "starts a write of its own")
        self._enter(work)
        try:
            transaction = Transaction(asyncio.current_task())
            return await self._converse(Errand(work, transaction, begins=True, ends=True), self._writing)
        finally:
            self._leave()

    def transaction(self) -> "Opening[SqliteSession]":
        return Opening(self, caller_origin())

    async def script(self, statements: list[Statement]) -> None:
        await self.write(script(statements))

    async def watch(self, callback: Callable[[str], None]) -> None:
        if self._watching is not None:
            raise UsageError(f"The database {self._url} is watched already; one callback can tell many.")
        if not self._url.in_memory:
            version = await self._version()
            self._watching = asyncio.create_task(self._watch(callback, version), name="ensue-watch")

    async def drive_in(self, session: "SqliteSession", errand: Errand) -> Any:
        """For sessions: run an errand of an open transaction, which nothing makes wait."""
        return await self._converse(errand, self._writing, waits=False, shielded=session.shielded)

    async def begin_session(self, transaction: Transaction) -> "SqliteSession":
        """For `transaction()`: wait for the writer and BEGIN."""
        self._enter(None)
        errand = Errand(None, transaction, begins=True)
        try:
            await self._converse(errand, self._writing)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and errand.started and errand.error is None:
                await self._end(transaction, commits=False)
            else:
                self._leave()
            raise
        return SqliteSession(self, transaction)

    async def end_session(self, session: "SqliteSession", *, commits: bool) -> None:
        """For `transaction()`: COMMIT or ROLLBACK, even if the task is cancelled meanwhile."""
        await self._end(session.transaction, commits=commits)

    def abandon_session(self, session: "SqliteSession") -> None:
        """For `transaction()`, whose task can't await any more: ROLLBACK, answered to nobody."""
        self._writing.put(Errand(None, session.transaction, ends=True, commits=False))
        self._leave()

    async def _end(self, transaction: Transaction, *, commits: bool) -> None:
        errand = Errand(None, transaction, ends=True, commits=commits)
        try:
            await self._converse(errand, self._writing, waits=False, shielded=True)
        finally:
            self._leave()

    def _leave(self) -> None:
        """What was entered is over; `close` waits for the last."""
        self._active -= 1
        if not self._active and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _enter(self, work: Work[Any] | None) -> None:
        if not self._open:
            if work is not None:
                work.close()
            raise Unavailable(f"The database {self._url} is not open.")
        self._active += 1

    def _refuse_own(self, work: Work[Any], doing: str) -> None:
        try:
            refuse_own_transaction(self, doing)
        except UsageError:
            work.close()
            raise

    async def _launch(self, *, writes: bool) -> None:
        lane = Lane(
            self._url,
            self._writing if writes else self._reading,
            name=f"ensue-sqlite-{'writer' if writes else 'reader'}",
            observers=self._observers,
            functions=self._functions,
            writes=writes,
            busy_seconds=self._wait_seconds,
        )
        self._lanes.append(lane)
        opening = lane.launch()
        await asyncio.shield(opening.future)
        if opening.error is not None:
            self._lanes.remove(lane)
            raise opening.error

    async def _stop(self) -> None:
        """Wait for what was entered; what does not end within `wait_seconds` is rolled back and refused."""
        if self._active:
            self._idle = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._idle], timeout=self._wait_seconds)
            self._idle = None
        self._stopped = True
        for lane in self._lanes:
            lane.force()
        await asyncio.gather(*(asyncio.to_thread(lane.join) for lane in self._lanes))
        self._lanes = []

    async def _converse(
        self, errand: Errand, inbox: "SimpleQueue[Errand | None]", *, waits: bool = True, shielded: bool = False
    ) -> Any:
        """Send an errand and answer its Calls until it is done. A cancellation is raised when it is over."""
        if self._stopped:
            raise self._cut_off(errand)
        errand.outbox = self._outbox_of(errand.loop)
        timer = errand.loop.call_later(self._wait_seconds, self._expire, errand) if waits else None
        cancelled: BaseException | None = None
        inbox.put(errand)
        try:
            while True:
                try:
                    await errand.future
                except asyncio.CancelledError as error:
                    cancelled = error
                    errand.cancelled = not shielded
                    if not shielded and errand.withdraw(None):
                        raise
                    if not errand.settled:
                        errand.future = errand.loop.create_future()
                        continue
                if errand.call is None:
                    break
                await self._call(errand, cancelled)
                if self._stopped:
                    raise self._cut_off(errand)
                inbox.put(errand)
        except GeneratorExit:
            self._orphan(errand, inbox)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if cancelled is not None:
            raise cancelled
        if errand.error is not None:
            raise errand.error
        return errand.answer

    async def _call(self, errand: Errand, cancelled: BaseException | None) -> None:
        """Await the callback of a `Call`, with the errand's transaction as current session, and note its result."""
        call, transaction = errand.call, errand.transaction
        assert call is not None
        session, entered = current_session(self), False
        if transaction is not None and (session is None or session.transaction is not transaction):
            session, entered = SqliteSession(self, transaction), True
            enter_session(self, session)
        try:
            if cancelled is not None:
                raise cancelled
            answer = await call.function(session if transaction is not None else ReadSession(self.read))
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 - goes to the generator, whatever it is
            errand.reply(None, error)
        else:
            errand.reply(answer, None)
        finally:
            if entered and session is not None:
                leave_session(session)

    def _outbox_of(self, loop: asyncio.AbstractEventLoop) -> Outbox:
        outbox = self._outbox
        if outbox is None or outbox.loop is not loop:
            outbox = self._outbox = Outbox(loop)
        return outbox

    def _cut_off(self, errand: Errand) -> Unavailable:
        if errand.work is not None:
            errand.work.close()
        return Unavailable(f"The database {self._url} was closed before the work was done.")

    def _orphan(self, errand: Errand, inbox: "SimpleQueue[Errand | None]") -> None:
        errand.cancelled = True
        if errand.call is not None:
            errand.reply(None, asyncio.CancelledError())
            inbox.put(errand)

    def _expire(self, errand: Errand) -> None:
        holder = self._lanes[0].holder if self._lanes else None
        error = Unavailable(
            f"The writer of {self._url} was not free within {self._wait_seconds:g} s; it is held by "
            f"{holder or 'nobody'}. Keep transactions short, and await nothing slow inside of them."
        )
        if errand.withdraw(error):
            errand.settle()

    async def _version(self) -> int:
        errand = Errand(_rows(_DATA_VERSION), quiet=True)
        rows: list[tuple[int]] = await self._converse(errand, self._writing, waits=False)
        return rows[0][0]

    async def _watch(self, callback: Callable[[str], None], version: int) -> None:
        failing = False
        while True:
            await asyncio.sleep(self._watch_seconds)
            try:
                seen, version = version, await self._version()
                if version != seen:
                    callback("")
                failing = False
            except Exception:
                if not failing:
                    logger.exception("watching %s for commits of other processes failed; it goes on", self._url)
                failing = True


class SqliteSession(OwnedSession):
    """An open transaction on the writer lane."""

    def __init__(self, driver: SqliteDriver, transaction: Transaction) -> None:
        super().__init__(transaction)
        self._driver = driver
        self.shielded = False

    async def _drive(self, work: Work[T], *, shielded: bool) -> T:
        self.shielded = shielded
        return await self._driver.drive_in(self, Errand(work, self.transaction))


def _rows(statement: Statement) -> Generator[Request, Any, Any]:
    return (yield Run(statement))
