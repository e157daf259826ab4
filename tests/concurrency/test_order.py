"""Positions of ordered effects: by key, in the order of commits, without gaps."""

from __future__ import annotations

import asyncio

import pytest

from ensue.store.statement import Run, Statement, Work
from tests.concurrency.board import Line
from tests.concurrency.conftest import Board
from tests.concurrency.stage import END, before


def _read() -> Work[list[tuple[str, int, int]]]:
    return (
        yield Run(
            Statement(
                "positions",
                "SELECT order_key, position, (payload::json -> 'record' ->> 'number')::bigint FROM ensue_effect"
                " ORDER BY order_key, position",
                rows=True,
            )
        )
    )


async def positions(board: Board) -> list[tuple[str, int, int]]:
    """(channel, position, number of the line), in order."""
    return [
        (key.rpartition("|")[2], position, number) for key, position, number in await board.run.driver.read(_read())
    ]


async def test_the_second_of_a_key_waits_and_comes_second(board: Board) -> None:
    first = board.start("first", lambda: board.store.create(Line(channel="a", number=1)), before(END))
    await first.stopped()
    second = board.start("second", lambda: board.store.create(Line(channel="a", number=2)))
    await board.stage.waits(second)
    await board.store.create(Line(channel="b", number=3))
    await first.goes_on()
    await second.goes_on()
    assert await positions(board) == [("a", 1, 1), ("a", 2, 2), ("b", 1, 3)]


async def test_a_position_that_was_rolled_back_is_given_again(board: Board) -> None:
    async def gives_up() -> None:
        async with board.store.transaction():
            await board.store.create(Line(channel="a", number=1))
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        await gives_up()
    await board.store.create(Line(channel="a", number=2))
    assert await positions(board) == [("a", 1, 2)]


async def test_transactions_with_several_keys_in_common_do_not_deadlock(board: Board) -> None:
    def lines(channels: str) -> list[Line]:
        return [Line(channel=channel, number=n) for n, channel in enumerate(channels)]

    first = board.start("first", lambda: board.store.create_many(lines("abc")), before(END))
    await first.stopped()
    others = [board.start(f"other {n}", lambda: board.store.create_many(lines("cba"))) for n in range(3)]
    await board.stage.waits(others[0], sessions=3)
    await first.goes_on()
    await asyncio.gather(*(other.goes_on() for other in others))
    assert [other.attempts for other in others] == [1, 1, 1]
    found = await positions(board)
    assert [(key, position) for key, position, _ in found] == [(k, n) for k in "abc" for n in (1, 2, 3, 4)]
