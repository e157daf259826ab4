"""Run engine work as transactions: one per call, or inside the one that the task has open; retried when it lost a conflict.

Holds what lives as long as the app: plan, driver, id blocks, compiled reads. Announces every commit. Invariant: a transaction is
used by the task that opened it, and nothing of a failed attempt survives into the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TypeVar

from ensue.clock import Clock
from ensue.engine.announce import Announcer
from ensue.engine.callbacks import current, running
from ensue.engine.commit import Commit, finish, settle
from ensue.engine.grouping.groups import Groups
from ensue.engine.propagation.propagate import propagate
from ensue.engine.read.reads import Reader
from ensue.engine.transaction import Prepared, Transaction
from ensue.engine.violations import in_schema_words
from ensue.engine.writing.ids import IdBlocks
from ensue.errors import Conflict, ConstraintViolated, Unavailable, UsageError
from ensue.plan.plan import Plan
from ensue.store.driver import Driver, Session
from ensue.store.retry import stand_in_line, with_retry
from ensue.store.statement import Work
from ensue.telemetry import Switchboard

T = TypeVar("T")
Body = Callable[[Transaction], Work[T]]
CommitListener = Callable[[Commit], None]


class Engine:
    """Plan × driver."""

    def __init__(self, plan: Plan, driver: Driver, clock: Clock, telemetry: Switchboard | None = None) -> None:
        self.telemetry = telemetry or Switchboard()
        self.plan = plan
        self.driver = driver
        self.clock = clock
        self.ids = IdBlocks(plan.dialect)
        self.reader = Reader(plan.model, plan, plan.dialect, clock)
        self.announcer = Announcer(driver)
        self.listeners: list[CommitListener] = [self.announcer.committed]
        self.groups = Groups(lambda: self.driver, self.committed)

    def begin(
        self,
        *,
        now: datetime | None = None,
        capture: bool = False,
        prepared: Prepared | None = None,
        trace: str | None = None,
        lost: int = 0,
    ) -> Transaction:
        """The state of a transaction about to start."""
        return Transaction(
            plan=self.plan,
            ids=self.ids,
            now=self.clock.now() if now is None else now,
            reader=self.reader,
            capture=capture,
            prepared={} if prepared is None else prepared.values,
            allotted=set() if prepared is None else set(prepared.allotted),
            trace=trace,
            lost=lost,
        )

    async def write(self, body: Body[T], *, prepared: Prepared | None = None) -> T:
        """Run `body` in the task's transaction, or in one of its own which is retried when it lost a conflict."""
        tx = running()
        if tx is not None:
            return await self.inside(tx, body)
        now, trace = self.clock.now(), self.telemetry.traceparent()

        async def attempt(lost: int) -> T:
            return await self.once(body, self.begin(now=now, prepared=prepared, trace=trace, lost=lost))

        return await with_retry(attempt)

    async def once(self, body: Body[T], tx: Transaction) -> T:
        """Run `body` in a transaction of its own, once."""

        def work() -> Work[tuple[T, Commit]]:
            try:
                if tx.lost:
                    yield from stand_in_line(self.plan.dialect, tx.lost)
                result = yield from body(tx)
                return result, (yield from finish(tx))
            except BaseException:
                tx.give_up()
                raise

        try:
            result, commit = await self.driver.write(work())
        except ConstraintViolated as error:
            tx.roll_back()
            raise in_schema_words(self.plan, error) from error
        except BaseException:
            tx.roll_back()
            raise
        finally:
            tx.ended = True
        self.committed(commit)
        return result

    async def inside(self, tx: Transaction, body: Body[T]) -> T:
        """Run `body` in an open transaction that belongs to this task."""
        if not tx.writable:
            raise UsageError(
                "A callback (allow, compute, initial, value, record) wrote through the store. Callbacks read; to change data "
                "return the value, or derive it from an event that the callback's interaction stores."
            )
        tx.require_whole()
        try:
            return await session_of(tx).run(body(tx))
        except ConstraintViolated as error:
            raise in_schema_words(self.plan, error) from error
        except asyncio.CancelledError as error:
            tx.failed(error)  # wherever it was
            raise

    async def read(self, body: Callable[[Reader], Work[T]]) -> T:
        """Run a read: inside the task's transaction with everything derived brought up to date, or on its own."""
        tx = running()
        if tx is None:
            return await self.driver.read(body(self.reader))
        tx.require_whole()

        def work() -> Work[T]:
            if tx.propagating:
                raise UsageError(
                    "A function of a Custom or of a Transform read through the store. It runs while derived data is brought up to "
                    "date, and what it reads must be known: name it in uses=[…] of the Custom, or map it from the source record."
                )
            # State machines that listen to what derives are told at the end: a read changes nothing.
            yield from propagate(tx)
            return (yield from body(self.reader))

        await open_lazily(tx)
        return await session_of(tx).run(work())

    @asynccontextmanager
    async def transaction(self, *, lost: int = 0) -> AsyncGenerator[None]:
        """Group writes: one transaction, or a savepoint in the one that is open.

        `lost` is how many conflicts the caller's earlier attempts lost.
        """
        tx = running()
        if tx is not None:
            async with self._savepoint(tx):
                yield
            return
        tx = self.begin(trace=self.telemetry.traceparent(), lost=lost)
        commit: Commit | None = None
        try:
            async with self.driver.transaction() as session:
                tx.session = session
                if lost:
                    await session.run(stand_in_line(self.plan.dialect, lost))
                token = current.set(tx)
                try:
                    try:
                        yield
                    finally:
                        current.reset(token)
                    commit = await session.run(finish(tx))
                except BaseException:
                    tx.give_up()
                    raise
        except Conflict as error:
            tx.roll_back()
            raise Unavailable(
                f"The transaction lost a conflict with another and was rolled back ({error}). Its body can't be run again from "
                "here: put it into an async function and call `await store.run(function)`, which retries it.",
                retryable=True,
            ) from error
        except BaseException:
            tx.roll_back()
            raise
        finally:
            tx.ended = True
        self.committed(commit)

    @asynccontextmanager
    async def _savepoint(self, tx: Transaction) -> AsyncGenerator[None]:
        await self.inside(tx, settle)
        session = session_of(tx)
        depth = len(tx.frames)
        try:
            async with session.savepoint():
                tx.push()
                yield
                await self.inside(tx, settle)
        except BaseException:
            while len(tx.frames) > depth:
                tx.roll_back()
            raise
        tx.release()

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Await `work()` in a transaction, again from the start when it lost a conflict."""
        if running() is not None:
            async with self.transaction():
                return await work()

        async def attempt(lost: int) -> T:
            try:
                async with self.transaction(lost=lost):
                    return await work()
            except Unavailable as error:
                if isinstance(error.__cause__, Conflict):
                    raise error.__cause__ from None
                raise

        return await with_retry(attempt)

    def committed(self, commit: Commit) -> None:
        """Tell everyone who follows commits."""
        for listener in self.listeners:
            listener(commit)


def session_of(tx: Transaction) -> Session:
    """The session of an open transaction; a transaction that is about to end has none."""
    if tx.session is None:
        raise UsageError(
            "This code runs in a callback of a write that does not wait: the store can't be used from it. Make the callback async "
            "(`async def`) and await the store's methods."
        )
    return tx.session


async def open_lazily(tx: Transaction) -> None:
    """Start the transaction of a dispatch whose guard reads, at its first read."""
    opener = tx.opener
    if opener is not None:
        tx.opener = None
        await opener()
