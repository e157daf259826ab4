"""The operations that are measured, on each side: inputs prepared before, then one call per input."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from benchmarks import blog
from benchmarks.sides import Side, timestamp

Operate = Callable[[Side, Any], Awaitable[object]]
Prepare = Callable[[Side, int], Awaitable[list[Any]]]


@dataclass(frozen=True, slots=True)
class Duty:
    """One workload by each way of doing it; what is None can't be done so."""

    prepare: Prepare
    store: Operate | None
    hand_store: Operate | None
    dispatch: Operate | None = None
    hand_dispatch: Operate | None = None
    once_store: Operate | None = None
    once_dispatch: Operate | None = None


# --- W1, W8, W9, W10: a comment ---------------------------------------------------------------------------------------


async def comment_inputs(side: Side, count: int) -> list[tuple[int, int, int]]:
    """(post, author, score)"""
    choice, score = side.random.choice, side.random.randrange
    return [(choice(side.posts), choice(side.users), score(10)) for _ in range(count)]


async def comment_store(side: Side, item: tuple[int, int, int]) -> object:
    post, author, score = item
    return await side.store.create(
        blog.Comment(text="a comment", score=score, post=blog.Post.ref(post), author=blog.User.ref(author))
    )


async def comment_hand(side: Side, item: tuple[int, int, int]) -> object:
    post, author, score = item
    return await side.driver.write(side.hand.comment(post, author, text="a comment", score=score, at=timestamp()))


async def comment_dispatch(side: Side, item: tuple[int, int, int]) -> object:
    post, author, score = item
    return await side.controller.dispatch(
        blog.AddComment(post=blog.Post.ref(post), text="a comment", score=score), user=blog.User.ref(author)
    )


async def comment_hand_dispatch(side: Side, item: tuple[int, int, int]) -> object:
    post, author, score = item
    return await side.driver.write(side.hand.add_comment(post, author, text="a comment", score=score, at=timestamp()))


async def comment_once(side: Side, item: tuple[int, int, int]) -> object:
    post, author, score = item
    (id_,) = await _ids(side, "comment")
    return await side.driver.read(
        side.hand.comment_at_once(id_, post, author, text="a comment", score=score, at=timestamp())
    )


async def comment_once_dispatch(side: Side, item: tuple[int, int, int]) -> object:
    post, author, score = item
    ids = (*await _ids(side, "comment"), *await _ids(side, "ensue_event_add_comment"))
    return await side.driver.read(
        side.hand.add_comment_at_once((ids[0], ids[1]), post, author, text="a comment", score=score, at=timestamp())
    )


async def comment_effect_hand(side: Side, item: tuple[int, int, int]) -> object:
    post, author, score = item
    return await side.driver.write(
        side.hand.comment_with_effect(post, author, text="a comment", score=score, at=timestamp())
    )


async def _ids(side: Side, table: str) -> list[int]:
    """An id from a block; a sequence steps outside of transactions, so only one in 64 costs a round trip."""
    if side.hand.free.get(table):
        block = side.hand.free[table].pop(0)
        if len(block) > 1:
            side.hand.free[table].insert(0, block[1:])
        return [block[0]]
    return await side.driver.read(side.hand.ids(table, 1))


# --- W2: a like -------------------------------------------------------------------------------------------------------


async def like_inputs(side: Side, count: int) -> list[tuple[int, int]]:
    """(user, post), each pair once"""
    turns = [side.turn("like") for _ in range(count)]
    width = len(side.users)
    return [(side.users[n % width], side.posts[(n // width + n) % len(side.posts)]) for n in turns]


async def like_store(side: Side, item: tuple[int, int]) -> object:
    user, post = item
    return await side.store.create(blog.Like(user=blog.User.ref(user), post=blog.Post.ref(post)))


async def like_hand(side: Side, item: tuple[int, int]) -> object:
    return await side.driver.write(side.hand.like(*item, timestamp()))


async def like_dispatch(side: Side, item: tuple[int, int]) -> object:
    user, post = item
    return await side.controller.dispatch(blog.LikePost(post=blog.Post.ref(post)), user=blog.User.ref(user))


async def like_hand_dispatch(side: Side, item: tuple[int, int]) -> object:
    return await side.driver.write(side.hand.like_post(*item, timestamp()))


async def like_once(side: Side, item: tuple[int, int]) -> object:
    (id_,) = await _ids(side, "like")
    return await side.driver.read(side.hand.like_at_once(id_, *item, timestamp()))


# --- W3: a score ------------------------------------------------------------------------------------------------------


async def score_inputs(side: Side, count: int) -> list[tuple[int, int, int]]:
    """(comment, new score, user): each comment once, better or worse than before"""
    ids = await side.comments(count)
    return [(id_, side.random.randrange(20), side.random.choice(side.users)) for id_ in ids]


async def score_store(side: Side, item: tuple[int, int, int]) -> object:
    return await side.store.update(blog.Comment, item[0], score=item[1])


async def score_hand(side: Side, item: tuple[int, int, int]) -> object:
    return await side.driver.write(side.hand.rescore(item[0], item[1]))


async def score_dispatch(side: Side, item: tuple[int, int, int]) -> object:
    comment, score, user = item
    return await side.controller.dispatch(
        blog.ScoreComment(comment=blog.Comment.ref(comment), score=score), user=blog.User.ref(user)
    )


async def score_hand_dispatch(side: Side, item: tuple[int, int, int]) -> object:
    return await side.driver.write(side.hand.score_comment(*item, timestamp()))


# --- W4: a deletion ---------------------------------------------------------------------------------------------------


async def delete_inputs(side: Side, count: int) -> list[int]:
    return await side.comments(count)


async def delete_store(side: Side, item: int) -> object:
    return await side.store.delete(blog.Comment, item)


async def delete_hand(side: Side, item: int) -> object:
    return await side.driver.write(side.hand.delete_comment(item))


# --- W5: an order -----------------------------------------------------------------------------------------------------


async def order_inputs(side: Side, count: int) -> list[tuple[int, str, int]]:
    """(order, kind, user): every order is paid, then every order refunded, and so on; each moves."""
    turns = [side.turn("order") for _ in range(count)]
    width = len(side.orders)
    return [
        (side.orders[n % width], ("paid", "refunded")[n // width % 2], side.random.choice(side.users)) for n in turns
    ]


async def order_store(side: Side, item: tuple[int, str, int]) -> object:
    return await side.store.create(blog.PaymentEvent(kind=item[1], order=blog.Order.ref(item[0])))


async def order_hand(side: Side, item: tuple[int, str, int]) -> object:
    return await side.driver.write(side.hand.payment(item[0], item[1]))


async def order_dispatch(side: Side, item: tuple[int, str, int]) -> object:
    order, kind, user = item
    interaction = blog.PayOrder if kind == "paid" else blog.RefundOrder
    return await side.controller.dispatch(interaction(order=blog.Order.ref(order)), user=blog.User.ref(user))


async def order_hand_dispatch(side: Side, item: tuple[int, str, int]) -> object:
    return await side.driver.write(side.hand.pay_order(*item, timestamp()))


async def order_once(side: Side, item: tuple[int, str, int]) -> object:
    (id_,) = await _ids(side, "payment_event")
    return await side.driver.read(side.hand.payment_at_once(id_, item[0], item[1]))


# --- W6 and W7 --------------------------------------------------------------------------------------------------------


def bulk_inputs(rows: int) -> Prepare:
    """Inputs for W6: `rows` comments a call, as records for ensue and as tuples for hand-written SQL."""

    async def prepare(side: Side, count: int) -> list[Any]:
        at = timestamp()
        return [[_bulk_row(side, n, at) for n in range(rows)] for _ in range(count)]

    return prepare


def _bulk_row(side: Side, n: int, at: datetime) -> tuple[str, int, datetime, int, int]:
    choice = side.random.choice
    return (f"comment {n}", side.random.randrange(10), at, choice(side.posts), choice(side.users))


def bulk_records(rows: int) -> Prepare:
    """The same as records."""

    async def prepare(side: Side, count: int) -> list[Any]:
        calls = await bulk_inputs(rows)(side, count)
        return [
            [
                blog.Comment(text=text, score=score, at=at, post=blog.Post.ref(post), author=blog.User.ref(author))
                for text, score, at, post, author in call
            ]
            for call in calls
        ]

    return prepare


async def bulk_store(side: Side, item: list[Any]) -> object:
    return await side.store.create_many(item)


async def bulk_hand(side: Side, item: list[Any]) -> object:
    return await side.driver.write(side.hand.comment_many(item))


async def page_inputs(side: Side, count: int) -> list[None]:
    del side
    return [None] * count


async def page_store(side: Side, item: None) -> object:
    del item
    return await side.store.find(
        blog.Post,
        fields=[
            blog.Post.title,
            blog.Post.author.fields(blog.User.name),
            blog.Post.comments.fields(blog.Comment.text, order_by=[blog.Comment.at.desc()], limit=3),
        ],
        order_by=[blog.Post.id.desc()],
        limit=20,
    )


async def page_hand(side: Side, item: None) -> object:
    del item
    return await side.driver.read(side.hand.page())


DUTIES = {
    "W1": Duty(
        comment_inputs,
        comment_store,
        comment_hand,
        comment_dispatch,
        comment_hand_dispatch,
        comment_once,
        comment_once_dispatch,
    ),
    "W2": Duty(like_inputs, like_store, like_hand, like_dispatch, like_hand_dispatch, like_once),
    "W3": Duty(score_inputs, score_store, score_hand),
    "W4": Duty(delete_inputs, delete_store, delete_hand),
    "W5": Duty(order_inputs, order_store, order_hand, order_dispatch, order_hand_dispatch, order_once),
}
SCORED = Duty(score_inputs, None, None, score_dispatch, score_hand_dispatch)
"""W3 by dispatch, in the app in which a machine holds the score."""
