"""Run the work of several members in one transaction at the same time, each as if it was alone: what they ask for at the same step
becomes one statement.

Members are kept apart by locks of rows, held until a member is done, as the database's would keep apart transactions: so each
sees the others either not at all or finished, in the order of their ends. Whatever is not known to be safe (an unlocked look-up,
a callback that is awaited, a deletion) is not shared: its member leaves, or the group fails and everyone runs alone. Invariant:
what a group commits, and what it answers to each, is what its members would have done alone, one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ensue.engine.grouping.member import Abandoned, GroupFailed, Member
from ensue.store.statement import Call, Run, Shared, Statement, Work

PATIENCE = Statement("group.patience", "SET LOCAL lock_timeout = '250ms'")
"""A group doesn't wait long for one row: those who don't need it must not wait for who holds it."""

POSTPONED_SHARE = 4
"""If no more than one in so many waits for rows of the others, they go with the next group rather than after it in this: once."""


_Asked = tuple[Member, Run, Shared, list[Any]]
"""A request that may run, and the rows that its member had not before."""


class Locks:
    """Which members hold which rows."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, Any], tuple[bool, set[Member]]] = {}

    def take(self, member: Member, shared: Shared, ids: Sequence[Any]) -> list[Any] | None:
        """Take all rows or none: the ids of those that the member had not as it wants them, or None."""
        table, exclusive, held = shared.table, shared.exclusive, self._held
        fresh: list[Any] = []
        for id_ in ids:
            entry = held.get((table, id_))
            if entry is None:
                fresh.append(id_)
                continue
            alone, holders = entry
            mine = member in holders
            if (exclusive or alone) and not (mine and len(holders) == 1):
                return None
            if not mine or (exclusive and not alone):
                fresh.append(id_)
        for id_ in fresh:
            key = (table, id_)
            entry = held.get(key)
            holders = set[Member]() if entry is None else entry[1]
            if member not in holders:
                holders.add(member)
                member.held.append(key)
            held[key] = (exclusive, holders)
        return fresh

    def release(self, member: Member) -> None:
        for key in member.held:
            holders = self._held[key][1]
            holders.discard(member)
            if not holders:
                del self._held[key]
        member.held = []


class Lockstep:
    """One group. `finished` are the members that did their work, in the order in which they are as if committed.

    `ranks` says at which step of its work each statement was met, in this group and in earlier ones of its kind: who is behind
    goes first, so that all meet again. `repeats`: members may go on when those before them are done (`repeated` says that some
    did). The locks that they take then come after others, out of order, which another transaction may take amiss.
    """

    def __init__(
        self,
        members: Sequence[Member],
        ranks: dict[Statement, int],
        others: dict[Statement, Shared],
        *,
        repeats: bool = True,
    ) -> None:
        self._members = members
        self._ranks = ranks
        self._others = others
        self._repeats = repeats
        self.repeated = False
        self._locks = Locks()
        self._ready: dict[Statement, list[_Asked]] = {}
        self._blocked: list[Member] = []
        self.finished: list[Member] = []
        self.complete = False

    def work(self) -> Work[None]:
        """The work of all of them."""
        try:
            yield Run(PATIENCE)
            for member in self._members:
                member.begin()
                self._moved(member)
            while self._go_on():
                yield from self._run(self._next())
            if any(member.cancelled for member in self._members):
                raise Abandoned("A member of a group was cancelled.")
            self.complete = True
        finally:
            for member in self._members:
                member.close()

    def _moved(self, member: Member) -> None:
        """A member has ended, or asks for something."""
        if not member.ended:
            self._ask(member)
        if member.ended:
            if not member.alone and member.error is None:
                self.finished.append(member)
            self._locks.release(member)

    def _ask(self, member: Member) -> None:
        request = member.request
        shared = None
        if request is not None and not isinstance(request, Call) and not request.many:
            shared = request.statement.shared or self._others.get(request.statement)
        if shared is None:
            member.leave()
            return
        assert isinstance(request, Run)
        fresh: list[Any] | None = []
        if shared.ids is not None:
            fresh = self._locks.take(member, shared, shared.ids(request))
            if fresh is None:
                member.wants = shared.table, *shared.ids(request)
                self._blocked.append(member)
                return
        key = shared.many or request.statement
        self._ready.setdefault(key, []).append((member, request, shared, fresh))
        rank = member.position if shared.access != "aside" else 0
        if self._ranks.get(key, -1) < rank:
            self._ranks[key] = rank

    def _go_on(self) -> bool:
        """Whether anything is left to run; who waited for a row of those who are done goes on together."""
        if self._ready or not self._blocked:
            return bool(self._ready)
        blocked, self._blocked = self._blocked, []
        few = len(blocked) * POSTPONED_SHARE <= len(self._members) and not any(member.waited for member in blocked)
        if (few or not self._repeats) and not any(member.wrote for member in blocked):
            for member in blocked:
                member.postpone()
            return False
        self.repeated = True
        for member in blocked:
            self._ask(member)
        if not self._ready:
            raise GroupFailed("The members of a group wait for each other.")
        return True

    def _next(self) -> list[_Asked]:
        return self._ready.pop(min(self._ready, key=self._ranks.__getitem__))

    def _run(self, asked: list[_Asked]) -> Work[None]:
        _, first, shared, _ = asked[0]
        if shared.access in ("write", "add"):
            for member, *_ in asked:
                member.wrote = True
        if len(asked) == 1 or shared.join is None:
            for member, request, *_ in asked:
                rows: list[Any] = yield request
                member.answer(rows)
                self._moved(member)
            return
        if shared.lock is not None and (unlocked := sorted(id_ for *_, fresh in asked for id_ in fresh)):
            yield Run(shared.lock, (unlocked,))
        runs = [request for _, request, *_ in asked]
        found: list[Any] = yield Run(shared.many or first.statement, shared.join(runs))
        answers = _divided(asked, found) if shared.split is None else shared.split(runs, found)
        for (member, *_), answer in zip(asked, answers, strict=True):
            member.answer(answer)
            self._moved(member)


def _divided(asked: list[_Asked], found: list[Any]) -> list[list[Any]]:
    if not found:
        return [[] for _ in asked]
    by_id = {row[0]: row for row in found}
    answers: list[list[Any]] = []
    for _, request, shared, _ in asked:
        ids = sorted(shared.ids(request)) if shared.ids is not None else ()
        answers.append([by_id[id_] for id_ in ids if id_ in by_id])
    return answers


def in_turn(members: Sequence[Member], finished: list[Member]) -> Work[None]:
    """The same for a database with one writer: one after another, which needs no locks."""
    try:
        for member in members:
            member.begin()
            while not member.ended:
                request = member.request
                if request is None or isinstance(request, Call):
                    member.leave()
                    break
                member.wrote = member.wrote or not request.statement.text.startswith("SELECT")
                member.answer((yield request))
            if not member.alone and member.error is None:
                finished.append(member)
        if any(member.cancelled for member in members):
            raise Abandoned("A member of a group was cancelled.")
    finally:
        for member in members:
            member.close()
