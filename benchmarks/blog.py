"""The blog of the documentation, with the interactions by which its users write, and orders with a state machine.

Decides what is measured on; leaves how to `ensue_side` and `handwritten`. Invariant: creating a comment moves seven values of
its post and two globals; a like moves one value of its post.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ensue import (
    AnyOf,
    Average,
    Computed,
    Count,
    Effect,
    Entity,
    EveryOf,
    Globals,
    Integration,
    Interaction,
    Many,
    Max,
    Maybe,
    Mutation,
    One,
    Property,
    Ref,
    Relation,
    Schema,
    State,
    StateMachine,
    Sum,
    Through,
    Transform,
    Transition,
    now,
    side_effect,
)


class Post(Entity):
    title: Property[str]
    author: One[User]
    editor: Maybe[User] = Maybe(default=None)
    tags = Many(lambda: Tag, inverse="posts")
    comments = Many(lambda: Comment, inverse="post")
    likes = Many(lambda: Like, inverse="post")
    liked_by = Through(likes, lambda like: like.user)

    comment_count = Count(comments)
    approved_score = Sum(comments, lambda c: c.score, where=lambda c: c.approved)
    mean_score = Average(comments, lambda c: c.score)
    best = Max(comments, lambda c: c.score)
    flagged = AnyOf(comments, lambda c: c.flagged)
    clean = EveryOf(comments, lambda c: ~c.flagged)
    trusted_comments = Count(comments, where=lambda c: c.author.verified & (c.score > 3))
    like_count = Count(likes)
    heading = Computed[str](lambda p: p.title + " by " + p.author.name)


class User(Entity):
    name: Property[str]
    email: Property[str] = Property(unique=True)
    verified: Property[bool] = Property(default=False)
    posts = Many(lambda: Post, inverse="author")
    likes = Many(lambda: Like, inverse="user")
    post_count = Count(posts)


class Tag(Entity):
    name: Property[str]
    posts = Many(lambda: Post, inverse="tags")


class AddComment(Interaction):
    post: Ref[Post]
    text: str
    score: int = 0


class LikePost(Interaction):
    post: Ref[Post]


class ScoreComment(Interaction):
    comment: Ref[Comment]
    score: int


class Comment(
    Entity,
    derived=Transform(AddComment, lambda e: {"text": e.text, "score": e.score, "post": e.post, "author": e.user}),
):
    text: Property[str]
    score: Property[int] = Property(default=0)
    approved: Property[bool] = Property(default=False)
    flagged: Property[bool] = Property(default=False)
    at: Property[datetime] = Property(default=now)
    post: One[Post]
    author: One[User]


class Like(Relation, derived=Transform(LikePost, lambda e: {"user": e.user, "post": e.post})):
    user: One[User]
    post: One[Post]
    at: Property[datetime] = Property(default=now)


class Site(Globals):
    total_posts = Count(lambda: Post)
    total_comments = Count(lambda: Comment)
    total_score = Sum(lambda: Comment, lambda c: c.score)


class PayOrder(Interaction):
    order: Ref[Order]


class RefundOrder(Interaction):
    order: Ref[Order]


class PaymentEvent(Entity):
    kind: Property[str]
    order: One[Order]


class Order(Entity):
    total: Property[int]
    status = StateMachine(
        initial="pending",
        transitions=[
            Transition("pending", "paid", on=PayOrder, record=lambda e: e.order),
            Transition("paid", "pending", on=RefundOrder, record=lambda e: e.order),
            Transition(
                "pending",
                "paid",
                on=Mutation(PaymentEvent, "create", where=lambda e: e.kind == "paid"),
                record=lambda e: e.record.order,
            ),
            Transition(
                "paid",
                "pending",
                on=Mutation(PaymentEvent, "create", where=lambda e: e.kind == "refunded"),
                record=lambda e: e.record.order,
            ),
        ],
    )


PARTS: dict[str, Any] = {
    "user": User,
    "entities": [Post, User, Comment, Like, Tag, Order, PaymentEvent],
    "interactions": [AddComment, LikePost, ScoreComment, PayOrder, RefundOrder],
    "globals": [Site],
}
"""The arguments of `App` that declare the blog."""


class Publisher(Integration):
    """One durable side effect on each new comment, which does nothing."""

    @side_effect(Comment, on="create")
    async def publish(self, effect: Effect[Comment]) -> None:
        del effect


class Scored(Integration):
    """Lets ScoreComment move a comment's score: interactions create records and move machines, and set no columns."""

    async def configure(self, schema: Schema) -> None:
        first, scored = State("first"), State("scored", value=lambda last, event: event.score)
        schema.property(Comment, "score").computation = StateMachine(
            initial=first,
            states=[first, scored],
            transitions=[Transition("*", "scored", on=ScoreComment, record=lambda event: event.comment)],
        )
