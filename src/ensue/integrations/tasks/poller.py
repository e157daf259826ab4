"""The poller of one process: looks which tasks are due, visits them, and writes what it heard.

Decides when to look, how many tasks are visited at a time, and when to stop asking a provider that wants a pause.
Leaves what follows from an answer to `visits`, and the SQL to `poll_table`. Invariants: a task is asked after only
under a lease that outlasts the call; nothing is held in the database while a call is under way; the loop ends only
when it is left.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self
from uuid import uuid4

from ensue.background import Background, end_tasks
from ensue.clock import whole_micros
from ensue.effects.retry import asked_pause, describe
from ensue.errors import Unavailable
from ensue.integrations.tasks.desk import Desk
from ensue.integrations.tasks.held import held_events
from ensue.integrations.tasks.poll_table import Claim, Ref, claim, due_in, prune, release, sweep, traces_of
from ensue.integrations.tasks.recorder import Change
from ensue.integrations.tasks.schedule import next_pause, spread
from ensue.integrations.tasks.update import TaskUpdate, answer_of_poll, answers_of_poll_many
from ensue.integrations.tasks.visits import Move, Seen, after_answer, without_asking

_logger = logging.getLogger("ensue.tasks")

IDLE_SECONDS: Final = 2.0
"""The longest pause between looks: what other processes submitted is noticed by then."""
BUSY_SECONDS: Final = 0.1
SWEEP_SECONDS: Final = 15.0
PRUNE_SECONDS: Final = 3600.0
KEPT: Final = timedelta(days=7)
"""How long the row of a task that ended is kept, for late callbacks."""
_SECOND: Final = 1_000_000

Heard = TaskUpdate | BaseException | None


class Poller(Background):
    """Visits tasks while it is entered; `visit_due` does one round, for tests."""

    task_name = "ensue.tasks.poller"

    def __init__(self, desk: Desk, *, running: bool) -> None:
        self._desk = desk
        self._running = running
        self._signal = asyncio.Event()
        self._visits: set[asyncio.Task[None]] = set()
        self._context = contextvars.copy_context()
        self._tokens: set[str] = set()
        self._held_until = float("-inf")
        self._swept_at = float("-inf")
        self._pruned_at = float("-inf")

    async def __aenter__(self) -> Self:
        if self._running:
            await super().__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop asking; what was claimed and not heard of goes back."""
        await super().__aexit__(kind, error, trace)
        await end_tasks(*self._visits)
        await self._desk.recorder.close()
        for token in self._tokens:
            with suppress(Unavailable):
                await self._desk.driver.write(release(self._desk.driver.dialect, self._desk.namespace, token))

    def wake(self) -> None:
        """Something was submitted here: look when it is due."""
        self._signal.set()

    async def visit_due(self) -> int:
        """Visit what is due now, and wait for the answers; how many tasks were visited."""
        await self._sweep()
        visited = 0
        while found := await self._claim_and_visit(self._desk.limits.polls_at_once):
            visited += found
            while self._visits:
                await asyncio.wait(self._visits)
        return visited

    # --- The loop -----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._signal.clear()
            pause = IDLE_SECONDS
            try:
                pause = await self._round()
            except Unavailable as error:
                _logger.warning("polling waits for the database: %s", error)
            except Exception:
                _logger.exception("a round of polling failed; it is tried again")
            with suppress(TimeoutError):
                async with asyncio.timeout(spread(pause, self._desk.rng)):
                    await self._signal.wait()

    async def _round(self) -> float:
        """Launch what is due and there is room for; seconds until the next look, which the end of a visit brings on."""
        desk = self._desk
        now = desk.clock.monotonic_seconds()
        if now - self._swept_at >= SWEEP_SECONDS:
            await self._sweep()
        held = self._held_until - now
        if held > 0:
            return min(IDLE_SECONDS, held)
        room = desk.limits.polls_at_once - len(self._visits)
        due = await desk.driver.read(due_in(desk.driver.dialect, desk.namespace)) if room > 0 else None
        if due is None:
            return IDLE_SECONDS
        if due > 0:
            return min(IDLE_SECONDS, due / _SECOND)
        # What is due and can't be had is being claimed by somebody else.
        return 0.0 if await self._claim_and_visit(room) else BUSY_SECONDS

    async def _sweep(self) -> None:
        """Notice the submissions that delivery did not come to, or gave up; forget what ended long ago."""
        desk = self._desk
        now = self._swept_at = desk.clock.monotonic_seconds()
        deadline, kept = (whole_micros(item) for item in (desk.limits.deadline, KEPT))
        dialect, name = desk.driver.dialect, desk.namespace
        await desk.driver.write(sweep(dialect, name, desk.effects, deadline_micros=deadline, kept_micros=kept))
        if now - self._pruned_at >= PRUNE_SECONDS:
            self._pruned_at = now
            await desk.driver.write(prune(dialect, name, kept))

    # --- Visits -------------------------------------------------------------------------------------------------------

    async def _claim_and_visit(self, room: int) -> int:
        """Claim what is due and start the visits; how many."""
        desk = self._desk
        token, since = uuid4().hex, desk.clock.monotonic_seconds()
        self._tokens.add(token)
        claims = await desk.driver.write(
            claim(
                desk.driver.dialect,
                desk.namespace,
                at_most=room,
                token=token,
                lease_micros=round(desk.limits.lease_seconds * _SECOND),
                worker=desk.worker,
            )
        )
        seen = await self._look(claims)
        traces = await self._traces(claims)
        groups = [seen] if desk.offers.poll_many else [[one] for one in seen]
        visits = [self._start(group, since, traces) for group in groups if group]
        self._keep_token(token, visits)
        return len(claims)

    async def _traces(self, claims: Sequence[Claim]) -> Mapping[str, str]:
        """The traces that the tasks were submitted in, by key; asked for only if somebody wants to know."""
        driver = self._desk.driver
        if not claims or not self._desk.telemetry.listening:
            return {}
        return await driver.read(traces_of(driver.dialect, [one.key for one in claims]))

    def _start(self, seen: Sequence[Seen], since: float, traces: Mapping[str, str]) -> asyncio.Task[None]:
        work = self._visit_told(seen, since, traces)
        task = asyncio.create_task(work, name="ensue.tasks.visit", context=self._context.copy())
        self._visits.add(task)
        task.add_done_callback(self._visits.discard)
        return task

    def _keep_token(self, token: str, visits: Sequence[asyncio.Task[None]]) -> None:
        """Remember the lease until the last of its visits ends, to give it back when they are cut short."""
        left = len(visits)
        if not left:
            self._tokens.discard(token)

        def ended(task: asyncio.Task[None]) -> None:
            nonlocal left
            left -= 1
            if left == 0 and not task.cancelled():
                self._tokens.discard(token)
            self._signal.set()

        for task in visits:
            task.add_done_callback(ended)

    async def _look(self, claims: Sequence[Claim]) -> list[Seen]:
        """The claimed tasks as they are now, in one read for each class, and the callbacks that were kept for them."""
        desk = self._desk
        found: dict[Ref, Any] = {}
        for name in {one.ref[0] for one in claims} & desk.classes.keys():
            cls = desk.classes[name]
            ids = [one.ref[1] for one in claims if one.ref[0] == name]
            rows = await desk.store.find(cls, cls.id.in_(ids), fields=[cls.status, cls.progress])
            found.update({(name, row.id): row for row in rows})
        tasks = {one.external_id: one.ref for one in claims if one.external_id is not None and one.phase == "waiting"}
        kept: dict[Ref, list[Mapping[str, Any]]] = {}
        for event in await held_events(desk, list(tasks), tasks):
            kept.setdefault((event["task_type"], event["task_id"]), []).append(event)
        return [_seen(one, found.get(one.ref), kept.get(one.ref, ())) for one in claims]

    async def _visit_told(self, seen: Sequence[Seen], since: float, traces: Mapping[str, str]) -> None:
        causes = [traces.get(one.claim.key) for one in seen]
        ids = [one.claim.external_id for one in seen if one.claim.external_id is not None]
        name = self._desk.namespace
        with self._desk.telemetry.activity("poll", name, causes=causes, provider_ids=ids) as activity:
            for outcome, count in (await self._visit(seen, since)).items():
                activity.end_as(outcome)
                for _ in range(count):
                    self._desk.telemetry.count("poll", name, outcome)

    async def _visit(self, seen: Sequence[Seen], since: float) -> Mapping[str, int]:
        """Ask the provider where it must be asked, and write what follows; how many ended in which way."""
        moves = {one.claim.ref: move for one in seen if (move := without_asking(one)) is not None}
        asked = [one for one in seen if one.claim.ref not in moves]
        limits = self._desk.limits
        age = self._desk.clock.monotonic_seconds() - since
        if age > limits.lease_seconds - limits.poll_timeout_seconds:
            # The lease may end while the call is under way, and then somebody else would ask as well.
            _logger.warning("%d tasks were claimed and not visited in time; others visit them", len(asked))
            asked = []
        heard = await self._ask(asked)
        for one in asked:
            moves[one.claim.ref] = after_answer(one, heard[one.claim.ref], self._desk.terms)
        await asyncio.gather(*(self._write(one, moves[one.claim.ref]) for one in seen if one.claim.ref in moves))
        return Counter("failed" if moves[one.claim.ref].failed else moves[one.claim.ref].phase for one in asked)

    async def _ask(self, seen: Sequence[Seen]) -> Mapping[Ref, Heard]:
        """The answer for each, which may be the error that came in its place."""
        offers = self._desk.offers
        if not seen or not (offers.poll or offers.poll_many):
            return {one.claim.ref: None for one in seen}
        ids = {one.claim.ref: one.claim.external_id or "" for one in seen}
        try:
            async with asyncio.timeout(self._desk.limits.poll_timeout_seconds):
                answers = await self._answers(list(ids.values()))
        except Exception as error:  # noqa: BLE001 - logged and kept with the row; a failed poll fails no task
            self._failed(ids, error)
            return dict.fromkeys(ids, error)
        self._desk.condition.note(None)
        missing = LookupError("the answer of poll_many says nothing of it")
        return {ref: self._understood(ref, answers.get(external_id, missing)) for ref, external_id in ids.items()}

    async def _answers(self, external_ids: Sequence[str]) -> Mapping[str, object]:
        author = self._desk.author
        if self._desk.offers.poll_many:
            return answers_of_poll_many(await author.poll_many(external_ids))
        (external_id,) = external_ids
        return {external_id: await author.poll(external_id)}

    def _understood(self, ref: Ref, answer: object) -> Heard:
        """The answer for one task, or what is wrong with it, which is told: nobody else would hear of it before the deadline."""
        try:
            return answer_of_poll(answer, self._desk.terms.statuses)
        except Exception as error:  # noqa: BLE001 - logged and kept with the row; a failed poll fails no task
            _logger.warning("the answer for %s %d is of no use: %s", *ref, describe(error))
            return error

    def _failed(self, refs: Iterable[Ref], error: Exception) -> None:
        self._desk.condition.note(error)
        named = ", ".join(f"{type_} {id_}" for type_, id_ in refs)
        _logger.warning("asking after %s failed: %s: %s", named, type(error).__name__, error)
        pause = asked_pause(error)
        if pause:
            self._held_until = max(self._held_until, self._desk.clock.monotonic_seconds() + pause)

    async def _write(self, seen: Seen, move: Move) -> None:
        one, desk = seen.claim, self._desk
        pause = next_pause(desk.pace, desk.rng, polls=one.polls + 1, retry_after_seconds=move.retry_after_seconds)
        outcome = one.outcome(
            move.phase, delay=round(pause * _SECOND), failed=int(move.failed), error=move.error, external_id=None
        )
        try:
            ours = await desk.recorder.record(Change(outcome, move.events))
        except Exception:
            _logger.exception("what was heard of %s %d can't be written; it is asked after again", *one.ref)
            return
        if not ours:
            _logger.info("the visit to %s %d ended without its lease, so that its answer was refused", *one.ref)


def _seen(one: Claim, row: Any, held: Sequence[Mapping[str, Any]]) -> Seen:
    return Seen(one, None, held=held) if row is None else Seen(one, row.status, row.progress, held)
