"""What each kind of change costs in statements, exactly and by name: the same on any machine, unlike a time.

The blog is the one of the benchmarks. Parameter tuples of a repeated statement are counted one by one. Blocks of ids are
fetched before the counting begins, so that it doesn't depend on how many ids an earlier step used.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from benchmarks import blog
from benchmarks.blog import Comment, Like, Order, PaymentEvent, Post, Site, Tag, User
from ensue import Integration
from ensue.app import App
from ensue.engine.audit import audit
from ensue.engine.controller import Controller
from ensue.engine.store import Store
from ensue.store.driver import Driver
from ensue.store.statement import Statement

AROUND = ("begin", "commit")
TAKE = "ensue_id_block.take"


@dataclass(slots=True)
class Blog:
    """A running blog: two posts with a comment each, a user who is verified and one who isn't, a tag and an order."""

    driver: Driver
    controller: Controller
    store: Store
    ann: User
    bob: User
    posts: list[Post]
    comments: list[Comment]
    tag: Tag
    order: Order

    async def statements(self, work: Awaitable[object]) -> list[str]:
        """The names of the statements that `work` runs, in order, without BEGIN and COMMIT; a repeated one as often."""
        found: list[str] = []

        def observe(statement: Statement, count: int) -> None:
            found.extend([statement.name] * count)

        self.driver.observers.append(observe)
        try:
            await work
        finally:
            self.driver.observers.remove(observe)
        return [name for name in found if name not in (*AROUND, "effect.notify")]


@asynccontextmanager
async def running(url: str, **integrations: Integration) -> AsyncGenerator[Blog]:
    async with App(**blog.PARTS, integrations=integrations, database=url).run(deliver=False) as run:
        store = run.controller.store
        ann = await store.create(User(name="ann", email="ann@blog.example", verified=True))
        bob = await store.create(User(name="bob", email="bob@blog.example"))
        posts = [await store.create(Post(title=title, author=ann)) for title in ("one", "two")]
        comments = [await store.create(Comment(text="first", post=post, author=ann)) for post in posts]
        tag = await store.create(Tag(name="news"))
        order = await store.create(Order(total=3))
        await store.create(PaymentEvent(kind="none", order=order))
        await store.create(Like(user=ann, post=posts[0]))
        await store.link(Post.tags, posts[0], tag)
        for interaction in (
            blog.AddComment(post=posts[0], text="second", score=1),
            blog.LikePost(post=posts[1]),
            blog.PayOrder(order=order),
            blog.RefundOrder(order=order),
        ):
            await run.controller.dispatch(interaction, user=bob)
        yield Blog(run.driver, run.controller, store, ann, bob, posts, comments, tag, order)
        report = await audit(run.controller.engine)
        assert report.clean, report


@pytest.fixture
async def a_blog(database_url: str) -> AsyncGenerator[Blog]:
    async with running(database_url) as found:
        yield found


def locked(a_blog: Blog, name: str) -> list[str]:
    """PostgreSQL locks several hosts in order before it updates them; SQLite has one writer."""
    return [name] if a_blog.driver.dialect == "postgresql" else []


def locked_again(a_blog: Blog, table: str) -> list[str]:
    """What a condition found is locked on PostgreSQL, and the condition asked once more of what it found."""
    return [f"{table}.read_many", f"{table}.find"] if a_blog.driver.dialect == "postgresql" else []


# --- Creating ---------------------------------------------------------------------------------------------------------


async def test_one_comment_moves_its_post_and_two_globals_in_four_statements(a_blog: Blog) -> None:
    made = Comment(text="x", score=5, post=a_blog.posts[0], author=a_blog.ann)
    assert await a_blog.statements(a_blog.store.create(made)) == [
        "comment.insert",
        "user.read_one",
        "post.derive",
        "site.derive",
    ]


async def test_ten_thousand_comments_cost_a_few_more_statements(a_blog: Blog) -> None:
    made = [Comment(text="x", score=n % 7, post=a_blog.posts[n % 2], author=a_blog.bob) for n in range(10_000)]
    found = await a_blog.statements(a_blog.store.create_many(made))
    chunks = 3 if a_blog.driver.dialect == "sqlite" else 1  # SQLite takes 32,766 parameters a statement
    assert len(found) <= 12
    assert found == [
        TAKE,
        *["comment.insert_many"] * chunks,
        "user.read_one",
        *locked(a_blog, "post.read_many"),
        "post.derive_many",
        "site.derive",
    ]


async def test_as_many_statements_for_a_hundred_as_for_ten_thousand(a_blog: Blog) -> None:
    made = [Comment(text="x", post=a_blog.posts[n % 2], author=(a_blog.ann, a_blog.bob)[n % 2]) for n in range(100)]
    found = await a_blog.statements(a_blog.store.create_many(made))
    assert [name for name in found if name != TAKE] == [
        "comment.insert_many",
        "user.read_many",
        *locked(a_blog, "post.read_many"),
        "post.derive_many",
        "site.derive",
    ]


async def test_a_like_is_an_insert_and_an_update(a_blog: Blog) -> None:
    made = Like(user=a_blog.bob, post=a_blog.posts[0])
    assert await a_blog.statements(a_blog.store.create(made)) == ["like.insert", "post.derive"]


async def test_a_record_from_which_nothing_derives_is_one_insert(a_blog: Blog) -> None:
    assert await a_blog.statements(a_blog.store.create(Order(total=1))) == ["order.insert"]


async def test_a_durable_side_effect_is_one_statement_more(database_url: str) -> None:
    async with running(database_url, publisher=blog.Publisher()) as found:
        made = Comment(text="x", post=found.posts[0], author=found.ann)
        assert await found.statements(found.store.create(made)) == [
            "comment.insert",
            "user.read_one",
            "post.derive",
            "site.derive",
            "effect.enqueue",
        ]


# --- Changing ---------------------------------------------------------------------------------------------------------


async def test_a_better_score_reads_no_host(a_blog: Blog) -> None:
    update = a_blog.store.update(Comment, a_blog.comments[0].id, score=9)
    assert await a_blog.statements(update) == [
        "comment.read_one",
        "comment.update",
        "user.read_one",
        "post.derive",
        "site.derive",
    ]


async def test_a_worse_score_reads_the_host_and_a_lost_extremum_its_edges(a_blog: Blog) -> None:
    await a_blog.store.update(Comment, a_blog.comments[0].id, score=9)
    update = a_blog.store.update(Comment, a_blog.comments[0].id, score=2)
    assert await a_blog.statements(update) == [
        "comment.read_one",
        "comment.update",
        "user.read_one",
        "post.read_one",
        "comment.reread",
        "post.derive",
        "site.derive",
    ]


async def test_an_extremum_that_stays_is_not_looked_for(a_blog: Blog) -> None:
    await a_blog.store.create(Comment(text="best", score=9, post=a_blog.posts[0], author=a_blog.ann))
    worse = await a_blog.store.create(Comment(text="worse", score=5, post=a_blog.posts[0], author=a_blog.ann))
    assert await a_blog.statements(a_blog.store.update(Comment, worse.id, score=4)) == [
        "comment.read_one",
        "comment.update",
        "user.read_one",
        "post.read_one",
        "post.derive",
        "site.derive",
    ]


async def test_what_nothing_derives_from_is_read_and_written(a_blog: Blog) -> None:
    update = a_blog.store.update(Comment, a_blog.comments[0].id, text="y")
    assert await a_blog.statements(update) == ["comment.read_one", "comment.update"]


async def test_an_update_to_the_same_value_writes_nothing(a_blog: Blog) -> None:
    update = a_blog.store.update(Comment, a_blog.comments[0].id, text="first")
    assert await a_blog.statements(update) == ["comment.read_one"]


async def test_moving_a_comment_moves_both_posts_at_once(a_blog: Blog) -> None:
    await a_blog.store.create(Comment(text="best", score=9, post=a_blog.posts[0], author=a_blog.ann))
    move = a_blog.store.update(Comment, a_blog.comments[0].id, post=a_blog.posts[1])
    assert await a_blog.statements(move) == [
        "comment.read_one",
        "comment.update",
        "user.read_one",
        "post.read_many",
        "post.derive_many",
    ]


async def test_deleting_a_comment(a_blog: Blog) -> None:
    await a_blog.store.create(Comment(text="best", score=9, post=a_blog.posts[0], author=a_blog.ann))
    assert await a_blog.statements(a_blog.store.delete(Comment, a_blog.comments[0].id)) == [
        "comment.read_one",
        "comment.delete",
        "user.read_one",
        "post.read_one",
        "post.derive",
        "site.derive",
    ]


async def test_flipping_a_crossed_reference_costs_the_same_for_any_number_of_edges(a_blog: Blog) -> None:
    made = [Comment(text="x", score=5, post=post, author=a_blog.bob) for post in a_blog.posts for _ in range(50)]
    await a_blog.store.create_many(made)
    assert await a_blog.statements(a_blog.store.update(User, a_blog.bob.id, verified=True)) == [
        "user.read_one",
        "user.update",
        "comment.across_author",
        *locked(a_blog, "post.read_many"),
        "post.derive_many",
    ]


async def test_a_name_that_many_formulas_cross_to_is_two_statements_more(a_blog: Blog) -> None:
    assert await a_blog.statements(a_blog.store.update(User, a_blog.ann.id, name="zoe")) == [
        "user.read_one",
        "user.update",
        "post.across_author",
        "post.update_many",
    ]


async def test_linking_looks_for_the_link_first(a_blog: Blog) -> None:
    link = a_blog.store.link(Post.tags, a_blog.posts[1], a_blog.tag)
    assert await a_blog.statements(link) == ["post_tags.find", "post_tags.insert"]
    again = a_blog.store.link(Post.tags, a_blog.posts[1], a_blog.tag)
    assert await a_blog.statements(again) == ["post_tags.find", *locked_again(a_blog, "post_tags")]


async def test_unlinking_finds_locks_and_deletes(a_blog: Blog) -> None:
    unlink = a_blog.store.unlink(Post.tags, a_blog.posts[0], a_blog.tag)
    assert await a_blog.statements(unlink) == [
        "post_tags.find",
        *locked_again(a_blog, "post_tags"),
        "post_tags.read_one",
        "post_tags.delete",
    ]


# --- Events -----------------------------------------------------------------------------------------------------------


async def test_an_event_that_moves_an_order(a_blog: Blog) -> None:
    event = PaymentEvent(kind="paid", order=a_blog.order)
    assert await a_blog.statements(a_blog.store.create(event)) == [
        "payment_event.insert",
        "order.read_one",
        "order.update",
    ]


async def test_dispatching_a_comment_stores_the_event_and_checks_its_references(a_blog: Blog) -> None:
    interaction = blog.AddComment(post=a_blog.posts[0], text="x", score=4)
    assert await a_blog.statements(a_blog.controller.dispatch(interaction, user=a_blog.ann)) == [
        "post.read_one",
        "user.read_one",
        "ensue_event_add_comment.insert",
        "comment.insert",
        "post.derive",
        "site.derive",
    ]


async def test_dispatching_a_like(a_blog: Blog) -> None:
    dispatch = a_blog.controller.dispatch(blog.LikePost(post=a_blog.posts[0]), user=a_blog.bob)
    assert await a_blog.statements(dispatch) == [
        "post.read_one",
        "user.read_one",
        "ensue_event_like_post.insert",
        "like.insert",
        "post.derive",
    ]


async def test_dispatching_what_moves_a_machine(a_blog: Blog) -> None:
    dispatch = a_blog.controller.dispatch(blog.PayOrder(order=a_blog.order), user=a_blog.bob)
    found = await a_blog.statements(dispatch)
    assert found[:3] == ["order.read_one", "user.read_one", "ensue_event_pay_order.insert"]
    assert found[-1] == "order.update"
    assert len(found) <= 5


# --- Reading ----------------------------------------------------------------------------------------------------------


async def test_reads_are_one_statement_however_deep(a_blog: Blog) -> None:
    store = a_blog.store
    fields: list[Any] = [
        Post.title,
        Post.author.fields(User.name),
        Post.comments.fields(Comment.text, order_by=[Comment.at.desc()], limit=3),
    ]
    page = store.find(Post, fields=fields, order_by=[Post.id.desc()], limit=20)
    assert await a_blog.statements(page) == ["post.find"]
    assert len(await a_blog.statements(store.get(Post, a_blog.posts[0].id))) == 1
    assert len(await a_blog.statements(store.find_one(Comment, Comment.post.author.name == "ann"))) == 1
    assert len(await a_blog.statements(store.count(Comment, Comment.score > 3))) == 1
    assert len(await a_blog.statements(store.globals(Site))) == 1
