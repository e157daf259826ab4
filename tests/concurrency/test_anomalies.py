"""The five anomalies that were reproduced without the engine's rules, each as a schedule that must end right."""

from __future__ import annotations

import asyncio

from tests.concurrency.board import Comment, Post, User
from tests.concurrency.conftest import Board
from tests.concurrency.stage import END, after, before


async def test_an_old_image_is_read_under_the_lock_of_its_row(board: Board) -> None:
    """A1: two transactions re-parent one comment."""
    comment = await board.comment()
    third = await board.store.create(Post(title="third", author=board.ann))
    away = board.start(
        "to second", lambda: board.store.update(Comment, comment.id, post=board.second), after("comment.update")
    )
    await away.stopped()
    again = board.start("to third", lambda: board.store.update(Comment, comment.id, post=third))
    await board.stage.waits(again)
    await away.goes_on()
    await again.goes_on()
    counts = [(await board.post(post)).comment_count for post in (board.first, board.second, third)]
    assert counts == [0, 0, 1]
    await board.assert_true()


async def test_an_extremum_is_read_anew_after_its_host_is_locked(board: Board) -> None:
    """A2: the best comment is deleted while a better one is being inserted."""
    best = await board.comment(score=50)
    better = board.start("insert 100", lambda: board.comment(score=100), before(END))
    await better.stopped()
    removal = board.start("delete 50", lambda: board.store.delete(Comment, best.id))
    await board.stage.waits(removal)
    await better.goes_on()
    await removal.goes_on()
    post = await board.post(board.first)
    assert (post.best, post.worst, post.comment_count) == (100, 100, 1)
    await board.assert_true()


async def test_a_crossed_row_is_locked_before_its_value_is_used(board: Board) -> None:
    """A3: a contribution copies another row's value while that row changes."""
    change = board.start("weight", lambda: board.store.update(User, board.bob.id, weight=30), before(END))
    await change.stopped()
    comment = board.start("comment", lambda: board.comment(score=2))
    await board.stage.waits(comment)
    await change.goes_on()
    await comment.goes_on()
    assert (await board.post(board.first)).weighted == 60
    await board.assert_true()


async def test_a_change_waits_for_who_used_the_value(board: Board) -> None:
    """A3, the other way round."""
    comment = board.start("comment", lambda: board.comment(score=2), before(END))
    await comment.stopped()
    change = board.start("weight", lambda: board.store.update(User, board.bob.id, weight=30))
    await board.stage.waits(change)
    await comment.goes_on()
    await change.goes_on()
    assert (await board.post(board.first)).weighted == 60
    await board.assert_true()


async def test_hosts_are_locked_in_one_order(board: Board) -> None:
    """A4: two transactions move the same hosts, named in opposite order; neither has to be run again."""
    there = [board.draft(board.first), board.draft(board.second)]
    back = [board.draft(board.second, author=board.ann), board.draft(board.first, author=board.ann)]
    one = board.start("there", lambda: board.store.create_many(there), before("post.derive_many"))
    await one.stopped()
    other = board.start("back", lambda: board.store.create_many(back))
    await board.stage.waits(other)
    await one.goes_on()
    await other.goes_on()
    assert (one.attempts, other.attempts) == (1, 1)
    assert [(await board.post(p)).comment_count for p in (board.first, board.second)] == [2, 2]
    await board.assert_true()


async def test_counters_move_relatively(board: Board) -> None:
    """A5: many transactions that all started before any of them committed."""
    first = board.start("first", board.comment, before(END))
    await first.stopped()
    others = [board.start(f"writer {n}", board.comment) for n in range(4)]
    await board.stage.waits(others[0], sessions=4)
    await first.goes_on()
    await asyncio.gather(*(other.goes_on() for other in others))
    post = await board.post(board.first)
    assert (post.comment_count, post.total, post.weighted) == (5, 25, 75)
    await board.assert_true()


async def test_a_relative_update_sees_the_row_as_it_is_then(board: Board) -> None:
    """A5 for an update given as an expression."""
    comment = await board.comment(score=1)

    async def double() -> None:
        await board.store.update(Comment, comment.id, score=Comment.score * 2)

    first = board.start("double", double, before(END))
    await first.stopped()
    second = board.start("double again", double)
    await board.stage.waits(second)
    await first.goes_on()
    await second.goes_on()
    post = await board.post(board.first)
    assert (post.total, post.best) == (4, 4)
    await board.assert_true()


# --- One order for all that a change leads to --------------------------------------------------------------------------


async def test_comments_on_each_others_posts_do_not_wait_in_a_circle(board: Board) -> None:
    """Each locks its author and the author of its post, who are the same two: neither has to be run again."""
    one = board.start("bob on ann's", lambda: board.comment(board.first), before("comment.insert"))
    await one.stopped()
    other = board.start("ann on bob's", lambda: board.comment(board.second, author=board.ann))
    await board.stage.waits(other)
    await one.goes_on()
    await other.goes_on()
    assert (one.attempts, other.attempts) == (1, 1)
    await board.assert_true()


async def test_a_change_of_an_author_locks_upwards_as_comments_do(board: Board) -> None:
    """The comment has its post and waits for its author; the change of the author must not have that one already."""
    comment = await board.comment()
    write = board.start("score", lambda: board.store.update(Comment, comment.id, score=9), after("comment.read_one"))
    await write.stopped()
    change = board.start("weight", lambda: board.store.update(User, board.bob.id, weight=30))
    await board.stage.waits(change)
    await write.goes_on()
    await change.goes_on()
    assert (write.attempts, change.attempts) == (1, 1)
    assert (await board.post(board.first)).weighted == 270
    await board.assert_true()
