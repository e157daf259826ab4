"""Dispatches that share a transaction: each is as if it was alone, whatever the others do."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest

from ensue import (
    App,
    Average,
    Computed,
    Count,
    Effect,
    Entity,
    Globals,
    Integration,
    Interaction,
    Many,
    Max,
    One,
    Property,
    Ref,
    Rejected,
    Relation,
    StateMachine,
    Sum,
    Transform,
    Transition,
    side_effect,
)
from ensue.engine.callbacks import current
from ensue.store.statement import Run, Statement, Work
from tests.concurrency.board import assert_true

caller: ContextVar[str] = ContextVar("caller", default="nobody")


class User(Entity):
    name: Property[str]
    posts = Many(lambda: Post, inverse="author")
    score = Sum(posts, lambda p: p.points)


class Post(Entity):
    author: One[User]
    comments = Many(lambda: Comment, inverse="post")
    votes = Many(lambda: Vote, inverse="post")
    comment_count = Count(comments)
    points = Sum(comments, lambda c: c.points)
    mean = Average(comments, lambda c: c.points)
    best = Max(comments, lambda c: c.points)
    vote_count = Count(votes)
    heading = Computed[str](lambda p: "by " + p.author.name)


class Say(Interaction):
    post: Ref[Post]
    points: int


class Vouch(Interaction):
    post: Ref[Post]


class Slow(Interaction):
    post: Ref[Post]


def _said(event: Any) -> dict[str, Any]:
    if event.points < 0:
        raise Rejected("negative", "Points are not negative.")
    return {"points": event.points, "post": event.post, "author": event.user, "caller": caller.get()}


async def _slowly(event: Any) -> dict[str, Any]:
    await asyncio.sleep(0)
    return {"points": 1, "post": event.post, "author": event.user, "caller": "slow"}


class Comment(Entity, derived=Transform(Say, _said)):
    points: Property[int]
    caller: Property[str]
    post: One[Post]
    author: One[User]


class Note(Entity, derived=Transform(Slow, _slowly)):
    points: Property[int]
    caller: Property[str]
    post: One[Post]
    author: One[User]


class Vote(Relation, derived=Transform(Vouch, lambda e: {"user": e.user, "post": e.post})):
    user: One[User]
    post: One[Post]


class Toggle(Interaction):
    door: Ref[Door]


class Door(Entity):
    side = StateMachine(
        initial="shut",
        transitions=[
            Transition("shut", "open", on=Toggle, record=lambda e: e.door),
            Transition("open", "shut", on=Toggle, record=lambda e: e.door),
        ],
    )


class Site(Globals):
    comments = Count(lambda: Comment)
    points = Sum(lambda: Comment, lambda c: c.points)
    best = Max(lambda: Comment, lambda c: c.points)


class Wire(Integration):
    @side_effect(Comment, on="create", order_by=lambda c: c.post.id)
    async def send(self, effect: Effect[Comment]) -> None:
        del effect


@asynccontextmanager
async def world(url: str, *, posts: int = 4, **options: Any) -> AsyncIterator[Any]:
    """A run with a few users, posts and doors (ids 1, 2, …), and a count of its transactions."""
    app = App(
        user=User,
        entities=[User, Post, Comment, Note, Vote, Door],
        interactions=[Say, Vouch, Toggle, Slow],
        globals=[Site],
        database=f"{url}{'&' if '?' in url else '?'}pool=12" if url.startswith("postgres") else url,
        **options,
    )
    async with app.run(deliver=False) as run:
        store = run.controller.store
        users = await store.create_many([User(id=n + 1, name=f"u{n}") for n in range(6)])
        await store.create_many([Post(id=n + 1, author=users[n % 6]) for n in range(posts)])
        await store.create_many([Door(id=n + 1) for n in range(2)])
        run.begun = Counter()
        run.driver.observers.append(lambda statement, count: run.begun.update([statement.name]))
        yield run
        await assert_true(run)


def say(run: Any, post: int, user: int, points: int = 1) -> Any:
    return run.controller.dispatch(Say(post=Post.ref(post), points=points), user=User.ref(user))


def assert_chained(results: list[Any]) -> None:
    """Every change begins where another ended, so that they are one after the other, none seen twice or half."""
    steps: dict[tuple[str, int], list[tuple[Any, Any]]] = defaultdict(list)
    for result in results:
        for change in result.changes:
            if change.type == "update":
                before, after = (_state(image) for image in (change.old_record, change.record))
                steps[change.record_name, change.record.id].append((before, after))
    assert steps
    for found in steps.values():
        starts, ends = Counter(before for before, _ in found), Counter(after for _, after in found)
        assert sum((starts - ends).values()) <= 1, found
        assert sum((ends - starts).values()) <= 1, found


def _state(record: Any) -> tuple[Any, ...]:
    if isinstance(record, Post):
        return (record.comment_count, record.points, record.mean, record.best, record.vote_count)
    return (record.score,) if isinstance(record, User) else (record.side,)


async def test_each_has_the_changes_that_are_its_own(database_url: str) -> None:
    async with world(database_url) as run:
        calls = [say(run, n % 4 + 1, n % 6 + 1, n) for n in range(80)]
        results = await asyncio.gather(*calls)
        assert run.begun["begin"] < 40
        for n, result in enumerate(results):
            assert result.event.points == n
            (made,) = [change.record for change in result.changes if change.record_name == "Comment"]
            assert (made.points, made.post.id) == (n, n % 4 + 1)
            assert {change.record_name for change in result.changes} <= {"Comment", "Post", "User"}
        assert_chained(results)
        site = await run.controller.store.globals(Site)
        assert (site.comments, site.points, site.best) == (80, sum(range(80)), 79)


async def test_all_on_one_record(database_url: str) -> None:
    async with world(database_url) as run:
        results = await asyncio.gather(*(say(run, 1, n % 6 + 1, n) for n in range(40)))
        assert run.begun["begin"] < 20
        assert_chained(results)
        counts = [c.record.comment_count for r in results for c in r.changes if c.record_name == "Post"]
        assert sorted(counts) == list(range(1, 41))


async def test_those_who_do_wrong_fail_by_themselves(database_url: str) -> None:
    """A rejection after the event was stored, a reference to nothing, and a relation that is there already."""
    async with world(database_url, posts=9) as run:
        await run.controller.dispatch(Vouch(post=Post.ref(1)), user=User.ref(1))
        said = [say(run, n % 9 + 1, n % 6 + 1, -1 if n % 11 == 5 else n) for n in range(50)]
        lost = [say(run, 99, 1, 1) for _ in range(3)]
        vouched = [
            run.controller.dispatch(Vouch(post=Post.ref(n % 9 + 1)), user=User.ref(n // 9 + 1)) for n in range(36)
        ]
        results = await asyncio.gather(*said, *lost, *vouched, return_exceptions=True)
        codes = [getattr(result, "code", None) for result in results]
        assert [n for n, code in enumerate(codes[:50]) if code == "negative"] == [n for n in range(50) if n % 11 == 5]
        assert all("no Post with id 99" in str(result) for result in results[50:53])
        assert [(n, code) for n, code in enumerate(codes[53:]) if code] == [(0, "unique")]
        good = [result for result in results if not isinstance(result, BaseException)]
        assert_chained(good)
        assert await run.controller.store.count(Comment) == 50 - codes[:50].count("negative")


async def test_a_cancelled_one_leaves_nothing_or_everything(database_url: str) -> None:
    async with world(database_url) as run:
        tasks = [asyncio.ensure_future(say(run, n % 4 + 1, n % 6 + 1, n)) for n in range(60)]
        rng = random.Random(3)
        for _ in range(25):
            await asyncio.sleep(0.001)
            rng.choice(tasks).cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        kept = {comment.points for comment in await run.controller.store.find(Comment)}
        for n, result in enumerate(results):
            assert isinstance(result, asyncio.CancelledError) or n in kept
        assert any(isinstance(result, asyncio.CancelledError) for result in results)


async def test_who_holds_a_row_delays_only_those_who_need_it(postgres_url: str) -> None:
    async with world(postgres_url) as run:
        store = run.controller.store
        async with store.transaction():
            await store.update(Post, 1, author=User.ref(2))
            others = [asyncio.get_running_loop().create_task(_outside(say, run, n)) for n in range(24)]
            free = [task for n, task in enumerate(others) if n % 4 > 1]
            await asyncio.wait_for(asyncio.gather(*free), 20)
        await asyncio.gather(*others)
        assert await store.count(Comment) == 24


async def _outside(call: Any, run: Any, n: int) -> None:
    """In a task whose context is not that of the transaction; posts 3 and 4 have authors of their own."""
    current.set(None)
    post = n % 4 + 1
    await call(run, post, {1: 1, 2: 2, 3: 3, 4: 4}[post])


async def test_machines_move_with_each_event(database_url: str) -> None:
    async with world(database_url) as run:
        results = await asyncio.gather(
            *(run.controller.dispatch(Toggle(door=Door.ref(n % 2 + 1)), user=User.ref(n % 6 + 1)) for n in range(42))
        )
        assert all(len(result.changes) == 1 for result in results)
        assert_chained(results)
        sides = [door.side for door in await run.controller.store.find(Door)]
        assert sides == ["open", "open"]


async def test_positions_are_in_the_order_of_commits(database_url: str) -> None:
    async with world(database_url, integrations={"wire": Wire()}) as run:
        await asyncio.gather(*(say(run, n % 3 + 1, n % 6 + 1, n) for n in range(45)))
        found: dict[str, list[int]] = defaultdict(list)
        for key, position in await run.driver.read(_positions()):
            found[key].append(position)
        assert [sorted(positions) for positions in found.values()] == [list(range(1, 16))] * 3


def _positions() -> Work[list[Any]]:
    return (yield Run(Statement("positions", "SELECT order_key, position FROM ensue_effect", rows=True)))


async def test_repeats_with_a_key_are_replayed(database_url: str) -> None:
    """Each key comes three times, at the same moment: one is done, the others give its event."""
    async with world(database_url) as run:
        calls = [
            run.controller.dispatch(
                Say(post=Post.ref(n % 4 + 1), points=n), user=User.ref(n % 6 + 1), idempotency_key=f"key {n}"
            )
            for _ in range(3)
            for n in range(25)
        ]
        results = await asyncio.gather(*calls)
        for n in range(25):
            same = [result for result in results if result.event.points == n]
            assert len({result.event.id for result in same}) == 1
            assert sorted(result.replayed for result in same) == [False, True, True]
            assert all(bool(result.changes) is not result.replayed for result in same)
        assert await run.controller.store.count(Comment) == 25
        other = Say(post=Post.ref(1), points=99)
        with pytest.raises(Rejected, match="another payload"):
            await run.controller.dispatch(other, user=User.ref(1), idempotency_key="key 0")
        assert run.begun["begin"] < 50


async def test_a_function_runs_in_the_context_of_its_caller(postgres_url: str) -> None:
    async def named(run: Any, n: int) -> None:
        caller.set(f"caller {n}")
        await say(run, n % 4 + 1, n % 6 + 1, n)

    async with world(postgres_url) as run:
        await asyncio.gather(*(named(run, n) for n in range(30)))
        for comment in await run.controller.store.find(Comment):
            assert comment.caller == f"caller {comment.points}"


async def test_those_whose_functions_wait_are_not_shared(database_url: str) -> None:
    async with world(database_url) as run:
        calls = [run.controller.dispatch(Slow(post=Post.ref(n % 4 + 1)), user=User.ref(n % 6 + 1)) for n in range(30)]
        await asyncio.gather(*calls)
        assert await run.controller.store.count(Note) == 30


async def test_commits_are_told_once_for_each(database_url: str) -> None:
    async with world(database_url) as run:
        told: list[int] = []
        run.controller.on_commit(
            lambda commit: told.extend(e.record.points for e in commit.events() if e.record_name == "Comment")
        )
        await asyncio.gather(*(say(run, n % 4 + 1, n % 6 + 1, n) for n in range(40)))
        assert sorted(told) == list(range(40))


@pytest.mark.parametrize("seed", range(2))
async def test_random_mixes(database_url: str, seed: int) -> None:
    rng = random.Random(seed)
    async with world(database_url, posts=3) as one:
        results = await asyncio.gather(
            *(_random(rng, one, n) for n in range(120)),
            return_exceptions=True,
        )
        odd = [
            r for r in results if isinstance(r, BaseException) and getattr(r, "code", "") not in ("negative", "unique")
        ]
        assert not odd, odd
        assert_chained([r for r in results if not isinstance(r, BaseException)])


async def _random(rng: random.Random, run: Any, n: int) -> Any:
    post, user = rng.randint(1, 3), rng.randint(1, 6)
    kind = rng.choices(["say", "vouch", "toggle", "slow"], [6, 3, 3, 1])[0]
    await asyncio.sleep(rng.random() * 0.05)
    if kind == "say":
        return await say(run, post, user, rng.randint(-1, 12))
    if kind == "vouch":
        return await run.controller.dispatch(Vouch(post=Post.ref(post)), user=User.ref(user))
    if kind == "toggle":
        return await run.controller.dispatch(Toggle(door=Door.ref(rng.randint(1, 2))), user=User.ref(user))
    return await run.controller.dispatch(Slow(post=Post.ref(post)), user=User.ref(user))
