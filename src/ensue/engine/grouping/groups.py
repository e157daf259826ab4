"""Who waits shares a transaction: dispatches of one interaction that come while others of it are being committed go next, together.

Decides how many are under way at once, how large a group is, and who runs alone: whoever is the only one, whoever can't share, and
for a while those whose groups failed. Leaves the sharing itself to `lockstep`. Invariants: a caller is answered after the COMMIT;
what one member does wrong is never another's error, because a failed group is rolled back and its members run without it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ensue.engine.commit import Commit
from ensue.engine.grouping.lockstep import Lockstep, in_turn
from ensue.engine.grouping.member import Abandoned, Member, Start
from ensue.engine.grouping.shared_effects import shared_effects
from ensue.errors import Conflict, Rejected
from ensue.store.driver import Driver
from ensue.store.statement import Statement

T = TypeVar("T")

MEMBERS_MAX = 64
UNDER_WAY_MAX = 2
"""On PostgreSQL: while one group is being committed, another is computed."""
REST = 64
"""How many run alone after groups of two failed, at least; it doubles up to `REST_MAX` while they go on failing."""
REST_MAX = 4096
IN_ORDER = 256
"""How many groups take all their locks in order after one that did not has failed."""


class _Waiting:
    """Who waits for a group. `served`: whether it got its result there; None until that is known."""

    __slots__ = ("_answered", "member", "served", "turn", "under_way")

    def __init__(self, member: Member) -> None:
        self.member = member
        self.served: bool | None = None
        self.turn = self.under_way = False
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
                if not self.under_way:
                    break
                # The cancellation took the future with it.
                self._answered = asyncio.get_running_loop().create_future()
        if cancelled is not None:
            raise cancelled


@dataclass(slots=True, eq=False)
class _Lane:
    """The dispatches of one interaction."""

    waiting: deque[_Waiting] = field(default_factory=deque[_Waiting])
    ranks: dict[Statement, int] = field(default_factory=dict[Statement, int])
    under_way: int = 0
    members: int = 0  # of those under way
    size: int = MEMBERS_MAX
    rest: int = 0
    rest_next: int = REST
    in_order: int = 0

    def choose(self, count: int) -> list[_Waiting]:
        """Who goes next: first come first served, but of those known to want the same rows one."""
        chosen: list[_Waiting] = []
        wanted: set[Any] = set()
        left: deque[_Waiting] = deque()
        while self.waiting and len(chosen) < count:
            waiting = self.waiting.popleft()
            wants = waiting.member.wants
            if wants is not None and wants in wanted:
                left.append(waiting)
            else:
                wanted.add(wants)
                chosen.append(waiting)
        self.waiting.extendleft(reversed(left))
        return chosen

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
        self._one_writer = driver().dialect == "sqlite"
        self._under_way_max = 1 if self._one_writer else UNDER_WAY_MAX
        dialect = driver().dialect
        self._others = shared_effects(dialect)

    async def write(self, kind: str, start: Start, alone: Callable[[], Awaitable[T]]) -> T:
        """The result of the work that `start` makes, committed with others of its kind; or of `alone()`."""
        lane = self._lanes.get(kind)
        if lane is None:
            lane = self._lanes[kind] = _Lane()
        if lane.rest:
            lane.rest -= 1
            return await alone()
        if lane.waiting or lane.under_way >= self._under_way_max:
            waiting = _Waiting(Member(start, copy_context()))
            await self._wait(lane, waiting)
            if waiting.served:
                if waiting.member.error is not None:
                    raise waiting.member.error
                return waiting.member.value[0]
            if not waiting.turn:
                return await alone()
        else:
            lane.under_way += 1
            lane.members += 1
        try:
            return await alone()
        finally:
            self._done(lane, 1)

    async def _wait(self, lane: _Lane, waiting: _Waiting) -> None:
        lane.waiting.append(waiting)
        try:
            await waiting.wait()
        except asyncio.CancelledError:
            if waiting.turn:
                self._done(lane, 1)
            elif not waiting.under_way:
                lane.waiting.remove(waiting)
            raise

    def _done(self, lane: _Lane, members: int) -> None:
        lane.under_way -= 1
        lane.members -= members
        if lane.waiting:
            # Those who have just been answered come again first, if they do.
            asyncio.get_running_loop().call_soon(self._start, lane)

    def _start(self, lane: _Lane) -> None:
        while lane.waiting and lane.under_way < self._under_way_max:
            share = -(-(len(lane.waiting) + lane.members) // self._under_way_max)
            chosen = lane.choose(min(share, lane.size))
            lane.under_way += 1
            lane.members += len(chosen)
            if len(chosen) == 1:
                chosen[0].turn = True
                chosen[0].answer(served=False)
                continue
            for waiting in chosen:
                waiting.under_way = True
            task = asyncio.get_running_loop().create_task(self._run(lane, chosen))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, lane: _Lane, chosen: Sequence[_Waiting]) -> None:
        try:
            await self._commit(lane, chosen)
        finally:
            for waiting in chosen:
                if waiting.under_way:
                    waiting.answer(served=False)
            self._done(lane, len(chosen))

    async def _commit(self, lane: _Lane, chosen: Sequence[_Waiting]) -> None:
        """Commit a group, or parts of it; who is not answered runs alone."""
        members = [waiting.member for waiting in chosen]
        group: Lockstep | None = None
        if self._one_writer:
            finished: list[Member] = []
            work = in_turn(members, finished)
        else:
            lane.in_order -= lane.in_order > 0
            group = Lockstep(members, lane.ranks, self._others, repeats=lane.in_order == 0)
            finished, work = group.finished, group.work()
        try:
            await self._driver().write(work)
        except Exception as error:  # noqa: BLE001 - each member that runs alone meets its own
            if group is not None and group.complete and not isinstance(error, Conflict):
                # At COMMIT: whether it was is not known, so nothing is done again.
                for waiting in chosen:
                    waiting.member.error = error
                    waiting.answer(served=True)
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
            self._committed(member.value[1])
        for waiting in reversed(chosen):
            if waiting.member.postponed:
                waiting.member.roll_back()
                waiting.under_way = False
                lane.waiting.appendleft(waiting)
            else:
                waiting.answer(served=not waiting.member.alone)

    async def _failed(self, lane: _Lane, chosen: Sequence[_Waiting], error: Exception) -> None:
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
