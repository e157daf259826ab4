"""The durable submission of a task: one attempt of it, and the question whether an earlier one arrived.

Decides what is written for each end of an attempt: the provider has the task, refused it, never got it, or may have
it. Leaves trying again to `ensue.effects`, and HTTP to the author. Invariants: a submission that may have been
accepted is not sent again unless the provider folds repeats, it was asked, or the integration's policy says so; what
the provider answered is committed together with the events that tell of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ensue.clock import whole_micros
from ensue.effects.retry import describe
from ensue.errors import Unavailable, UnknownOutcome
from ensue.integrations.tasks.desk import Desk
from ensue.integrations.tasks.held import held_events
from ensue.integrations.tasks.poll_table import Begun, Intent, Outcome, Ref, begin, look
from ensue.integrations.tasks.recorder import Change
from ensue.integrations.tasks.schedule import first_pause
from ensue.integrations.tasks.sending import end_of
from ensue.integrations.tasks.task import TaskEvent
from ensue.integrations.tasks.update import (
    Next,
    Submitted,
    TaskUpdate,
    UnknownStatus,
    answer_of_submit,
    answer_of_verify,
    is_final,
    meaning,
    status_of,
)
from ensue.integrations.tasks.visits import UNKNOWN_OUTCOME, final_events, task_event
from ensue.schema.delivery import Receipt
from ensue.schema.effect import Effect
from ensue.store.task_table import TaskPhase

_logger = logging.getLogger("ensue.tasks")

KEEP_SECONDS: Final = 20.0
KEEP_PAUSE_SECONDS: Final = 0.25
_FOR_EVER: Final = 2**62


class Submitter:
    """Submits the tasks of one integration."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def submit(self, effect: Effect[Any]) -> Receipt | None:
        """One attempt. Raises what delivery is to judge when the task is to be submitted again, or asked after."""
        desk, ref = self._desk, _ref(effect)
        if await self._status(ref) != "queued":
            return None
        begun = await desk.driver.write(begin(desk.driver.dialect, self._intent(effect)))
        if begun.find == "done":
            return None
        if begun.find == "unknown":
            return await self._interrupted(effect, begun)
        try:
            async with asyncio.timeout(desk.limits.submit_timeout_seconds):
                answer = answer_of_submit(await desk.author.submit(effect.record, effect.key), desk.terms.statuses)
        except Exception as error:  # noqa: BLE001 - each is an end of the attempt, and none is lost
            desk.condition.note(error)
            return await self._failed(effect, begun, error)
        desk.condition.note(None)
        return await self._accept(effect, begun, answer)

    async def verify(self, effect: Effect[Any]) -> Receipt | bool | None:
        """Whether an earlier attempt arrived, as far as the row or else the provider can tell."""
        desk, ref = self._desk, _ref(effect)
        row = await desk.driver.write(look(desk.driver.dialect, ref))
        if row is None or (row.key == effect.key and row.phase == "ready"):
            return False
        if row.key != effect.key or row.phase != "sending":
            return True
        answer = answer_of_verify(await desk.author.verify(effect.record, effect.key))
        if answer is None:
            return None
        begun = Begun("unknown", row.submits, row.deadline)
        if answer is False:
            await self._write(effect, "ready")
            return False
        return await self._accept(effect, begun, Submitted(effect.key) if answer is True else answer) or True

    async def _failed(self, effect: Effect[Any], begun: Begun, error: Exception) -> Receipt | None:
        end = end_of(error)
        if end == "unknown":
            return await self._unknown(effect, begun, describe(error), error)
        if end == "not taken":
            await self._write(effect, "ready", error=describe(error))
            raise error
        values = {"error": describe(error), "attempt": begun.submits, "deadline": begun.deadline}
        await self._write(
            effect, "settled", [task_event(_ref(effect), "failed", "submit", **values)], error=describe(error)
        )
        return None

    async def _interrupted(self, effect: Effect[Any], begun: Begun) -> Receipt | None:
        """An earlier attempt was cut short, and this is delivery's next."""
        why = "an earlier attempt was interrupted"
        if not self._desk.offers.verify:
            return await self._unknown(effect, begun, why)
        found = await self.verify(effect)
        if found is None:
            raise UnknownOutcome(f"{UNKNOWN_OUTCOME}: {why}")
        if found is False:
            return await self.submit(effect)
        return found if isinstance(found, Receipt) else None

    async def _unknown(
        self, effect: Effect[Any], begun: Begun, why: str, error: Exception | None = None
    ) -> Receipt | None:
        """It may have been accepted: have it asked after, or end the task for an operator to decide."""
        text = f"{UNKNOWN_OUTCOME}: {why}"
        if begun.find == "send" and self._resend_micros() is not None:
            # It may be sent again: the provider folds repeats, or the policy says so. `begin` knows until when.
            raise Unavailable(text) from error
        if self._desk.offers.verify:
            raise UnknownOutcome(text) from error
        values = {"error": text, "attempt": begun.submits, "deadline": begun.deadline}
        await self._write(effect, "settled", [task_event(_ref(effect), "failed", "submit", **values)], error=text)
        _logger.error(
            "the outcome of %s is unknown (%s) and can't be looked up: an operator must decide", effect.key, why
        )
        return None

    async def _accept(self, effect: Effect[Any], begun: Begun, answer: Submitted | TaskUpdate) -> Receipt | None:
        """The provider has it: say so, and how it ended if it did at once."""
        desk, ref = self._desk, _ref(effect)
        update = answer if isinstance(answer, TaskUpdate) else None
        found = "processing" if update is None else self._meaning(effect, update)
        if found == "resubmit":
            await self._write(effect, "ready", error=f"answered {answer!r}")
            raise Unavailable(
                f"The provider answered {update.status if update else ''!r}: it is to be submitted again."
            )
        external_id = answer.external_id
        cost = answer.cost if update is None else None
        values = {"attempt": begun.submits, "deadline": begun.deadline, "cost": cost}
        if update is not None and not is_final(found):
            values["progress"] = update.progress
        events = [task_event(ref, "processing", "submit", external_id=external_id, **values)]
        if update is not None and is_final(found):
            events += final_events(ref, update, status_of(found), origin="submit", before="processing")
        elif external_id is not None:
            events += await held_events(desk, [external_id], {external_id: ref})
        expected = answer.expected_seconds if isinstance(answer, Submitted) else None
        pause = first_pause(desk.pace, desk.rng, expected_seconds=expected)
        phase: TaskPhase = "settled" if is_final(found) else "waiting"
        ours = await self._keep(effect, phase, events, external_id=external_id, delay=round(pause * 1_000_000))
        if not ours:
            # It was given up meanwhile; its id is kept all the same, for whoever looks into it.
            await desk.store.create(TaskEvent(**events[0]))
        desk.wake()
        return None if external_id is None else Receipt(provider_id=external_id)

    async def _keep(
        self, effect: Effect[Any], phase: TaskPhase, events: Sequence[Mapping[str, Any]], **values: Any
    ) -> bool:
        """Write what the provider answered, for a while also over an outage of the database: it is known nowhere else."""
        clock = self._desk.clock
        end = clock.monotonic_seconds() + KEEP_SECONDS
        while True:
            try:
                return await self._write(effect, phase, events, **values)
            except Unavailable:
                if clock.monotonic_seconds() >= end:
                    _logger.error("%s was accepted as %s, which can't be written", effect.key, values["external_id"])
                    raise
                await asyncio.sleep(KEEP_PAUSE_SECONDS)

    def _meaning(self, effect: Effect[Any], update: TaskUpdate) -> Next:
        try:
            return meaning(update, self._desk.terms.statuses)
        except UnknownStatus as error:
            if update.external_id is None:
                raise
            # It is there under an id; whatever it is, a poll will tell.
            _logger.warning("%s was answered with %s", effect.key, error)
            return "processing"

    async def _write(
        self, effect: Effect[Any], phase: TaskPhase, events: Sequence[Mapping[str, Any]] = (), **values: Any
    ) -> bool:
        type_, id_ = _ref(effect)
        outcome = Outcome(task_type=type_, task_id=id_, key=effect.key, was="sending", phase=phase, **values)
        return await self._desk.recorder.record(Change(outcome, events))

    async def _status(self, ref: Ref) -> str | None:
        cls = self._desk.classes[ref[0]]
        found = await self._desk.store.find_one(cls, cls.id == ref[1], fields=[cls.status])
        return None if found is None else found.status

    def _intent(self, effect: Effect[Any]) -> Intent:
        limits = self._desk.limits
        return Intent(
            _ref(effect),
            self._desk.namespace,
            effect.key,
            deadline_micros=whole_micros(limits.deadline),
            resend_micros=self._resend_micros(),
        )

    def _resend_micros(self) -> int | None:
        limits = self._desk.limits
        if not limits.fail_unknown and not self._desk.offers.verify:
            return _FOR_EVER
        return None if limits.resend is None else whole_micros(limits.resend)


def _ref(effect: Effect[Any]) -> Ref:
    return effect.event.record_name, effect.record.id
