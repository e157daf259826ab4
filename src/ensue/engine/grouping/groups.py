"""Who waits shares a transaction: dispatches of one interaction that come while others of it are being committed go next, together.

Decides how many are under way at once, how large a group is, and who runs alone: whoever is the only one, whoever can't share, and
for a while those whose groups failed. Leaves the sharing itself to `lockstep`. Invariants: a caller is answered after the COMMIT;
what one member does wrong is never another's error, because a failed group is rolled back and its members run without it; what
may have been committed is never done again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ensue.engine.commit import Commit
from ensue.engine.grouping.lockstep import Lockstep, in_turn
from ensue.engine.grouping.member import Abandoned, Member, Start
from ensue.engine.grouping.shared_effects import shared_effects
from ensue.errors import Conflict, Rejected, Unavailable
from ensue.store.driver import Driver
from ensue.store.statement import Statement, Work

T = TypeVar("T")

MEMBERS_MAX = 64
UNDER_WAY_MAX = 2
"""On PostgreSQL: while one group is being committed, another is computed."""
OVERDUE_SECONDS = 0.25
"""Those who wait don't wait longer for the end of what is under way: it may itself wait, for a row or for a callback."""
REST = 64
"""How many run alone after groups of two failed, at least; it doubles up to `REST_MAX` while they go on failing."""
REST_MAX = 4096
IN_ORDER = 256
"""How many groups take all their locks in order after one that did not has failed."""


class _Waiting:
    """Who waits for a group. `served`: whether it got its result there; None until that is known.

    `number` says when it came. `turn`: what is under way with it; None while it is in the lane, or back there.
    """

    __slots__ = ("_answered", "member", "number", "served", "turn")

    def __init__(self, member: Member, number: int) -> None:
        self.member = member
        self.number = number
        self.served: bool | None = None
        self.turn: _Turn | None = None
        self._answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def answer(self, *, served: bool) -> None:
        if self.served is None:
            self.served = served
            if not self._answered.done():
                self._answered.set_result(None)

    async def wait(self) -> None:
        """Wait for the answer. A cancellation is raised at once before the group is under way, and else when it is over."""
        cancelled: asyncio.CancelledError | None = None
        while self.served is None:
            try:
                await self._answered
            except asyncio.CancelledError as error:
                cancelled = error
                self.member.cancelled = True
                if self.turn is None:
                    break
                # The cancellation took the future with it.
                self._answered = asyncio.get_running_loop().create_future()
        if cancelled is not None:
            raise cancelled


@dataclass(slots=True, eq=False)
class _Turn:
    """What is under way: one that runs alone, or a group."""

    members: int = 1


@dataclass(slots=True, eq=False)
class _Lane:
    """The dispatches of one interaction. `turns` are those under way that others wait for."""

    waiting: deque[_Waiting] = field(default_factory=deque[_Waiting])
    ranks: dict[Statement, int] = field(default_factory=dict[Statement, int])
    turns: set[_Turn] = field(default_factory=set[_Turn])
    alarm: asyncio.TimerHandle | None = None
    size: int = MEMBERS_MAX
    rest: int = 0
    rest_next: int = REST
    in_order: int = 0
    number: int = 0  # of the last who came

    def choose(self, count: int) -> list[_Waiting]:
        """Who goes next: first come first served, but of those known to want the same rows one, if they may not go in turn."""
        chosen: list[_Waiting] = []
        wanted: set[Any] = set()
        left: deque[_Waiting] = deque()
        while self.waiting and len(chosen) < count:
            waiting = self.waiting.popleft()
            wants = waiting.member.wants
            if self.in_order and wants is not None and wants in wanted:
                left.append(waiting)
            else:
                wanted.add(wants)
                chosen.append(waiting)
        self.waiting.extendleft(reversed(left))
        return chosen

    def put_back(self, waiting: _Waiting) -> None:
        """Where it came from: behind those who came before it."""
        at = next((n for n, other in enumerate(self.waiting) if other.number > waiting.number), len(self.waiting))
        self.waiting.insert(at, waiting)

    def went_well(self) -> None:
        self.size = min(MEMBERS_MAX, self.size * 2)
        self.rest_next = REST

    def failed(self) -> None:
        """Smaller groups fail less often; if those of two do, none is made for a while."""
        if self.size <= 2:
            self.rest, self.rest_next = self.rest_next, min(REST_MAX, self.rest_next * 2)
        self.size = max(2, self.size // 4)


class Groups:
    """The lanes of one engine. `committed` is told of each member's commit, in their order."""

    def __init__(self, driver: Callable[[], Driver], committed: Callable[[Commit], None]) -> None:
        self._driver = driver
        self._committed = committed
        self._lanes: dict[str, _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        dialect = driver().dialect
        self._one_writer = dialect == "sqlite"
        self._under_way_max = 1 if self._one_writer else UNDER_WAY_MAX
        self._others = shared_effects(dialect)

    async def write(self, kind: str, start: Start, alone: Callable[[], Awaitable[T]]) -> T:
        """The result of the work that `start` makes, committed with others of its kind; or of `alone()`."""
        lane = self._lanes.get(kind)
        if lane is None:
            lane = self._lanes[kind] = _Lane()
        if lane.rest:
            lane.rest -= 1
            return await alone()
        turn = _Turn()
        if lane.waiting or len(lane.turns) >= self._under_way_max:
            lane.number += 1
            waiting = _Waiting(Member(start, copy_context()), lane.number)
            await self._wait(lane, waiting)
            if waiting.served:
                if waiting.member.error is not None:
                    raise waiting.member.error
                return waiting.member.value[0]
            if waiting.turn is None or waiting.turn.members > 1:
                return await alone()
            turn = waiting.turn
        else:
            lane.turns.add(turn)
        try:
            return await alone()
        finally:
            self._done(lane, turn)

    async def _wait(self, lane: _Lane, waiting: _Waiting) -> None:
        lane.waiting.append(waiting)
        if lane.alarm is None:
            self._set_alarm(lane)
        try:
            await waiting.wait()
        except asyncio.CancelledError:
            if waiting.turn is None:
                lane.waiting.remove(waiting)
            elif waiting.turn.members == 1:
                self._done(lane, waiting.turn)
            raise

    def _set_alarm(self, lane: _Lane) -> None:
        loop = asyncio.get_running_loop()
        lane.alarm = loop.call_later(OVERDUE_SECONDS, self._overdue, lane, tuple(lane.turns), context=Context())

    def _overdue(self, lane: _Lane, turns: Sequence[_Turn]) -> None:
        """No longer wait for those of `turns` that are still under way."""
        lane.alarm = None
        if lane.waiting:
            lane.turns.difference_update(turns)
            self._start(lane)
        if lane.waiting:
            self._set_alarm(lane)

    def _done(self, lane: _Lane, turn: _Turn) -> None:
        lane.turns.discard(turn)
        if lane.waiting:
            # Those who have just been answered come again first, if they do.
            asyncio.get_running_loop().call_soon(self._start, lane)

    def _start(self, lane: _Lane) -> None:
        while lane.waiting and lane.rest:
            # Or those who come later would go before them.
            lane.rest -= 1
            waiting = lane.waiting.popleft()
            waiting.turn = _Turn()
            waiting.answer(served=False)
        while lane.waiting and len(lane.turns) < self._under_way_max:
            members = len(lane.waiting) + sum(turn.members for turn in lane.turns)
            chosen = lane.choose(min(-(-members // self._under_way_max), lane.size))
            turn = _Turn(len(chosen))
            lane.turns.add(turn)
            for waiting in chosen:
                waiting.turn = turn
            if len(chosen) == 1:
                chosen[0].answer(served=False)
                continue
            # Not in the context of whoever happened to end just now.
            task = asyncio.get_running_loop().create_task(self._run(lane, chosen, turn), context=Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, lane: _Lane, chosen: Sequence[_Waiting], turn: _Turn) -> None:
        try:
            await self._commit(lane, chosen)
        finally:
            for waiting in chosen:
                # One that was postponed may be under way with another group already.
                if waiting.turn is turn:
                    waiting.answer(served=False)
            self._done(lane, turn)

    async def _commit(self, lane: _Lane, chosen: Sequence[_Waiting]) -> None:
        """Commit a group, or parts of it; who is not answered runs alone."""
        members = [waiting.member for waiting in chosen]
        group: Lockstep | None = None
        if self._one_writer:
            finished: list[Member] = []
            work = _given_up(members, in_turn(members, finished))
        else:
            lane.in_order -= lane.in_order > 0
            group = Lockstep(members, lane.ranks, self._others, repeats=lane.in_order == 0)
            finished, work = group.finished, group.work()
        try:
            await self._driver().write(work)
        except Exception as error:  # noqa: BLE001 - each member that runs alone meets its own
            if group is not None and group.complete and not isinstance(error, Conflict):
                self._outcome_unknown(lane, chosen, finished, error)
                return
            if group is not None and group.repeated and not isinstance(error, Rejected):
                lane.in_order = IN_ORDER
            await self._failed(lane, chosen, error)
            return
        except BaseException:
            for member in members:
                member.roll_back()
            raise
        if any(member.alone for member in members):
            lane.failed()
        else:
            lane.went_well()
        for member in finished:
            self._tell(member)
        self._answer(lane, chosen)

    def _tell(self, member: Member) -> None:
        try:
            member.context.run(self._committed, member.value[1])
        except BaseException as error:  # noqa: BLE001 - its caller's, as if it had been alone: nothing is to be done again
            member.error = error

    def _answer(self, lane: _Lane, chosen: Sequence[_Waiting]) -> None:
        """Say that the group is committed; who was postponed waits anew."""
        for waiting in chosen:
            if waiting.member.postponed:
                waiting.member.roll_back()
                waiting.turn = None
                lane.put_back(waiting)
            else:
                waiting.answer(served=not waiting.member.alone)

    def _outcome_unknown(
        self, lane: _Lane, chosen: Sequence[_Waiting], finished: Sequence[Member], error: Exception
    ) -> None:
        """The COMMIT failed, so what is in it is not done again; who has nothing in it goes on."""
        lane.failed()
        for waiting in chosen:
            if waiting.member in finished:
                waiting.member.error = _own(error)
                waiting.answer(served=True)
            else:
                waiting.member.roll_back()

    async def _failed(self, lane: _Lane, chosen: Sequence[_Waiting], error: Exception) -> None:
        if isinstance(error, Unavailable) and not any(waiting.member.tx for waiting in chosen):
            # No transaction could be begun: each has waited for that as long as it would have alone.
            for waiting in chosen:
                waiting.member.error = _own(error)
                waiting.answer(served=True)
            return
        for waiting in chosen:
            waiting.member.roll_back()
        left = [waiting for waiting in chosen if not waiting.member.cancelled]
        if isinstance(error, Abandoned):
            if len(left) > 1:
                await self._commit(lane, left)
            return
        lane.failed()
        if isinstance(error, Rejected) and len(left) > 2:
            # One of them did wrong: the others are likely to be in order without it.
            half = len(left) // 2
            for part in (left[:half], left[half:]):
                if len(part) > 1:
                    await self._commit(lane, part)


def _given_up(members: Sequence[Member], work: Work[None]) -> Work[None]:
    """`work`, and if it fails its members' transactions are given up."""
    try:
        yield from work
    except BaseException:
        for member in members:
            if member.tx is not None:
                member.tx.give_up()
        raise


def _own(error: Exception) -> Exception:
    """The same error for one of several callers: what one does to it must not show on another's."""
    if type(error) is not Unavailable:
        return error
    own = Unavailable(str(error), retryable=error.retryable)
    own.__cause__ = error
    return own
