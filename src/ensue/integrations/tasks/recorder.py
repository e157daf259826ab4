"""Writing down what was heard of tasks: the row and the events of each in one transaction, many tasks at a time.

Decides what shares a transaction: whatever came in while the one before was under way. Leaves what is to be written
to `submit` and `visits`. Invariants: events are created only for rows that were still as they were seen; one change
that the database refuses holds up no other.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ensue.engine.engine import Engine
from ensue.engine.transaction import Transaction
from ensue.engine.writing.writes import create_records
from ensue.integrations.tasks.poll_table import Outcome, Ref, record
from ensue.integrations.tasks.task import TaskEvent
from ensue.store.statement import Work

CHANGES_MAX = 100


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one task's row, and the events that are created with it (values by name)."""

    outcome: Outcome
    events: Sequence[Mapping[str, Any]] = ()

    @property
    def ref(self) -> Ref:
        return self.outcome.task_type, self.outcome.task_id


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A change, the trace that it belongs to, and who waits for it."""

    change: Change
    trace: str | None
    future: asyncio.Future[bool]


class Recorder:
    """Writes changes; `record` waits until its own is committed."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: list[_Waiting] = []
        self._flushing: asyncio.Task[None] | None = None
        # What it writes is nobody's transaction.
        self._context = contextvars.copy_context()

    async def record(self, change: Change) -> bool:
        """Commit `change`. False if the row is not as it was seen: then nothing of it was written."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(change, self._engine.telemetry.traceparent(), future))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush(), name="ensue.tasks.record", context=self._context.copy())
        return await future

    async def close(self) -> None:
        """Wait until everything that was handed in is written."""
        if self._flushing is not None:
            await asyncio.wait([self._flushing])

    async def _flush(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:CHANGES_MAX], self._waiting[CHANGES_MAX:]
                await self._write_all(batch)
        finally:
            self._flushing = None

    async def _write_all(self, batch: Sequence[_Waiting]) -> None:
        # One row can't be changed twice by one statement.
        alone = len({one.change.ref for one in batch}) == len(batch)
        # What has no events causes nothing, so that it need not be in anybody's trace.
        causes = [one.trace for one in batch if one.change.events]
        try:
            ours: frozenset[Ref] | None = None
            if alone:
                with self._engine.telemetry.activity("record", "tasks", causes=causes, count=len(batch)):
                    ours = await self._write([one.change for one in batch])
        except Exception as error:  # noqa: BLE001 - handed to those who wait, each their own
            if len(batch) == 1:
                _answer(batch[0].future, error)
                return
            ours = None
        if ours is None:
            for one in batch:
                await self._write_all([one])
            return
        for one in batch:
            _answer(one.future, one.change.ref in ours)

    async def _write(self, changes: Sequence[Change]) -> frozenset[Ref]:
        plan = self._engine.plan.records[TaskEvent.__name__]

        def body(tx: Transaction) -> Work[frozenset[Ref]]:
            ours = yield from record(tx.plan.dialect, [change.outcome for change in changes])
            events = [event for change in changes if change.ref in ours for event in change.events]
            if events:
                yield from create_records(tx, plan, events)
            return ours

        return await self._engine.write(body)


def _answer(future: asyncio.Future[bool], answer: bool | Exception) -> None:
    if future.done():
        return  # whoever asked was cancelled
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
