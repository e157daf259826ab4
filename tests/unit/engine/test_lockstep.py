"""The sharing of a transaction without a database: which statements are joined, who waits for whom, and how a group ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Any, cast

import pytest

from ensue.engine.grouping.lockstep import PATIENCE, Lockstep
from ensue.engine.grouping.member import GroupFailed, Member, Unfit
from ensue.engine.grouping.shared_effects import shared_effects
from ensue.engine.transaction import Transaction
from ensue.store.effect_table import allot_params, allot_statement, enqueue_statement
from ensue.store.statement import Call, Run, Shared, Statement, Work


class _Tx:
    """As much of a transaction as a member needs."""

    ended = False

    def roll_back(self) -> None:
        pass


def _ids(run: Run) -> Sequence[int]:
    return run.params[0] if run.statement is MANY or run.statement is WRITE_MANY else run.params


def _join(runs: Sequence[Run]) -> Sequence[Any]:
    return (sorted({id_ for run in runs for id_ in _ids(run)}),)


MANY = Statement("read_many", "SELECT", rows=True, shared=Shared("read", "t", exclusive=True, ids=_ids, join=_join))
READ = Statement(
    "read", "SELECT", rows=True, shared=Shared("read", "t", exclusive=True, ids=_ids, many=MANY, join=_join)
)
LOCK = Statement("lock_many", "SELECT", rows=True)
WRITE_MANY = Statement("write_many", "UPDATE", rows=True)
WRITE = Statement(
    "write",
    "UPDATE",
    rows=True,
    shared=Shared("write", "t", exclusive=True, ids=_ids, lock=LOCK, many=WRITE_MANY, join=_join),
)
SHARE = Statement("share", "SELECT", rows=True, shared=Shared("read", "t", ids=_ids, many=MANY, join=_join))
ASIDE = Statement("aside", "SELECT", rows=True, shared=Shared("aside"))
UNKNOWN = Statement("unknown", "SELECT", rows=True)

Body = Callable[[], Work[Any]]


def group_of(*bodies: Body, repeats: bool = True) -> tuple[Lockstep, list[Member]]:
    members = [Member(lambda body=body: (cast(Transaction, _Tx()), body()), copy_context()) for body in bodies]
    return Lockstep(members, {}, {}, repeats=repeats), members


def drive(group: Lockstep) -> list[tuple[str, Any]]:
    """Answer every request with a row `(id, "row")` for each id; what was asked, in order, without the patience."""
    asked: list[tuple[str, Any]] = []
    work, answer = group.work(), None
    try:
        while True:
            request = work.send(answer)
            assert isinstance(request, Run)
            ids = request.params[0] if request.params and isinstance(request.params[0], list) else request.params
            answer = [(id_, "row") for id_ in ids]
            if request.statement is not PATIENCE:
                asked.append((request.statement.name, list(cast("list[int]", ids))))
    except StopIteration:
        return asked


def moves(id_: int, *, aside: bool = False) -> Body:
    def body() -> Work[Any]:
        if aside:
            yield Run(ASIDE)
        (found,) = yield Run(READ, (id_,))
        (written,) = yield Run(WRITE, (id_,))
        return found, written

    return body


def test_what_is_asked_at_the_same_step_is_one_statement() -> None:
    group, members = group_of(moves(3), moves(1), moves(2))
    assert drive(group) == [("read_many", [1, 2, 3]), ("write_many", [1, 2, 3])]
    assert [member.value for member in members] == [((n, "row"), (n, "row")) for n in (3, 1, 2)]
    assert group.complete
    assert group.finished == members


def test_who_is_behind_is_waited_for() -> None:
    group, _ = group_of(moves(1, aside=True), moves(2))
    assert drive(group) == [("aside", []), ("read_many", [1, 2]), ("write_many", [1, 2])]


def test_who_wants_a_row_of_another_goes_after_it() -> None:
    group, members = group_of(moves(1), moves(1), moves(1))
    asked = drive(group)
    assert asked == [("read", [1]), ("write", [1])] * 3
    assert group.finished == members
    assert group.repeated


def test_few_who_wait_are_left_for_the_next_group() -> None:
    group, members = group_of(moves(1), moves(2), moves(3), moves(1))
    assert drive(group) == [("read_many", [1, 2, 3]), ("write_many", [1, 2, 3])]
    assert [member.postponed for member in members] == [False, False, False, True]
    assert members[3].wants == ("t", 1)
    assert group.complete


def test_who_was_left_for_the_next_group_is_not_left_again() -> None:
    group, members = group_of(moves(1), moves(2), moves(3), moves(1))
    members[3].waited = True
    assert drive(group) == [("read_many", [1, 2, 3]), ("write_many", [1, 2, 3]), ("read", [1]), ("write", [1])]
    assert group.finished == members


def test_all_who_wait_are_left_where_locks_must_be_in_order() -> None:
    group, members = group_of(moves(1), moves(1), moves(1), repeats=False)
    assert drive(group) == [("read", [1]), ("write", [1])]
    assert [member.postponed for member in members] == [False, True, True]


def test_rows_that_are_only_read_are_shared() -> None:
    def body() -> Work[Any]:
        yield Run(SHARE, (1,))
        return "done"

    group, members = group_of(body, body)
    assert drive(group) == [("read_many", [1])]
    assert [member.value for member in members] == ["done"] * 2


def test_rows_that_nobody_locked_are_locked_in_order_before_they_are_written() -> None:
    def body(id_: int) -> Body:
        def work() -> Work[Any]:
            yield Run(WRITE, (id_,))

        return work

    group, _ = group_of(body(2), body(1))
    assert drive(group) == [("lock_many", [1, 2]), ("write_many", [1, 2])]


def test_who_asks_for_what_can_not_be_shared_leaves() -> None:
    async def callback(_: object) -> None: ...

    def asks() -> Work[Any]:
        yield Run(UNKNOWN)

    def calls() -> Work[Any]:
        yield Call(callback)

    group, members = group_of(asks, moves(1), calls)
    assert drive(group) == [("read", [1]), ("write", [1])]
    assert [member.alone for member in members] == [True, False, True]
    assert group.finished == [members[1]]


def test_who_has_written_can_not_leave() -> None:
    def asks() -> Work[Any]:
        yield Run(WRITE, (1,))
        yield Run(UNKNOWN)

    group, _ = group_of(asks, moves(2))
    with pytest.raises(Unfit):
        drive(group)
    assert not group.complete


def test_a_rejection_before_a_write_is_its_own() -> None:
    def rejects() -> Work[Any]:
        yield Run(READ, (1,))
        raise ValueError("no")

    group, members = group_of(rejects, moves(2))
    assert drive(group) == [("read_many", [1, 2]), ("write", [2])]
    assert str(members[0].error) == "no"
    assert group.finished == [members[1]]


def test_a_rejection_after_a_write_is_everyones() -> None:
    def rejects() -> Work[Any]:
        yield Run(WRITE, (1,))
        raise ValueError("no")

    group, _ = group_of(rejects, moves(2))
    with pytest.raises(ValueError, match="no"):
        drive(group)


def test_members_that_wait_for_each_other_end_the_group() -> None:
    def crosses(first: int, second: int) -> Body:
        def body() -> Work[Any]:
            yield Run(WRITE, (first,))
            yield Run(WRITE, (second,))

        return body

    group, _ = group_of(crosses(1, 2), crosses(2, 1))
    with pytest.raises(GroupFailed):
        drive(group)


def test_positions_are_divided_as_if_one_had_come_after_another() -> None:
    shared = shared_effects("postgresql")[allot_statement("postgresql")]
    runs = [
        Run(allot_statement("postgresql"), allot_params(counts)) for counts in ({"a": 2}, {"a": 1, "b": 1}, {"b": 3})
    ]
    assert shared.join is not None
    assert shared.split is not None
    assert shared.join(runs) == allot_params({"a": 3, "b": 4})
    assert shared.split(runs, [("a", 13), ("b", 4)]) == [[("a", 12)], [("a", 13), ("b", 1)], [("b", 4)]]


def test_effects_of_all_are_one_list() -> None:
    shared = shared_effects("postgresql")[enqueue_statement("postgresql")]
    assert shared.join is not None
    runs = [Run(enqueue_statement("postgresql"), (text,)) for text in ('[{"a":1},{"a":2}]', "[]", '[{"a":3}]')]
    assert shared.join(runs) == ('[{"a":1},{"a":2},{"a":3}]',)
