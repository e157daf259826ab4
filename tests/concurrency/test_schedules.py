"""Two sessions that meet, one schedule for each way: whoever comes second waits, and then everything derived is right."""

from __future__ import annotations

import pytest

from ensue import ConstraintViolated, NotFound, Rejected
from tests.concurrency.board import Cancel, Comment, Copy, Line, Order, Pay, Post, Site, Tag, User
from tests.concurrency.conftest import Board
from tests.concurrency.stage import END, after, before

# --- Paths of two steps -----------------------------------------------------------------------------------------------


async def test_a_comment_under_a_post_that_moves_goes_to_the_new_author(board: Board) -> None:
    move = board.start("move", lambda: board.store.update(Post, board.first.id, author=board.bob), before(END))
    await move.stopped()
    insert = board.start("insert", lambda: board.comment(score=7))
    await board.stage.waits(insert)
    await move.goes_on()
    await insert.goes_on()
    ann, bob = await board.user(board.ann), await board.user(board.bob)
    assert (ann.score_received, bob.score_received, bob.comments_received) == (0, 7, 1)
    assert (await board.post(board.first)).home == 1
    await board.assert_true()


async def test_a_post_moves_with_the_comment_that_was_being_inserted(board: Board) -> None:
    insert = board.start("insert", lambda: board.comment(score=7), before(END))
    await insert.stopped()
    move = board.start("move", lambda: board.store.update(Post, board.first.id, author=board.bob))
    await board.stage.waits(move)
    await insert.goes_on()
    await move.goes_on()
    ann, bob = await board.user(board.ann), await board.user(board.bob)
    assert (ann.score_received, bob.score_received, bob.comments_received) == (0, 7, 1)
    await board.assert_true()


async def test_a_post_moves_before_a_new_comment_has_come_to_it(board: Board) -> None:
    """The insert has begun, its hosts are not looked for yet: they must be found as they are after the wait."""
    insert = board.start("insert", lambda: board.comment(score=7), after("post.read_one"))
    await insert.stopped()
    move = board.start("move", lambda: board.store.update(Post, board.first.id, author=board.bob))
    await board.stage.waits(move)
    await insert.goes_on()
    await move.goes_on()
    assert (await board.user(board.bob)).score_received == 7
    await board.assert_true()


# --- A crossed reference flips ----------------------------------------------------------------------------------------

WRITES = ("insert", "update", "re-parent", "new author", "delete")


@pytest.mark.parametrize("flips_first", [True, False], ids=["flip first", "write first"])
@pytest.mark.parametrize("write", WRITES)
async def test_an_author_is_verified_while_a_comment_is_written(board: Board, write: str, flips_first: bool) -> None:
    comment = await board.comment(author=board.ann, score=4)

    async def act() -> None:
        match write:
            case "insert":
                await board.comment(author=board.ann, score=6)
            case "update":
                await board.store.update(Comment, comment.id, score=0)
            case "re-parent":
                await board.store.update(Comment, comment.id, post=board.second)
            case "new author":
                await board.store.update(Comment, comment.id, author=board.bob)
            case _:
                await board.store.delete(Comment, comment.id)

    async def flip() -> None:
        await board.store.update(User, board.ann.id, verified=True, name="Ann", weight=9)

    calls = [flip, act] if flips_first else [act, flip]
    first = board.start("first", calls[0], before(END))
    await first.stopped()
    second = board.start("second", calls[1])
    await board.stage.waits(second)
    await first.goes_on()
    await second.goes_on()
    await board.assert_true()
    for found in await board.store.find(Comment):
        copies = await board.store.count(Copy, Copy.fan)
        assert copies == await board.store.count(Comment, Comment.author.verified), found


# --- Extremes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", [1, 49, 50, 51])
@pytest.mark.parametrize("inserts_first", [True, False], ids=["insert first", "removal first"])
async def test_the_extremum_goes_while_another_comes(board: Board, score: int, inserts_first: bool) -> None:
    await board.comment(score=10)
    best = await board.comment(score=50)

    async def insert() -> None:
        await board.comment(score=score)

    async def remove() -> None:
        await board.store.delete(Comment, best.id)

    calls = [insert, remove] if inserts_first else [remove, insert]
    first = board.start("first", calls[0], before(END))
    await first.stopped()
    second = board.start("second", calls[1])
    await board.stage.waits(second)
    await first.goes_on()
    await second.goes_on()
    post = await board.post(board.first)
    assert (post.best, post.worst) == (max(10, score), min(10, score))
    assert (await board.store.globals(Site)).best == max(10, score)
    await board.assert_true()


async def test_both_extremes_go_at_once(board: Board) -> None:
    low, _, high = [await board.comment(score=score) for score in (1, 5, 9)]
    first = board.start("low", lambda: board.store.delete(Comment, low.id), before(END))
    await first.stopped()
    second = board.start("high", lambda: board.store.delete(Comment, high.id))
    await board.stage.waits(second)
    await first.goes_on()
    await second.goes_on()
    post = await board.post(board.first)
    assert (post.best, post.worst, post.comment_count) == (5, 5, 1)
    await board.assert_true()


# --- Links ------------------------------------------------------------------------------------------------------------


async def test_one_pair_is_linked_by_two_at_once(board: Board) -> None:
    async def link() -> None:
        await board.store.link(Post.tags, board.first, board.tag)

    first = board.start("first", link, before(END))
    await first.stopped()
    second = board.start("second", link)
    await board.stage.waits(second)
    await first.goes_on()
    await second.goes_on()
    assert (await board.post(board.first)).tag_count == 1
    assert (await board.store.get(Tag, board.tag.id)).post_count == 1
    await board.assert_true()


async def test_one_pair_is_linked_again_by_a_transaction_of_several_writes(board: Board) -> None:
    async def link() -> None:
        async with board.store.transaction():
            await board.store.create(Tag(name="other"))
            await board.store.link(Post.tags, board.first, board.tag)

    first = board.start("first", lambda: board.store.link(Post.tags, board.first, board.tag), before(END))
    await first.stopped()
    second = board.start("second", link)
    await board.stage.waits(second)
    await first.goes_on()
    await second.goes_on()
    assert (await board.post(board.first)).tag_count == 1
    assert await board.store.count(Tag) == 2
    await board.assert_true()


async def test_one_pair_is_unlinked_by_two_at_once(board: Board) -> None:
    await board.store.link(Post.tags, board.first, board.tag)

    async def unlink() -> None:
        await board.store.unlink(Post.tags, board.first, board.tag)

    first = board.start("first", unlink, before(END))
    await first.stopped()
    second = board.start("second", unlink)
    await board.stage.waits(second)
    await first.goes_on()
    with pytest.raises(NotFound):
        await second.goes_on()
    assert (await board.post(board.first)).tag_count == 0
    await board.assert_true()


async def test_a_link_is_made_while_the_post_gets_a_comment(board: Board) -> None:
    """The tag sums what its posts count: either side must see the other."""
    link = board.start("link", lambda: board.store.link(Post.tags, board.first, board.tag), before(END))
    await link.stopped()
    comment = board.start("comment", board.comment)
    await board.stage.waits(comment)
    await link.goes_on()
    await comment.goes_on()
    assert (await board.store.get(Tag, board.tag.id)).comment_total == 1
    await board.assert_true()


# --- Deletion ---------------------------------------------------------------------------------------------------------


async def test_a_post_is_deleted_with_the_comment_that_was_being_inserted(board: Board) -> None:
    insert = board.start("insert", board.comment, before(END))
    await insert.stopped()
    removal = board.start("delete", lambda: board.store.delete(Post, board.first.id))
    await board.stage.waits(removal)
    await insert.goes_on()
    await removal.goes_on()
    assert await board.store.count(Comment) == 0
    await board.assert_true()


async def test_a_comment_finds_its_post_gone(board: Board) -> None:
    removal = board.start("delete", lambda: board.store.delete(Post, board.first.id), before(END))
    await removal.stopped()
    insert = board.start("insert", board.comment)
    await board.stage.waits(insert)
    await removal.goes_on()
    with pytest.raises(ConstraintViolated) as raised:
        await insert.goes_on()
    assert raised.value.code == "reference"
    assert (await board.store.globals(Site)).comment_count == 0
    await board.assert_true()


async def test_a_comment_leaves_a_post_that_is_being_deleted(board: Board) -> None:
    comment = await board.comment()
    leaves = board.start(
        "re-parent", lambda: board.store.update(Comment, comment.id, post=board.second), after("comment.update")
    )
    await leaves.stopped()
    removal = board.start("delete", lambda: board.store.delete(Post, board.first.id))
    await board.stage.waits(removal)
    await leaves.goes_on()
    await removal.goes_on()
    assert (await board.post(board.second)).comment_count == 1
    assert await board.store.count(Post) == 1
    await board.assert_true()


# --- Bulk writes ------------------------------------------------------------------------------------------------------


async def test_a_bulk_update_judges_rows_as_they_are_when_it_has_them(board: Board) -> None:
    stays, goes = await board.comment(score=1), await board.comment(score=1)
    change = board.start("score 9", lambda: board.store.update(Comment, goes.id, score=9), before(END))
    await change.stopped()
    bulk = board.start("bulk", lambda: board.store.update_many(Comment, Comment.score == 1, text="one"))
    await board.stage.waits(bulk)
    await change.goes_on()
    assert await bulk.goes_on() == 1
    texts = {comment.id: comment.text for comment in await board.store.find(Comment)}
    assert texts == {stays.id: "one", goes.id: ""}
    await board.assert_true()


async def test_a_bulk_update_leaves_alone_what_came_to_match_after_it_chose(board: Board) -> None:
    """What came later may be changing again: only rows that were locked, and then still matched, are written."""
    update = board.store.update
    matching, other = [await board.store.create(Line(channel="a", number=number)) for number in (1, 5)]
    holds = board.start("hold", lambda: update(Line, matching.id, channel="b"), before(END))
    await holds.stopped()
    bulk = board.start("bulk", lambda: board.store.update_many(Line, Line.number == 1, channel="c"))
    await board.stage.waits(bulk)
    await update(Line, other.id, number=1)
    leaves = board.start("leave", lambda: update(Line, other.id, number=2), before(END))
    await leaves.stopped()
    await holds.goes_on()
    assert await bulk.goes_on() == 1
    await leaves.goes_on()
    found = {line.id: (line.channel, line.number) for line in await board.store.find(Line)}
    assert found == {matching.id: ("c", 1), other.id: ("a", 2)}


# --- Events -----------------------------------------------------------------------------------------------------------


async def test_a_machine_is_moved_by_two_events_at_once(board: Board) -> None:
    order = await board.store.create(Order())
    dispatch = board.run.controller.dispatch
    pay = board.start("pay", lambda: dispatch(Pay(order=order), user=board.ann), before(END))
    await pay.stopped()
    cancel = board.start("cancel", lambda: dispatch(Cancel(order=order), user=board.bob))
    await board.stage.waits(cancel)
    await pay.goes_on()
    await cancel.goes_on()
    assert (await board.store.get(Order, order.id)).status == "refunded"
    assert (await board.store.globals(Site)).paid == 0
    await board.assert_true()


async def test_records_of_several_types_are_created_again_after_a_deadlock(board: Board) -> None:
    cara = await board.store.create(User(name="cara"))

    async def change_both() -> None:
        await board.store.update(User, cara.id, name="Cara")
        await board.store.update(Post, board.first.id, title="another")

    change = board.start("change", lambda: board.store.run(change_both), before(r"post\..*"))
    await change.stopped()
    made = [Comment(post=board.first, author=board.bob), Post(title="hers", author=cara)]
    creation = board.start("creation", lambda: board.store.create_many(made))
    await board.stage.waits(creation)
    await change.goes_on()
    comment, post = await creation.goes_on()
    assert change.attempts + creation.attempts == 3
    assert (await board.store.get(Comment, comment.id)).byline == "bob on another"
    assert (await board.store.get(User, cara.id)).post_count == 1
    assert post.author.id == cara.id
    await board.assert_true()


async def test_one_key_from_two_dispatches_at_once_is_one_event(board: Board) -> None:
    order = await board.store.create(Order())

    async def pay() -> object:
        return await board.run.controller.dispatch(Pay(order=order, amount=3), user=board.ann, idempotency_key="k")

    first = board.start("first", pay, before(END))
    await first.stopped()
    second = board.start("second", pay)
    await board.stage.waits(second)
    result, repeated = await first.goes_on(), await second.goes_on()
    assert (result.replayed, repeated.replayed) == (False, True)
    assert repeated.event.id == result.event.id
    assert repeated.changes == ()
    assert await board.store.count("Pay") == 1
    await board.assert_true()


async def test_one_key_with_another_payload_at_once_is_refused(board: Board) -> None:
    order = await board.store.create(Order())
    dispatch = board.run.controller.dispatch
    first = board.start(
        "first", lambda: dispatch(Pay(order=order, amount=3), user=board.ann, idempotency_key="k"), before(END)
    )
    await first.stopped()
    second = board.start("second", lambda: dispatch(Pay(order=order, amount=4), user=board.ann, idempotency_key="k"))
    await board.stage.waits(second)
    await first.goes_on()
    with pytest.raises(Rejected) as raised:
        await second.goes_on()
    assert raised.value.code == "idempotency_mismatch"
    assert await board.store.count("Pay") == 1


async def test_a_key_whose_first_dispatch_fails_is_free_for_the_second(board: Board) -> None:
    order = await board.store.create(Order())
    dispatch = board.run.controller.dispatch

    async def fails() -> None:
        async with board.store.transaction():
            await dispatch(Pay(order=order, amount=1), user=board.ann, idempotency_key="k")
            raise RuntimeError("the caller changed its mind")

    first = board.start("first", fails, before("ensue_idempotency.fill"))
    await first.stopped()
    second = board.start("second", lambda: dispatch(Pay(order=order, amount=2), user=board.ann, idempotency_key="k"))
    await board.stage.waits(second)
    with pytest.raises(RuntimeError, match="changed its mind"):
        await first.goes_on()
    assert (await second.goes_on()).replayed is False
    assert await board.store.count("Pay") == 1
