"""The app of the concurrency tests: every kind of delta on one small model, with paths of two steps and a state machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ensue import (
    App,
    Computed,
    Count,
    Effect,
    Entity,
    Globals,
    Integration,
    Interaction,
    Many,
    Max,
    Min,
    One,
    Property,
    Ref,
    StateMachine,
    Sum,
    Through,
    Transform,
    Transition,
    side_effect,
)
from ensue.engine.audit import audit, format_report


class User(Entity):
    name: Property[str]
    verified: Property[bool] = Property(default=False)
    weight: Property[int] = Property(default=1)
    posts = Many(lambda: Post, inverse="author")
    received = Through(posts, lambda p: p.comments)
    post_count = Count(posts)
    comments_received = Sum(posts, lambda p: p.comment_count)
    score_received = Sum(received, lambda c: c.score)


class Post(Entity):
    title: Property[str]
    author: One[User]
    comments = Many(lambda: Comment, inverse="post")
    tags = Many(lambda: Tag, inverse="posts")
    comment_count = Count(comments)
    total = Sum(comments, lambda c: c.score)
    weighted = Sum(comments, lambda c: c.score * c.author.weight)
    trusted = Count(comments, where=lambda c: c.author.verified & (c.score > 0))
    home = Count(comments, where=lambda c: c.post.author.verified)
    best = Max(comments, lambda c: c.score)
    worst = Min(comments, lambda c: c.score)
    tag_count = Count(tags)


class Comment(Entity):
    text: Property[str] = Property(default="")
    score: Property[int] = Property(default=0)
    post: One[Post] = One(on_delete="cascade")
    author: One[User] = One(on_delete="cascade")
    byline = Computed[str](lambda c: c.author.name + " on " + c.post.title)


class Copy(Entity, derived=Transform(lambda: Comment, lambda c: {"text": c.text, "fan": c.author.verified})):
    text: Property[str]
    fan: Property[bool]


class Tag(Entity):
    name: Property[str]
    posts = Many(lambda: Post, inverse="tags")
    post_count = Count(posts)
    comment_total = Sum(posts, lambda p: p.comment_count)


class Pay(Interaction):
    order: Ref[Order]
    amount: int = 0


class Cancel(Interaction):
    order: Ref[Order]


class Order(Entity):
    number: Property[int] = Property(default=0)
    status = StateMachine(
        initial="pending",
        transitions=[
            Transition("pending", "paid", on=Pay, record=lambda e: e.order),
            Transition("pending", "cancelled", on=Cancel, record=lambda e: e.order),
            Transition("paid", "refunded", on=Cancel, record=lambda e: e.order),
        ],
    )


class Site(Globals):
    comment_count = Count(lambda: Comment)
    score = Sum(lambda: Comment, lambda c: c.score)
    best = Max(lambda: Comment, lambda c: c.score)
    paid = Count(lambda: Order, where=lambda o: o.status == "paid")


class Line(Entity):
    """What is sent in order, by channel."""

    channel: Property[str]
    number: Property[int] = Property(default=0)


class Mouthpiece(Integration):
    """Never delivers by itself: the tests read its effects in the table."""

    @side_effect(Line, on="create", order_by=lambda line: line.channel)
    async def say(self, effect: Effect[Line]) -> None:
        raise AssertionError(f"not delivered in these tests: {effect.key}")


def make_app(database: str) -> App:
    """The app; two of them on one database are two processes as far as the framework can tell."""
    return App(
        user=User,
        entities=[User, Post, Comment, Copy, Tag, Order, Line],
        interactions=[Pay, Cancel],
        globals=[Site],
        integrations={"mouth": Mouthpiece()},
        database=database,
    )


@asynccontextmanager
async def running(database: str) -> AsyncIterator[Any]:
    """A run of the app that delivers nothing."""
    async with make_app(database).run(deliver=False) as run:
        yield run


async def assert_true(run: Any) -> None:
    """Everything derived equals its definition, computed from scratch by the database."""
    report = await audit(run.controller.engine)
    assert report.clean, format_report(report)
